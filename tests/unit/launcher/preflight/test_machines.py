"""Faults of the machines, and of the image on them."""

from dataclasses import replace
from typing import Any

import pytest

from launcher.preflight.facts import Image
from tests.cloud_jobs import REGION
from tests.sound_job import DIGEST, LABELS, V100S, ZONE, Fault, see_that_it_is_found


def image(arch_list: str, **changes: Any) -> Image:
    labels = LABELS | {"rayasr.arch_list": arch_list}
    return replace(Image(DIGEST, frozenset({"amd64"}), labels), **changes)


FAULTS = [
    Fault(
        "image-architecture",
        "for arm64, ml.g5.12xlarge is amd64",
        facts={"image": image(LABELS["rayasr.arch_list"], architectures=frozenset({"arm64"}))},
    ),
    Fault(
        "image-kernels",
        "the V100 of ml.p3.8xlarge is sm_70",
        V100S,
    ),
    Fault("image-kernels", "for CPUs only", facts={"image": image("")}),
    Fault("image-kernels", "the A10G", facts={"image": image("sm_90a sm_100 sm_120")}),
    Fault(
        "image-labels",
        "does not say which torch",
        facts={"image": Image(DIGEST, frozenset({"amd64"}))},
        severity="note",
    ),
    Fault("request", "'ml.g5.13xlarge' is none of", {"instance_type": "ml.g5.13xlarge"}),
    Fault(
        "instance-type", "nothing is known", {"instance_type": "ml.trn1.2xlarge"}, severity="note"
    ),
    Fault(
        "instance-offered", "EC2 offers no ml.g5.12xlarge", facts={"offers": {}}, severity="warning"
    ),
    Fault(
        "instance-zone",
        f"the job's subnets are in {ZONE}",
        facts={"offers": {"ml.g5.12xlarge": frozenset({f"{REGION}c"})}},
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_fault_is_found(fault: Fault) -> None:
    see_that_it_is_found(fault)
