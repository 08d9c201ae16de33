"""Training under Ray Train's TorchTrainer: workers, progress back to the driver, stopping."""

import os
import shutil
import signal
import threading
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rayasr import storage
from rayasr.config import Recipe
from rayasr.errors import LaunchError, TrainingError
from rayasr.logs import note
from rayasr.ray_session import ask_every_node, available_cpus, connect, set_environment
from rayasr.ray_worker import Board, Job, group_worker, is_loss, work
from rayasr.train.stop import StopRequest, stop_on_signals

if TYPE_CHECKING:
    from rayasr.train.init_from import InitFrom
    from rayasr.train.loop import FitResult

Workers = int | tuple[int, int] | None
"""A number of workers, (least, most) for as many as there is room for, None for the default."""

MAX_WORKER_FAILURES = 3
"""Times that lost workers are replaced, from the last checkpoint, before the run gives up."""
_POLL_S = 0.5
_RESIZE_S = 15.0
"""How often an elastic group looks for room to grow."""


def run_training(
    recipe: Recipe,
    store: str | Path,
    run: str | Path,
    *,
    workers: Workers = None,
    devices: str = "auto",
    max_time_s: float | None = None,
    resume: str = "auto",
    init_from: "InitFrom | None" = None,
    dry_run: bool = False,
    lease: storage.Lease | None = None,
    notes: Callable[[str], None] = note,
) -> "FitResult":
    """Train a recipe on a store into RUN, with `workers` Ray workers (0: in this process).

    `init_from` is the model that a fresh start begins with. Takes RUN's lease unless the caller
    holds it and hands it down.

    With (least, most) a lost host costs its workers and the steps since the last checkpoint; the
    group grows again when a host comes back.

    Returns how it ended where that was the plan (finished, time limit, dry run). A stop by SIGINT
    raises KeyboardInterrupt and one by SIGTERM SystemExit(143), after a checkpoint. Raises
    ConfigError, DataError, CheckpointError, TrainingError, LaunchError.
    """
    from rayasr.data.store import Store
    from rayasr.train.init_from import started_from
    from rayasr.train.loop import FitOptions
    from rayasr.train.reporter import StartClock, process_started_at
    from rayasr.train.resume import prepare_resume
    from rayasr.train.setup import check_workers

    clock = StartClock(process_started_at())
    clock.mark("imports")
    folder = Path(run).absolute()
    if resume == "auto":
        init_from = init_from or started_from(folder)
    check_workers(recipe, _most(workers) or 1, fine_tuned=init_from is not None)
    data = Store.open(store)
    data.check_recipe(recipe)
    clock.mark("store")
    storage.make_folder(folder)
    holding = storage.Lease(folder, notes) if lease is None else nullcontext(lease)
    with holding as held, stop_on_signals(notes) as stop:
        driver = _Driver(held, stop, notes)
        inputs = data.training_digest
        prepare_resume(recipe, inputs, folder, resume, notes, init_from=init_from, dry_run=dry_run)
        job = Job(
            recipe,
            str(data.path),
            str(folder),
            False,
            FitOptions(max_time_s=max_time_s, dry_run=dry_run),
            clock,
            init_from,
        )
        if workers == 0:
            result = _in_process(job, devices, driver)
        else:
            result = _in_group(job, workers, devices, driver)
    if result.reason == "stopped" and stop.signal == signal.SIGINT:
        raise KeyboardInterrupt
    if result.reason == "stopped":
        raise SystemExit(128 + (stop.signal or signal.SIGTERM))
    return result


def _in_process(job: Job, devices: str, driver: "_Driver") -> "FitResult":
    """Ray Train's local mode: no cluster, the first step within seconds."""
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    from rayasr.checkpoint import choose_device
    from rayasr.train.allocator import keep_freed_memory
    from rayasr.train.display import Display
    from rayasr.train.reporter import Reporter

    job = replace(job, cuda=choose_device(devices) == "cuda")
    _quiet("ray.train")
    keep_freed_memory()  # before the thread that trains is made
    job.clock.mark("Ray Train")
    with Display() as display:
        stopped = driver.stop.event.is_set
        reporter = Reporter(note=driver.notes, row=display.row, stop_requested=stopped)
        trainer = TorchTrainer(
            lambda: work(job, reporter), scaling_config=ScalingConfig(num_workers=0)
        )
        outcome = _in_thread(trainer.fit, driver.lease.check)
    return _checked(outcome)


def _in_group(job: Job, workers: Workers, devices: str, driver: "_Driver") -> "FitResult":
    """A group of workers on this machine's own Ray, or on the cluster of RAY_ADDRESS."""
    from rayasr.checkpoint import choose_device
    from rayasr.train.setup import check_workers, default_workers

    threads = job.recipe.train.threads_per_worker
    set_environment()
    importing = threading.Thread(target=_import_trainer)  # while Ray's processes start
    importing.start()
    private_cpus = max(available_cpus(), (_most(workers) or 1) * threads)
    with connect(num_cpus=private_cpus) as cluster:
        driver.stop.install()
        importing.join()
        job.clock.mark("ray.init")
        cuda = choose_device(devices, cluster["gpus"]) == "cuda"
        gpus = cluster["gpus"] if cuda else 0
        fine_tuned = job.init_from is not None
        count = workers or default_workers(job.recipe, gpus, driver.notes, fine_tuned=fine_tuned)
        check_workers(job.recipe, _most(count), fine_tuned=fine_tuned)
        _check_resources(job, count, threads, cuda, cluster)
        job = replace(job, cuda=cuda, ask_for_notices=not cluster["private"])
        return _run_group(job, count, threads, driver)


def _run_group(
    job: Job, workers: int | tuple[int, int], threads: int, driver: "_Driver"
) -> "FitResult":
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from rayasr.train.display import Display

    pinned = NodeAffinitySchedulingStrategy(node_id=_this_node(), soft=False)
    board = ray.remote(num_cpus=0, scheduling_strategy=pinned)(Board).remote()
    _quiet("ray.train")
    bookkeeping = Path(job.run) / ".ray"
    trainer = _group_trainer(job, workers, threads, board, bookkeeping)
    with Display() as display:
        try:
            outcome = _in_thread(trainer.fit, lambda: driver.exchange(board, display.row))
            driver.exchange(board, display.row)
        finally:
            shutil.rmtree(bookkeeping, ignore_errors=True)
    return _checked(outcome)


def _group_trainer(
    job: Job, workers: int | tuple[int, int], threads: int, board: Any, bookkeeping: Path
) -> Any:
    """Ray's trainer of a group; it keeps its own records in `bookkeeping` while it runs."""
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    resources = _needs(threads, job.cuda)
    return TorchTrainer(
        group_worker,
        train_loop_config={"job": job, "board": board},
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=job.cuda,
            resources_per_worker=resources,
            label_selector=_first_here(_this_node(), _most(workers), resources),
            elastic_resize_monitor_interval_s=_RESIZE_S,
        ),
        run_config=RunConfig(
            name=f"rayasr-{uuid.uuid4().hex[:8]}",
            storage_path=str(bookkeeping),
            failure_config=FailureConfig(max_failures=MAX_WORKER_FAILURES),
            logging_config=LoggingConfig("ERROR"),
        ),
    )


@dataclass
class _Driver:
    """What the driver attends to while its workers train."""

    lease: storage.Lease
    stop: StopRequest
    notes: Callable[[str], None]
    told: bool = False
    """Whether the workers have been asked to stop."""

    def exchange(self, board: Any, row: Callable[[dict[str, Any]], None]) -> None:
        """Pass a stop on and the workers' messages out; raises an error that one of them sent."""
        import ray

        self.lease.check()
        if self.stop.event.is_set() and not self.told:
            self.told = True
            board.ask_to_stop.remote()
        for kind, value in ray.get(board.take.remote()):
            if kind == "error":
                raise value  # no retry: another worker would meet it too
            (self.notes if kind == "note" else row)(value)


def _in_thread(function: Callable[[], Any], meanwhile: Callable[[], None]) -> Any:
    """Run `fit` beside the main thread, which keeps our signal handlers; raises what it raises."""
    box: dict[str, Any] = {}

    def call() -> None:
        try:
            box["value"] = function()
        except BaseException as error:
            box["error"] = error

    thread = threading.Thread(target=call, daemon=True, name="fit")
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_S)
        meanwhile()
    if "error" in box:
        meanwhile()  # the reason may have come in since
        raise _explained(box["error"])
    return box["value"]


def _explained(error: BaseException) -> BaseException:
    """Ray's wrapping taken off; processes lost again and again become a TrainingError."""
    failures = getattr(error, "worker_failures", None)
    if not failures:
        return error
    for cause in failures.values():
        if not is_loss(cause):
            return cast(BaseException, cause)
    rank, cause = next(iter(failures.items()))
    return TrainingError(
        f"workers were lost {MAX_WORKER_FAILURES + 1} times, the last time worker {rank}: "
        f"{(str(cause).strip() or repr(cause)).splitlines()[-1]}; run the same command again to "
        "go on from the last checkpoint"
    )


def _checked(outcome: Any) -> "FitResult":
    from rayasr.train.loop import FitResult

    result = outcome.return_value
    if not isinstance(result, FitResult):
        raise TrainingError(f"training ended without a result ({outcome.error})")
    return result


def _most(workers: Workers) -> int:
    """The largest number of workers; 0 where that is not said."""
    return workers[1] if isinstance(workers, tuple) else workers or 0


def _check_resources(
    job: Job,
    count: int | tuple[int, int],
    threads: int,
    cuda: bool,
    cluster: dict[str, Any],
) -> None:
    """Refuse at once what Ray would wait for without end."""
    workers = count[0] if isinstance(count, tuple) else count
    if cluster["cpus"] < workers * threads or (cuda and cluster["gpus"] < workers):
        raise LaunchError(
            f"{workers} workers need {workers * threads} CPUs"
            f"{f' and {workers} GPUs' if cuda else ''}, the cluster has {cluster['cpus']} CPUs and "
            f"{cluster['gpus']} GPUs; use fewer --workers"
        )
    if cluster["nodes"] > 1:
        # RUN and the model to start from are rank 0's alone: where that one trains here, folders
        # of this host will do.
        writes_here = _first_here(_this_node(), workers, _needs(threads, cuda)) is not None
        of_rank_0 = [job.run, *([job.init_from.model] if job.init_from is not None else [])]
        for path in (job.store, *(() if writes_here else of_rank_0)):
            blind = [host for host, sees in ask_every_node(os.path.isdir, path).items() if not sees]
            if blind:
                raise LaunchError(
                    f"{path} is not there on {', '.join(blind)}; put it on storage that all hosts "
                    "share"
                )


def _this_node() -> str:
    import ray

    node: str = ray.get_runtime_context().get_node_id()
    return node


def _needs(threads: int, cuda: bool) -> dict[str, int]:
    """What Ray reserves for one worker."""
    return {"CPU": threads} | ({"GPU": 1} if cuda else {})


def _first_here(
    node_id: str, workers: int, resources: dict[str, int]
) -> list[dict[str, str]] | None:
    """Labels that pin rank 0, which writes RUN, to the driver's host, where that one can train."""
    import ray

    here = next(node for node in ray.nodes() if node["NodeID"] == node_id)
    if any(here["Resources"].get(name, 0) < count for name, count in resources.items()):
        return None
    return [{"ray.io/node-id": node_id}] + [{} for _ in range(workers - 1)]


def _import_trainer() -> None:
    import ray.train.torch  # noqa: F401  # two seconds that need not be waited for later

    import rayasr.train.loop  # noqa: F401


def _quiet(name: str) -> None:
    import logging

    logging.getLogger(name).setLevel(logging.ERROR)
