"""Checks of what runs: that the recipe, the workers and their folders fit the machines."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import yaml

from launcher.cloud_plan import CloudPlan
from launcher.instances import INSTANCES
from launcher.job_file import RECIPE_FILE
from launcher.plan import TRAINING_VERBS
from launcher.preflight.facts import Facts
from launcher.preflight.findings import Finding, error, warning
from launcher.spec import PLACEHOLDER, JobSpec
from rayasr.config import Recipe, parse_recipe


@dataclass(frozen=True)
class Fleet:
    """All machines of a job together."""

    vcpus: int
    gpus: int


def check_recipe(plan: CloudPlan, _facts: Facts) -> Iterator[Finding]:
    """Numbers of workers, GPUs and precision; folders that several machines need."""
    kinds = [group.instance_type for group in plan.place.groups]
    if any(kind not in INSTANCES for kind in kinds):
        return  # preflight_machines says so
    fleet = _fleet(plan)
    training = plan.command[0] in TRAINING_VERBS
    if training:
        yield from _workers(plan, fleet)
        yield from _precision(plan)
    elif plan.command[0] == "data" and fleet.gpus:
        yield warning(
            "gpus-idle",
            f"`{' '.join(plan.command[:2])}` computes on CPUs, the job has {fleet.gpus} GPUs",
            "they would be paid for and stand idle",
            "take CPU machines, such as ml.c5.4xlarge",
        )
    if plan.place.num_hosts > 1:
        yield from _shared_folders(plan)
        if training and fleet.gpus:
            yield from _head(plan)


def _workers(plan: CloudPlan, fleet: Fleet) -> Iterator[Finding]:
    devices = option(plan.command, "--devices") or "auto"
    if devices == "cuda" and not fleet.gpus:
        yield error(
            "gpus",
            "the command asks for CUDA, no machine of the job has a GPU",
            "it would end at once",
            "take GPU machines, such as ml.g5.xlarge, or `--devices cpu`",
        )
        return
    gpus = 0 if devices == "cpu" else fleet.gpus
    asked = option(plan.command, "--workers") or str(gpus or 1)
    least, _, most = asked.partition(":")
    if not least.isdecimal() or not (most or least).isdecimal():
        return  # a placeholder, or the verb's own parser refuses it
    yield from _enough_batches(plan, int(most or least))
    if gpus and int(least) > gpus:
        yield error(
            "workers",
            f"{asked} workers are asked for, the machines have {gpus} GPUs",
            "each worker needs a GPU of its own, so training would not start",
            f"take at most {gpus} workers, or more machines",
        )
    elif int(most or least) < plan.place.num_hosts:
        yield warning(
            "machines-idle",
            f"{most or least} worker(s) train on {plan.place.num_hosts} machines",
            "a worker computes on one machine, so the others would be paid for and stand idle",
            "set `workers` to a multiple of the machines, or take fewer machines",
        )
    elif fleet.gpus and int(most or least) < fleet.gpus:
        yield warning(
            "gpus-idle",
            f"{asked} workers use {int(most or least)} of {fleet.gpus} GPUs",
            "the others would be paid for and stand idle",
            "leave `workers` out, which takes all GPUs, or take fewer machines",
        )


def _enough_batches(plan: CloudPlan, workers: int) -> Iterator[Finding]:
    recipe = recipe_of(plan)
    if recipe is None:
        return
    if workers > recipe.batch.micro_batches:
        yield error(
            "micro-batches",
            f"a step has {recipe.batch.micro_batches} micro-batches for {workers} workers",
            "a worker without a micro-batch has nothing to do: training refuses so many, and by "
            "default leaves GPUs idle that are paid for",
            f"set batch.micro_batches to {workers} or more, or `workers` to "
            f"{recipe.batch.micro_batches}",
        )
    if workers > 1 and recipe.model.encoder.convolution_norm == "batch_norm":
        yield error(
            "batch-norm",
            f"the recipe has batch_norm, and {workers} workers train",
            "its statistics would depend on the number of workers, so training refuses to start",
            "set model.encoder.convolution_norm to layer_norm, or `workers` to 1",
        )
    threads = workers * recipe.train.threads_per_worker
    vcpus = _fleet(plan).vcpus
    if threads > vcpus:
        yield error(
            "threads",
            f"{workers} workers of {recipe.train.threads_per_worker} threads need {threads} CPUs, "
            f"the machines have {vcpus}",
            "Ray would never have room for all workers",
            "lower train.threads_per_worker, or take larger machines",
        )


def _precision(plan: CloudPlan) -> Iterator[Finding]:
    recipe = recipe_of(plan)
    if recipe is None or recipe.train.precision != "bf16" or not uses_gpus(plan):
        return
    for kind in sorted({group.instance_type for group in plan.place.groups}):
        gpu = INSTANCES[kind].gpu
        if gpu is not None and not gpu.has_bf16:
            yield error(
                "bf16",
                f"the recipe asks for bf16, which the {gpu.name} of {kind} does not have",
                "it would be emulated, many times slower, or fail",
                "set train.precision to fp16 or auto, or take ml.g5 or newer",
            )


def _shared_folders(plan: CloudPlan) -> Iterator[Finding]:
    """What several machines write or read must lie on a file system that all of them mount."""
    command = plan.command
    if command[0] == "run" or command[:2] == ("data", "prepare"):
        written = option(command, "--out")
        if written is not None and not _is_shared(plan.job, written):
            yield error(
                "shared-folder",
                f"--out {written} is a folder of each machine, and there are "
                f"{plan.place.num_hosts}",
                "each would keep its own part of the store, and none the whole",
                "put it into an FSx or EFS channel with `access: write`, or take one machine",
            )
    store = option(command, "--store")
    if command[0] == "train" and store is not None and _channel_of(plan.job, store) is None:
        yield error(
            "shared-folder",
            f"--store {store} is in no channel",
            "the machines other than the head would have no store",
            "read it from a channel: --store {channel:NAME}/…",
        )


def _head(plan: CloudPlan) -> Iterator[Finding]:
    """Where the head has no GPU, rank 0 trains elsewhere and RUN must be seen from both."""
    place, run = plan.place, plan.job.run
    heads = [g for g in place.groups if place.head_group in (None, g.name)]
    if run is None or _is_shared(plan.job, run):
        return
    for group in heads:  # without head_group the head may be in any group
        if not INSTANCES[group.instance_type].num_gpus:
            yield error(
                "head-run",
                f"the head may be a machine without GPUs ({group.name}, {group.instance_type}), "
                f"and the run folder {run} is its own",
                "the worker that writes checkpoints would be on another machine, with no such "
                "folder",
                "set head_group to a group with GPUs, or put `run` into an FSx or EFS channel",
            )


def uses_gpus(plan: CloudPlan) -> bool:
    """Whether the command computes on the GPUs that there are."""
    return (
        plan.command[0] in (*TRAINING_VERBS, "decode")
        and option(plan.command, "--devices") != "cpu"
    )


def recipe_of(plan: CloudPlan) -> Recipe | None:
    """The recipe that travels with the job; None where the verb has none."""
    content = plan.files.get(RECIPE_FILE)
    return None if content is None else parse_recipe(yaml.safe_load(content), RECIPE_FILE)


def is_kept(plan: CloudPlan) -> bool:
    """Whether checkpoints outlive the machines."""
    recipe = recipe_of(plan)
    mirrored = recipe is not None and recipe.checkpoint.mirror is not None
    run = plan.job.run
    if run is None or mirrored:
        return mirrored
    # A relative run folder lies in /opt/ml/checkpoints.
    return _is_shared(plan.job, run) or (
        plan.place.checkpoints is not None and not run.startswith(("/", "{"))
    )


def option(command: Sequence[str], name: str) -> str | None:
    """The last value of an option, as `--x V` or `--x=V`."""
    values = [text.partition("=")[2] for text in command if text.startswith(f"{name}=")]
    values += [value for text, value in pairwise(command) if text == name]
    return values[-1] if values else None


def _is_shared(job: JobSpec, folder: str) -> bool:
    """Whether a folder is on storage that every machine may write to."""
    if folder.startswith("s3://"):
        return True
    channel = job.channels.get(_channel_of(job, folder) or "")
    return channel is not None and channel.s3 is None and channel.access == "write"


def _channel_of(job: JobSpec, folder: str) -> str | None:
    """The channel that a folder begins with, looking through {run}."""
    match = PLACEHOLDER.match(folder)
    if match is None:
        return None
    if match[1] == "run":
        return None if job.run is None else _channel_of(job, job.run)
    return match[2]


def _fleet(plan: CloudPlan) -> Fleet:
    machines = [(INSTANCES[g.instance_type], g.instance_count) for g in plan.place.groups]
    return Fleet(
        vcpus=sum(machine.vcpus * count for machine, count in machines),
        gpus=sum(machine.num_gpus * count for machine, count in machines),
    )
