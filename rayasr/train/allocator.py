"""glibc's allocator told to keep freed memory: a fifth of a training step on the CPU."""

import ctypes
import sys

ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "2147483647",
    "MALLOC_TOP_PAD_": "67108864",
    "MALLOC_ARENA_MAX": "1",
}
"""The same for a process yet to be started, such as a Ray worker, whose threads need it too."""

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8  # glibc's malloc.h


def keep_freed_memory() -> bool:
    """Stop malloc from giving large blocks back to the system after each use; False if it cannot.

    A step frees and allocates the same hundreds of megabytes over and over; by default each large
    tensor is a fresh mapping whose pages the kernel has to clear again.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl has no mallopt
        return False
    settings = (
        (_M_MMAP_MAX, 0),
        (_M_TRIM_THRESHOLD, 2**31 - 1),
        (_M_TOP_PAD, 2**26),
        (_M_ARENA_MAX, 1),
    )
    taken: int = sum(mallopt(option, value) for option, value in settings)
    return taken == len(settings)
