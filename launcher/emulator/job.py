"""A training job from Create to its end, in a thread of its own."""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

from launcher import contract
from launcher.cloud_spec import DAY_S
from launcher.contract import FileSystem, Host, TransferError
from launcher.emulator.attempt import Attempt, Cause, Conditions, Event, StopAsked
from launcher.emulator.checkpoints import CheckpointMirror
from launcher.emulator.containers import Runner, Task
from launcher.emulator.faults import Faults
from launcher.emulator.logs import LogStore, LogStream
from launcher.emulator.machines import Machines
from launcher.emulator.objects import ObjectStore
from launcher.emulator.record import JobRecord
from launcher.emulator.staging import stage_inputs, upload_results
from rayasr.errors import LaunchError

NO_CAPACITY = (
    "CapacityError: Unable to provision requested ML compute capacity. Please retry using a "
    "different ML instance type or after some time."
)


@dataclass(frozen=True)
class Site:
    """What all jobs of an emulator share."""

    runner: Runner
    machines: Machines
    objects: Callable[[str], ObjectStore]  # of a region
    logs: LogStore
    faults: Faults
    file_systems: Mapping[str, FileSystem]
    folder: Path
    grace_s: float
    mirror_every_s: float
    note: Callable[[str], None]


@dataclass(frozen=True)
class Ending:
    """How a job ends: its last secondary status, and why it failed."""

    secondary: str
    reason: str | None = None


class Job:
    """Takes a job through its states, once started."""

    def __init__(self, record: JobRecord, site: Site, number: int) -> None:
        self.record = record
        self._site = site
        self._number = number  # of all jobs of the emulator: makes names of its own
        self._hosts: tuple[Host, ...] = ()
        self._num_hosts = contract.num_hosts(record.request)
        self._attempts = 0
        self._streams: dict[str, LogStream] = {}
        self._epoch = 0
        self._limit_status = ""  # at which the job ends when the current attempt's time is up
        self._events: Queue[Event] = Queue()
        self._stop_asked = threading.Event()
        self._abandoned = False
        self._thread = threading.Thread(target=self._live, name=record.name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """As StopTrainingJob does."""
        self._stop_asked.set()
        self._events.put(StopAsked())

    def abandon(self) -> None:
        """End its hosts at once, because the emulator ends, and wait for that."""
        self._abandoned = True
        self._stop_asked.set()
        self._events.put(StopAsked(at_once=True))
        self._thread.join()

    def line(self, host: str, text: str) -> None:
        """Keep a line of a host."""
        self._streams[host].append(text)

    def taken_away(self, cause: Cause) -> None:
        """Show why the hosts are asked to leave."""
        self._enter("Interrupted" if cause == "spot" else "Stopping")

    def note(self, text: str) -> None:
        """Tell the person who runs the emulator."""
        self._site.note(f"{self.record.name}: {text}")

    def _live(self) -> None:
        try:
            ending = self._run()
        except Exception as error:
            logging.getLogger(__name__).exception("job %s: the emulator failed", self.record.name)
            ending = Ending("Failed", f"InternalServerError: {error}")
        self._enter(ending.secondary, ending.reason)

    def _run(self) -> Ending:
        """Attempts on machines until one ends otherwise than by losing them."""
        self.note("Starting")
        while True:
            ending = self._get_machines()
            if ending is not None:
                return ending
            try:
                ending = self._attempt()
            finally:
                self._site.machines.give_back(self._num_hosts)
            if ending is not None:
                return ending
            self._enter("Starting")

    def _get_machines(self) -> Ending | None:
        """Wait for machines; an ending where there will be none."""
        names = [f"algo-{number}" for number in range(1, self._num_hosts + 1)]
        machines = self._site.machines
        if self._num_hosts > machines.total or self._site.faults.at_start("capacity", names):
            return Ending("Failed", NO_CAPACITY)
        while not self._stop_asked.is_set():
            if machines.take(self._num_hosts):
                return None
            seconds, status = self._time_left()
            if seconds <= 0:
                return Ending(status)
            self._stop_asked.wait(0.05)
        self._enter("Stopping")
        return Ending("Stopped")

    def _attempt(self) -> Ending | None:
        """One run on machines, from the download on; None where they were taken away."""
        self.record.start_clock()
        try:
            self._prepare()
            if self._stop_asked.is_set():
                self._enter("Stopping")
                return Ending("Stopped")
            attempt = self._train()
            if self._abandoned:
                return Ending("Stopped")
            if attempt.cause == "spot":
                return None
            return self._upload(self._judge(attempt))
        except TransferError as error:
            return Ending("Failed", f"ClientError: {error}")
        except LaunchError as error:
            return Ending("Failed", f"InternalServerError: {error}")
        finally:
            self.record.stop_clock()

    def _prepare(self) -> None:
        """Fresh hosts with the contract's files and the inputs; raises TransferError."""
        self._enter("Downloading")
        self._attempts += 1
        site, record = self._site, self.record
        folder = site.folder / record.region / record.name / str(self._attempts)
        mounts = contract.file_system_mounts(record.request, site.file_systems)
        self._hosts = contract.lay_out(record.request, folder, mounts)
        stage_inputs(
            record.request, self._hosts, site.runner.interface, site.objects(record.region)
        )

    def _train(self) -> Attempt:
        """Run the containers to their end, mirroring their checkpoints; raises LaunchError."""
        site, record = self._site, self.record
        names = [host.name for host in self._hosts]
        limit_s, self._limit_status = self._time_left()
        slow_names = site.faults.at_start("slow-names", names)
        conditions = Conditions(
            limit_s=limit_s,
            grace_s=site.grace_s,
            spot=record.spot,
            names_after_s=max((fault.after_s or 0.0 for fault in slow_names), default=0.0),
            absent=frozenset(fault.host or "" for fault in site.faults.at_start("no-show", names)),
        )
        with self._mirrored_checkpoints():
            cluster = site.runner.make_cluster(
                f"{self._number}-{self._attempts}", self._hosts, names_known=not slow_names
            )
            self._open_streams([name for name in names if name not in conditions.absent])
            self._enter("Training")
            attempt = Attempt(self._hosts, cluster, conditions, self._events, site.faults, self)
            attempt.run(self._task())
        return attempt

    def _mirrored_checkpoints(self) -> AbstractContextManager[object]:
        """Checkpoints restored, and mirrored inside the context; raises TransferError."""
        config = self.record.request.get("CheckpointConfig")
        if config is None:
            return nullcontext()
        objects = self._site.objects(self.record.region)
        every_s = self._site.mirror_every_s
        mirror = CheckpointMirror(objects, config["S3Uri"], self._hosts, every_s, self.note)
        mirror.restore()
        return mirror

    def _open_streams(self, hosts: Sequence[str]) -> None:
        """A stream per host and attempt, named by the second of its start."""
        self._epoch = max(int(time.time()), self._epoch + 1)
        for host in hosts:
            stream = f"{self.record.name}/{host}-{self._epoch}"
            self._streams[host] = self._site.logs.open(self.record.region, stream)

    def _task(self) -> Task:
        record = self.record
        algorithm = record.request["AlgorithmSpecification"]
        entrypoint = tuple(algorithm.get("ContainerEntrypoint", ()))
        return Task(
            contract.contract_environment(record.request, record.arn, record.region),
            algorithm["TrainingImage"],
            entrypoint,
            tuple(algorithm.get("ContainerArguments", () if entrypoint else ("train",))),
        )

    def _judge(self, attempt: Attempt) -> Ending:
        """How the job ends: a stop or limit counts more than exit codes, any of which fails it."""
        if attempt.cause == "stop":
            return Ending("Stopped")
        if attempt.cause == "limit":
            return Ending(self._limit_status)
        failed = [host for host, code in attempt.codes.items() if code]
        if not failed:
            return Ending("Completed")
        failures = {host.name: host.failure() for host in self._hosts}
        host = next((name for name in failed if failures[name]), failed[0])
        reason = f"AlgorithmError: {failures[host]}, exit code: {attempt.codes[host]}"
        return Ending("Failed", reason)

    def _upload(self, ending: Ending) -> Ending:
        """Upload what there is, however the job ends; an ending of its own where that fails."""
        record = self.record
        self._enter("Uploading")
        try:
            objects = self._site.objects(record.region)
            record.set_model(upload_results(record.request, self._hosts, objects))
        except TransferError as error:
            if ending.secondary == "Completed":
                return Ending("Failed", f"ClientError: Artifact upload failed: {error}")
        return ending

    def _time_left(self) -> tuple[float, str]:
        """Seconds until a limit, and the status at which the job ends then."""
        limits = self.record.request["StoppingCondition"]
        running_s = limits.get("MaxRuntimeInSeconds", DAY_S) - self.record.training_s
        waiting_s = limits.get("MaxWaitTimeInSeconds", math.inf) + self.record.created - time.time()
        return min((running_s, "MaxRuntimeExceeded"), (waiting_s, "MaxWaitTimeExceeded"))

    def _enter(self, secondary: str, reason: str | None = None) -> None:
        self.record.enter(secondary, reason)
        self.note(secondary if reason is None else f"{secondary}: {reason}")
