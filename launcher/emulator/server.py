"""The emulator: one endpoint on loopback for training jobs, their logs, and moto's services."""

import logging
import os
import socket
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from werkzeug.serving import make_server

from launcher.aws.session import REHEARSAL_REGION
from launcher.emulator.api import Api
from launcher.emulator.containers import Runner
from launcher.emulator.docker_runner import DockerRunner
from launcher.emulator.faults import Faults
from launcher.emulator.furnish import furnish, rehearsal_region
from launcher.emulator.job import Site
from launcher.emulator.jobs import Jobs
from launcher.emulator.logs import LogStore
from launcher.emulator.machines import Machines
from launcher.emulator.namespace_runner import NamespaceRunner
from launcher.emulator.objects import TEST_KEY, connect_objects
from launcher.emulator.options import Options
from launcher.emulator.process_runner import ProcessRunner
from launcher.emulator.wire import Application, make_application
from rayasr.errors import ConfigError, LaunchError

HOST = "127.0.0.1"  # loopback, always: whoever reaches the emulator can run programs


@dataclass(frozen=True)
class Emulator:
    """A running emulator."""

    url: str
    region: str  # of the jobs it was told of
    folder: Path  # of the jobs' files
    faults: Faults  # those to come; more may be added

    @property
    def environment(self) -> dict[str, str]:
        """What a client of AWS must find in its environment to come here."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": TEST_KEY,
            "AWS_SECRET_ACCESS_KEY": TEST_KEY,
            "AWS_DEFAULT_REGION": self.region,
        }


@contextmanager
def run_emulator(
    options: Options, environment: Mapping[str, str], note: Callable[[str], None]
) -> Iterator[Emulator]:
    """Answer inside the context; leaving it ends all jobs and their processes.

    Raises ConfigError or LaunchError.
    """
    options.check()
    moto = _load_moto()
    with ExitStack() as stack:
        scratch = stack.enter_context(_temporary_folder("rs-"))
        runner = _make_runner(options, scratch, environment)
        runner.check()
        listener = stack.enter_context(_listen(options.port))
        url = f"http://{HOST}:{listener.getsockname()[1]}"
        faults = Faults(options.faults)
        logs = LogStore()
        site = Site(
            runner=runner,
            machines=Machines(options.num_hosts, runner.one_job_at_a_time),
            objects=connect_objects(url),
            logs=logs,
            faults=faults,
            file_systems=options.file_systems,
            folder=stack.enter_context(_job_folder(options.root)),
            grace_s=options.grace_s,
            mirror_every_s=options.mirror_every_s,
            note=note,
        )
        jobs = Jobs(site)
        others = moto.DomainDispatcherApplication(moto.create_backend_app)
        application = make_application(Api(jobs, logs, options.file_systems), others)
        stack.enter_context(_serving(application, listener, moto.MotoRequestHandler))
        _empty_moto(url)
        furnish(options.job_files, url)
        stack.callback(jobs.close)  # first of all: hosts' last words go through the server
        regions = [rehearsal_region(job) for job in options.job_files]
        yield Emulator(url, (regions or [REHEARSAL_REGION])[0], site.folder, faults)


@contextmanager
def _serving(application: Application, listener: socket.socket, handler: Any) -> Iterator[None]:
    """Serve an application in a thread."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # no line per request
    server = make_server(
        HOST, 0, application, threaded=True, request_handler=handler, fd=listener.fileno()
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


def _make_runner(options: Options, scratch: Path, environment: Mapping[str, str]) -> Runner:
    """The runner of that name; raises ConfigError."""
    prefix = f"rayasr-{os.getpid()}"
    if options.runner == "processes":
        return ProcessRunner(scratch, environment, options.program)
    if options.runner == "namespaces":
        return NamespaceRunner(prefix, scratch, environment, options.program)
    if options.runner == "docker":
        return DockerRunner(prefix, environment)
    raise ConfigError(
        f"--runner {options.runner} is unknown; there are processes, namespaces and docker"
    )


def _load_moto() -> Any:
    try:
        return import_module("moto.moto_server.werkzeug_app")
    except ImportError as error:
        raise LaunchError(
            f"the emulator needs moto ({error}); install it: pip install 'rayasr[emulator]'"
        ) from error


def _empty_moto(url: str) -> None:
    """Forget what another emulator of this process has left in moto, which is one for all."""
    call = urllib.request.Request(f"{url}/moto-api/reset", method="POST")
    without_proxy = urllib.request.ProxyHandler({})
    urllib.request.build_opener(without_proxy).open(call).close()


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise LaunchError(
            f"cannot listen at {HOST}:{port} ({error.strerror}); give another --port"
        ) from error
    listener.listen(128)
    return listener


@contextmanager
def _job_folder(root: Path | None) -> Iterator[Path]:
    """A new folder for the jobs' files, which stays if the user named its parent."""
    if root is None:
        with _temporary_folder("emulator-") as folder:
            yield folder
        return
    root.mkdir(parents=True, exist_ok=True)
    yield Path(tempfile.mkdtemp(prefix="emulator-", dir=root.resolve()))


@contextmanager
def _temporary_folder(prefix: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        yield Path(folder)
