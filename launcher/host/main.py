"""`train`: the first process of each container of a job.

Reads the contract's files, takes its part in the cluster (head.py or worker.py), and ends with the
exit code of the job's command, on every host.
"""

import os
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from socket import gethostname

from launcher.host.children import adopt_orphans
from launcher.host.events import Inbox, Outcome
from launcher.host.head import lead
from launcher.host.host import STOPPED, Host, Process, Settings, StoppedError
from launcher.host.log import HostLog, secret_values
from launcher.host.ray_cluster import (
    RayPlace,
    check_folder,
    check_gpus,
    cluster_environment,
    num_cpus,
    object_store_bytes,
)
from launcher.host.topology import (
    Topology,
    find_interface,
    make_lookup,
    own_address,
    read_topology,
    wait_for_address,
)
from launcher.host.worker import follow
from launcher.job_file import CODE_FILE, DIGEST_VARIABLE, JobFile, load_job
from launcher.spec import JOB_CHANNEL
from rayasr.errors import LaunchError

ROOT = "/opt/ml"
MAX_FAILURE = 1024
"""Characters of the failure file that SageMaker shows."""

_CODE_FOLDER = "RAYASR_CODE_FOLDER"
"""Tells the process that runs the job's own code where that lies."""


def main() -> None:
    """Run this host's part of the job; the arguments (`train`) say nothing."""
    settings = Settings()
    if (boot_s := os.environ.get("RAYASR_BOOT_TIMEOUT_S", "")).isdigit():  # for rehearsals
        settings = replace(settings, boot_s=float(boot_s))
    code = run_host(os.environ, settings)
    # At once: an orderly end could meet a thread that still writes a line, and abort.
    os._exit(code)


def run_host(environment: Mapping[str, str], settings: Settings) -> int:
    """One host's part, from the contract's files to the exit code."""
    process = Process(
        environment=environment,
        root=environment.get("RAYASR_ML_ROOT", ROOT).rstrip("/"),
        settings=settings,
        log=HostLog(sys.stdout.buffer, gethostname()),
        inbox=Inbox(),
        began=time.monotonic(),
    )
    process.inbox.take_signals()
    process.log.hide(secret_values(environment))
    adopt_orphans()
    try:
        outcome = _take_part(process)
    except LaunchError as error:
        outcome = Outcome(error.exit_code, f"{process.log.host}: {error}")
    except StoppedError:
        outcome = Outcome(STOPPED, f"{process.log.host}: the job was stopped before it began")
    except Exception as error:  # a bug: named in the failure file too, which else would be empty
        process.log.write(traceback.format_exc())
        text = f"the launcher failed ({type(error).__name__}); its log has the traceback"
        outcome = Outcome(1, f"{process.log.host}: {text}")
    _end(outcome, process)
    return outcome.code


def _take_part(process: Process) -> Outcome:
    """Lead the job or follow its head; nothing that was started is left behind."""
    topology = read_topology(process.root)
    process.log.host = topology.this
    channel = Path(process.root, "input/data", JOB_CHANNEL)
    job = load_job(channel, process.environment.get(DIGEST_VARIABLE, ""))
    process.log.hide([job.token, *secret_values(job.environment)])
    if len(topology.hosts) != job.num_hosts:
        raise LaunchError(
            f"the job was planned for {job.num_hosts} hosts, but there are {len(topology.hosts)} "
            f"({', '.join(topology.hosts)}); submit it again"
        )
    topology = topology.with_head_group(job.head_group)
    if not process.is_rehearsal:
        check_gpus(topology.instance_type)
    with _own_folder(topology.this, process.environment) as folder:
        if CODE_FILE in job.files and _CODE_FOLDER not in process.environment:
            _enter_code(channel / CODE_FILE, folder / "code", process.environment)
        if topology.is_head:
            _check_channels(job, Path(process.root, "input/data"))
        host = _prepare_host(process, topology, job, folder)
        try:
            return lead(host) if topology.is_head else follow(host)
        finally:
            host.children.kill_all()


@contextmanager
def _own_folder(name: str, environment: Mapping[str, str]) -> Iterator[Path]:
    """A new folder for Ray's files and the job's code, removed at the end; raises LaunchError."""
    parent = environment.get("RAYASR_TMP", "/tmp")
    if _CODE_FOLDER in environment:
        folder = Path(environment[_CODE_FOLDER]).parent
    else:
        try:
            folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
        except OSError as error:
            raise LaunchError(
                f"cannot make a folder in {parent} ({error.strerror}), where Ray keeps its "
                "temporary files"
            ) from error
    try:
        check_folder(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _enter_code(archive: Path, code: Path, environment: Mapping[str, str]) -> None:
    """Begin anew as the code that travels with the job; raises LaunchError."""
    try:
        with tarfile.open(archive) as packed:
            packed.extractall(code, filter="data")
    except (OSError, tarfile.TarError) as error:
        raise LaunchError(f"cannot unpack {archive} into {code}: {error}") from error
    path = [str(code), *filter(None, [environment.get("PYTHONPATH")])]
    # A signal in between waits until the new process can take it.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    os.execve(
        sys.executable,
        [sys.executable, "-P", "-m", "launcher.host.main", "train"],
        {**environment, "PYTHONPATH": os.pathsep.join(path), _CODE_FOLDER: str(code)},
    )


def _check_channels(job: JobFile, data: Path) -> None:
    """See that the command's folders are there; raises LaunchError."""
    for name, access in job.channels.items():
        folder = data / name
        if not folder.is_dir():
            raise LaunchError(
                f"channel '{name}' is not there: {folder} is no folder; look at channels.{name} of "
                "the job"
            )
        if access == "write" and not os.access(folder, os.W_OK):
            raise LaunchError(
                f"channel '{name}' cannot be written to, though its access is 'write'; look at "
                "the permissions of its file system"
            )


def _prepare_host(process: Process, topology: Topology, job: JobFile, folder: Path) -> Host:
    """Find the addresses and what Ray gets of this host; raises LaunchError and StoppedError."""
    environment = process.environment
    given = environment.get("RAYASR_HOST_ADDRESSES")
    lookup = make_lookup(given)
    deadline, pause = process.boot_deadline, process.pause
    if given is None:
        address = own_address(topology, lookup, deadline, pause)
    else:  # several hosts on one machine, at 127.0.0.2 and up
        address = wait_for_address(topology.this, lookup, deadline, pause)
    head_address = address
    if not topology.is_head:
        head_address = wait_for_address(topology.head, lookup, deadline, pause)
    interface = find_interface(topology.interface, address)
    process.log.write(
        f"hosts {', '.join(topology.hosts)}; {topology.head} leads; this one is at {address}; "
        f"NCCL and Gloo use {interface or 'any interface'}"
    )
    if process.is_rehearsal:
        # Ray's workers run at niceness 15: beside all else that a laptop does they would starve.
        environment = {"RAY_worker_niceness": "0", **environment}
    place = RayPlace(
        address=address,
        num_cpus=num_cpus(environment.get("RAYASR_NUM_CPUS")),
        object_store_bytes=object_store_bytes(1 if given is None else len(topology.hosts)),
        folder=folder,
        environment=cluster_environment(environment, job.environment, job.token, interface),
    )
    return Host(process, topology, job, place, head_address, lookup)


def _end(outcome: Outcome, process: Process) -> None:
    """Say how it ended, in the log and, unless it went well, in the failure file."""
    log = process.log
    if outcome.code == 0:
        log.write("the job is done")
        return
    text = log.mask(" ".join(outcome.text.split()))
    log.write(f"the job failed with exit code {outcome.code}: {text}")
    if len(text) > MAX_FAILURE:
        text = f"{text[: MAX_FAILURE - 1]}…"
    path = Path(process.root, "output", "failure")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        log.write(f"cannot write {path}: {error.strerror}")


if __name__ == "__main__":
    main()
