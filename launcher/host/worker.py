"""What every host but the head does: be a node of the cluster until the head tells the outcome."""

import time

from launcher.host.events import Event, Outcome
from launcher.host.host import STOPPED, Host, StoppedError
from launcher.host.link import WorkerLink
from launcher.host.ray_cluster import RAY_CHILD
from rayasr.errors import LaunchError


def follow(host: Host) -> Outcome:
    """Join the cluster and stay until the job has ended; its outcome."""
    process = host.process
    link = WorkerLink(host.job.token, host.name, process.inbox.put, process.settings.link)
    head = host.topology.head
    try:
        link.connect(
            head, host.head_address, host.place.address, process.boot_deadline, process.pause
        )
        outcome = _Worker(host, link).run()
        link.tell("bye")
        return outcome
    except LaunchError as error:
        link.tell("down", str(error))
        return Outcome(error.exit_code, f"{host.name}: {error}")
    except StoppedError:
        return Outcome(STOPPED, f"{host.name}: the job was stopped before it began")
    finally:
        link.close()


class _Worker:
    def __init__(self, host: Host, link: WorkerLink) -> None:
        self._host = host
        self._log = host.process.log
        self._settings = host.process.settings
        self._link = link
        self._node = host.ray_node()
        self._deadline: float | None = host.process.boot_deadline
        self._stopping = False

    def run(self) -> Outcome:
        """From here on the head decides; raises LaunchError where it is lost."""
        while True:
            event = self._host.next_event(self._deadline)
            if event is None:
                return self._leave()
            if event.kind == "outcome":
                return Outcome(event.code, event.text)
            self._handle(event)

    def _leave(self) -> Outcome:
        """The deadline has come; raises LaunchError."""
        if self._stopping:
            return Outcome(
                STOPPED,
                f"{self._host.name}: stopped; the head did not say within "
                f"{self._settings.leave_s:g} s how the job ended",
            )
        self._host.show_ray_lines(self._node)
        raise LaunchError(
            f"this host was not in the cluster within {self._settings.boot_s:g} s; look at the log "
            f"of the head, {self._host.topology.head}"
        )

    def _handle(self, event: Event) -> None:
        match event.kind:
            case "join":
                self._node.join(self._host.head_address)
            case "started":
                self._log.write(self._node.describe())
                self._link.tell("up")
                if not self._stopping:
                    self._deadline = None  # from now on, as long as the head is heard
            case "ended" if event.text == RAY_CHILD:
                self._host.show_ray_lines(self._node)
                reason = f"Ray ended there ({self._node.cause()})"
                self._log.write(f"{reason}; the head is told, and decides")
                self._link.tell("down", reason)
            case "lost":
                raise LaunchError(
                    f"the head {self._host.topology.head} was lost: {event.text}; submit the job "
                    "again to go on from its last checkpoint"
                )
            case "stop":  # Ray stays, so that the command can save what it has
                self._log.write("asked to stop; waits for the command on the head")
                self._link.tell("stopping")
                self._stopping = True
                self._deadline = time.monotonic() + self._settings.leave_s
