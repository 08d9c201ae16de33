"""Checks of the machines: that they are to be had, and that the image runs on them."""

import re
from collections.abc import Iterator

from launcher.cloud_plan import CloudPlan
from launcher.instances import INSTANCES, Gpu
from launcher.preflight.facts import Facts, Image
from launcher.preflight.findings import Finding, error, note, warning
from launcher.preflight.recipe import uses_gpus

BUILD_FOR_OLD_GPUS = "build the image with a torch for CUDA 12.6 (docker/README.md)"
"""What brings kernels for a V100 or older: torch's wheels for CUDA 13 have none."""


def check_machines(plan: CloudPlan, facts: Facts) -> Iterator[Finding]:
    """Each type: known, offered in the zones, of the image's architecture, with kernels."""
    for kind in sorted({group.instance_type for group in plan.place.groups}):
        if facts.knows("instance offers"):
            yield from _offered(kind, plan, facts)
        machine = INSTANCES.get(kind)
        if machine is None:
            yield note(
                "instance-type",
                f"nothing is known here of {kind}",
                "its GPUs, disks and architecture were not checked against the job",
                "look at its specification, or take a type that launcher/instances.py lists",
            )
        elif facts.image is not None:
            yield from _architecture(kind, machine.architecture, facts.image)
            if machine.gpu is not None and uses_gpus(plan) and facts.knows("image contents"):
                yield from _kernels(kind, machine.gpu, facts.image)


def _offered(kind: str, plan: CloudPlan, facts: Facts) -> Iterator[Finding]:
    zones = facts.offers.get(kind, frozenset())
    if not zones:
        # A warning: SageMaker still has machines of types that EC2 no longer sells.
        yield warning(
            "instance-offered",
            f"EC2 offers no {kind} in {plan.region}",
            "SageMaker then mostly has none either, and the job ends with a CapacityError",
            _other_type(kind),
        )
    elif plan.place.vpc is not None:
        used = {
            facts.subnets[name].zone for name in plan.place.vpc.subnets if name in facts.subnets
        }
        if used and not used & zones:
            yield error(
                "instance-zone",
                f"{kind} is offered in {', '.join(sorted(zones))}, the job's subnets are in "
                f"{', '.join(sorted(used))}",
                "SageMaker starts the machines in the subnets' zones, and finds none there",
                "give a subnet of one of those zones (and a file system there), or another type",
            )


def _architecture(kind: str, architecture: str, image: Image) -> Iterator[Finding]:
    if image.architectures and architecture not in image.architectures:
        yield error(
            "image-architecture",
            f"the image is for {', '.join(sorted(image.architectures))}, {kind} is {architecture}",
            "no program of it can start there: exec format error",
            f"build it with `rayasr image build --platform linux/{architecture}`",
        )


def _kernels(kind: str, gpu: Gpu, image: Image) -> Iterator[Finding]:
    built = image.labels.get("rayasr.torch", "")
    if "rayasr.arch_list" not in image.labels:
        yield note(
            "image-labels",
            "the image does not say which torch is in it",
            f"so it was not checked whether that has kernels for the {gpu.name} of {kind}",
            "build it with `rayasr image build`, which writes labels",
        )
        return
    architectures = image.labels["rayasr.arch_list"].split()
    if not architectures:
        yield error(
            "image-kernels",
            f"the image's torch {built} is for CPUs only, {kind} has GPUs",
            "Ray gives each worker a GPU, and its torch finds none",
            "build the image from its default base, for GPUs (docker/README.md)",
        )
    elif not any(_runs_on(name, gpu.capability) for name in architectures):
        old = gpu.capability < min(_capability(name) for name in architectures)
        yield error(
            "image-kernels",
            f"the image's torch {built} (CUDA {image.labels.get('rayasr.cuda', '?')}) has kernels "
            f"for {' '.join(architectures)}, the {gpu.name} of {kind} is "
            f"sm_{gpu.capability[0]}{gpu.capability[1]}",
            "the first step on the GPU fails: no kernel image is available",
            f"{BUILD_FOR_OLD_GPUS if old else 'build the image with a newer torch'}, or "
            f"{_other_type(kind)}",
        )


def _runs_on(architecture: str, capability: tuple[int, int]) -> bool:
    """Whether code for an entry of torch's list, such as sm_80 or compute_90, runs on a GPU."""
    built_for = _capability(architecture)
    if architecture.startswith("compute_"):  # compiled by the driver for any newer GPU
        return built_for <= capability
    if architecture[-1:].isalpha():  # sm_90a: that GPU alone
        return built_for == capability
    return built_for[0] == capability[0] and built_for <= capability


def _capability(architecture: str) -> tuple[int, int]:
    """(12, 0) of sm_120; an entry that is no architecture runs nowhere."""
    match = re.fullmatch(r"(?:sm|compute)_(\d+)(\d)[a-z]?", architecture)
    return (int(match[1]), int(match[2])) if match else (999, 0)


def _other_type(kind: str) -> str:
    """What to do instead of a type that is gone or not good enough."""
    machine = INSTANCES.get(kind)
    if machine is None or machine.gpu is None:
        return "take another type or region"
    near = next(
        name
        for name in ("ml.g5.xlarge", "ml.g5.12xlarge", "ml.g5.48xlarge")
        if INSTANCES[name].num_gpus >= min(machine.num_gpus, 8)
    )
    return f"take another type, such as {near}"
