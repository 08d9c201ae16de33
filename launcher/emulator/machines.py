"""How many machines the emulator has, and who has them."""

import threading


class Machines:
    """A number of machines that jobs take and give back."""

    def __init__(self, total: int, one_job_at_a_time: bool) -> None:
        self.total = total
        self._one_job_at_a_time = one_job_at_a_time
        self._free = total
        self._lock = threading.Lock()

    def take(self, count: int) -> bool:
        """Take so many; False where they are not free now."""
        with self._lock:
            if count > self._free or (self._one_job_at_a_time and self._free < self.total):
                return False
            self._free -= count
            return True

    def give_back(self, count: int) -> None:
        """Return what was taken."""
        with self._lock:
            self._free += count
