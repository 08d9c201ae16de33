"""What the head of a job does: start the cluster, run the command, tell all hosts how it ended."""

import re
import shlex
import shutil
import signal
import time
from pathlib import Path

from launcher.host.events import Event, Outcome
from launcher.host.host import STOPPED, Host, StoppedError
from launcher.host.link import HeadLink
from launcher.host.ray_cluster import GCS_PORT, RAY_CHILD
from rayasr.errors import LaunchError

COMMAND = "the command"
_SENTENCE = "rayasr: "
"""How rayasr begins the one line that explains why it failed."""
_RAISED = re.compile(r"(?:\w+\.)*(\w+(?:Error|Exception|Interrupt|Exit))\b")
"""How Python ends a traceback; what follows may quote the data, so only the name is kept."""


def lead(host: Host) -> Outcome:
    """Lead the job to its end, and tell every other host about it."""
    process = host.process
    link = HeadLink(
        host.job.token,
        host.topology.workers,
        process.inbox.put,
        process.settings.link,
        host.address_of,
    )
    try:
        link.open(host.place.address)
        outcome = _Head(host, link).run()
    except LaunchError as error:
        outcome = Outcome(error.exit_code, f"{host.name}: {error}")
    except StoppedError:
        outcome = Outcome(STOPPED, f"{host.name}: the job was stopped before its command began")
    outcome = Outcome(outcome.code, process.log.mask(outcome.text))  # as the link is not encrypted
    link.finish(outcome)
    return outcome


class _Head:
    def __init__(self, host: Host, link: HeadLink) -> None:
        self._host = host
        self._log = host.process.log
        self._settings = host.process.settings
        self._link = link
        self._node = host.ray_node()
        self._ray_started = False
        self._connected: set[str] = set()
        self._missing = set(host.topology.workers)
        self._lost: dict[str, str] = {}  # host → reason
        self._running = False  # the command
        self._code: int | None = None  # the command's return code
        self._stop_at: float | None = None
        self._sentence = self._exception = ""

    def run(self) -> Outcome:
        """The job from boot to its result; raises LaunchError and StoppedError."""
        self._boot()
        code = self._run_command()
        if code == 0:
            self._keep_results()
            return Outcome(0)
        try:
            self._await_cause()
            reason = self._explain(code)
        except LaunchError as error:
            reason = f"{error} (the command left with {code})"
        return Outcome(code, f"{self._host.name}: {reason}")

    def _boot(self) -> None:
        """Start Ray here, let the others join, and wait until all are up."""
        process = self._host.process
        self._node.start_head()
        while self._missing or not self._ray_started:
            event = self._host.next_event(process.boot_deadline)
            if event is None:
                raise LaunchError(self._who_is_missing())
            self._handle(event)
        seconds = time.monotonic() - process.began
        self._log.write(f"all {len(self._host.topology.hosts)} hosts are up after {seconds:.1f} s")

    def _who_is_missing(self) -> str:
        within = f"within {self._settings.boot_s:g} s"
        if not self._ray_started:
            self._host.show_ray_lines(self._node)
            return f"Ray did not start on the head {within}; see its lines in the log"
        missing = [host for host in self._host.topology.hosts if host in self._missing]
        silent = [host for host in missing if host not in self._connected]
        stuck = [host for host in missing if host in self._connected]
        parts = [f"{', '.join(silent)} never called"] if silent else []
        parts += [f"Ray did not start on {', '.join(stuck)}"] if stuck else []
        return (
            f"the cluster was not complete {within}: {' and '.join(parts)}; look at the logs of "
            "those hosts, and whether the security group admits its own members"
        )

    def _run_command(self) -> int:
        """Run the verb to its end; its exit code; raises LaunchError where the cluster breaks."""
        host = self._host
        arguments = host.job.arguments_on_host(host.process.root)
        environment = {
            **host.place.environment,
            "RAY_ADDRESS": f"{host.place.address}:{GCS_PORT}",
            "RAYASR_NUM_NODES": str(len(host.topology.hosts)),
            "PYTHONUNBUFFERED": "1",
        }
        self._log.write(f"runs rayasr {shlex.join(arguments)}")
        command = [*self._settings.rayasr, *arguments]
        host.children.start(COMMAND, command, environment, self._hear_command)
        self._running = True
        try:
            while self._code is None:
                event = host.next_event(self._stop_at)
                if event is None:
                    self._log.write("the command has not left in time and is killed")
                    host.children.kill(COMMAND)
                    self._code = -signal.SIGKILL
                else:
                    self._handle(event)
        except LaunchError:
            host.children.stop(COMMAND, self._settings.lost_grace_s)
            raise
        return self._code if self._code >= 0 else 128 - self._code

    def _hear_command(self, line: str) -> None:
        self._log.write(line)
        if line.startswith(_SENTENCE):
            self._sentence = line.removeprefix(_SENTENCE)
        elif raised := _RAISED.match(line):
            self._exception = raised[1]

    def _await_cause(self) -> None:
        """Wait a moment for what may have made the command fail; raises LaunchError then."""
        deadline = time.monotonic() + self._settings.cause_s
        while self._stop_at is None and (event := self._host.next_event(deadline)) is not None:
            self._handle(event)

    def _handle(self, event: Event) -> None:
        """Take one event in; raises LaunchError, and StoppedError before the command runs."""
        match event.kind:
            case "started":
                self._ray_started = True
                self._log.write(self._node.describe())
                for host in self._connected:
                    self._link.tell(host, "join")
            case "hello":
                self._connected.add(event.host)
                if self._ray_started:
                    self._link.tell(event.host, "join")
            case "up":
                self._missing.discard(event.host)
                self._log.write(f"{event.host} is up")
            case "lost" | "down" if event.host not in self._lost:
                self._lost[event.host] = event.text
                self._lose(event.host, event.text)
            case "refused" if not self._running:
                raise LaunchError(
                    f"{event.host} was refused at {event.text}; all hosts must have the files of "
                    "one submission, submit the job again"
                )
            case "refused" | "stranger":
                self._log.write(f"refused {event.text}")
            case "stop" | "stopping":
                self._stop(event.host or self._host.name)
            case "ended" if event.text == COMMAND:
                self._code = event.code
            case "ended" if event.text == RAY_CHILD:
                self._host.show_ray_lines(self._node)
                raise LaunchError(
                    f"Ray ended on the head ({self._node.cause()}); see its lines in the log"
                )

    def _lose(self, name: str, reason: str) -> None:
        """Another host is gone; raises LaunchError where the job cannot go on without it."""
        if self._stop_at is not None:  # the command leaves anyhow
            self._log.write(f"{name} is lost: {reason}")
        elif not self._running:
            raise LaunchError(f"{name} was lost before the command began: {reason}; see its log")
        elif self._host.job.on_lost_host == "fail":
            raise LaunchError(
                f"{name} was lost: {reason}; submit the job again to go on from its last "
                "checkpoint, or let it go on without (on_lost_host: continue)"
            )
        else:
            self._log.write(f"{name} is lost: {reason}; the job goes on without it")

    def _stop(self, name: str) -> None:
        if not self._running:
            raise StoppedError
        if self._stop_at is None:
            self._log.write(f"{name} is asked to stop, so the command is")
            self._stop_at = time.monotonic() + self._settings.stop_s
            self._host.children.terminate(COMMAND)

    def _explain(self, code: int) -> str:
        """Why the job failed with the command's exit code, and what to do."""
        verb = f"`rayasr {self._host.job.command[0]}`"
        if self._stop_at is not None:
            return (
                f"the job was stopped from outside and {verb} left with {code}; submit it again to "
                "go on from its last checkpoint"
            )
        if self._sentence:
            reason = f"{verb} failed ({code}): {self._sentence}"
        elif code > 128:
            name = _signal_name(code - 128)
            hint = "was there enough memory?" if name == "SIGKILL" else "see the log"
            reason = f"{verb} was ended by {name}; {hint}"
        else:
            kind = f" by {self._exception}" if self._exception else ""
            reason = f"{verb} failed with exit code {code}{kind}; the log says more"
        if self._lost:
            lost = ", ".join(f"{host} was lost ({why})" for host, why in self._lost.items())
            reason += f"; before, {lost}"
        return reason

    def _keep_results(self) -> None:
        """Copy the run's model and exports where the service takes them; raises LaunchError."""
        root = self._host.process.root
        run = self._host.job.run_on_host(root)
        for part, place in (("model", "model"), ("export", "model/export")):
            source, target = Path(run or "", part), Path(root, place)
            if run is None or not source.is_dir():
                continue
            try:
                shutil.copytree(source, target, dirs_exist_ok=True)
            except OSError as error:
                raise LaunchError(
                    f"cannot copy {source} to {target} ({_copy_problem(error)}); the run itself "
                    f"is complete in {run}"
                ) from error
            self._log.write(f"{source} is copied to {target}")


def _copy_problem(error: OSError) -> str:
    """The first reason of a failed copy; shutil collects one per file."""
    if isinstance(error, shutil.Error):
        return str(error.args[0][0][2])
    return error.strerror or str(error)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
