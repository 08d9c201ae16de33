"""The table of machines, against SageMaker's own list and EC2's answers as moto ships them."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from botocore.loaders import Loader

from launcher.instances import INSTANCES

NOT_OURS = ("ml.trn",)
"""Trainium: torch-neuronx, for which rayasr has no code."""


@pytest.fixture(scope="module")
def ec2() -> dict[str, Any]:
    """Instance types as EC2 describes them."""
    moto_ec2 = pytest.importorskip("moto.ec2")
    table = Path(moto_ec2.__file__).parent / "resources" / "instance_types.json.gz"
    types: dict[str, Any] = json.loads(gzip.decompress(table.read_bytes()))
    return types


def test_it_has_every_training_type() -> None:
    shapes = Loader().load_service_model("sagemaker", "service-2")["shapes"]
    types = set(shapes["TrainingInstanceType"]["enum"])
    assert set(INSTANCES) == {name for name in types if not name.startswith(NOT_OURS)}


def test_it_agrees_with_ec2(ec2: dict[str, Any]) -> None:
    compared = 0
    for name, machine in INSTANCES.items():
        entry = ec2.get(name.removeprefix("ml."))
        if entry is None:  # EC2 does not list p2, p3 and the newest
            continue
        gpus = entry.get("GpuInfo", {}).get("Gpus", [{}])[0]
        assert machine.vcpus == entry["VCpuInfo"]["DefaultVCpus"], name
        assert machine.memory_gb == entry["MemoryInfo"]["SizeInMiB"] / 1024, name
        assert machine.num_gpus == gpus.get("Count", 0), name
        assert machine.nvme_gb == entry.get("InstanceStorageInfo", {}).get("TotalSizeInGB", 0), name
        if machine.gpu is not None:
            assert machine.gpu.memory_gb == gpus["MemoryInfo"]["SizeInMiB"] // 1024, name
            efa = entry["NetworkInfo"].get("EfaInfo", {}).get("MaximumEfaInterfaces", 0)
            assert machine.efa == efa, name
        compared += 1
    assert compared > 200


@pytest.mark.parametrize(
    ("name", "has_bf16"),
    [
        ("ml.p3.8xlarge", False),
        ("ml.p3dn.24xlarge", False),
        ("ml.g4dn.xlarge", False),
        ("ml.p4d.24xlarge", True),
        ("ml.g5.12xlarge", True),
        ("ml.g7e.48xlarge", True),
    ],
)
def test_bf16(name: str, has_bf16: bool) -> None:
    gpu = INSTANCES[name].gpu
    assert gpu is not None
    assert gpu.has_bf16 is has_bf16
