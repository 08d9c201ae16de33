"""Faults of what runs: workers, precision, folders."""

from typing import Any

import pytest

from tests.sound_job import CPUS, LOCAL_RUN, OFFERS, T4S, V100S, Fault, see_that_it_is_found

TWO_GROUPS: dict[str, Any] = {
    "instance_type": None,
    "instance_count": None,
    "instance_groups": [
        {"name": "cpu", "instance_type": "ml.c5.4xlarge"},
        {"name": "gpu", "instance_type": "ml.g5.12xlarge", "instance_count": 2},
    ],
}

FAULTS = [
    Fault(
        "micro-batches", "4 micro-batches for 8 workers", job={"recipe": {"batch.micro_batches": 4}}
    ),
    Fault("micro-batches", "8 micro-batches for 16", job={"workers": "4:16"}),
    Fault("workers", "16 workers are asked for, the machines have 8 GPUs", job={"workers": "16"}),
    Fault("gpus-idle", "4 workers use 4 of 8 GPUs", job={"workers": "4"}, severity="warning"),
    Fault(
        "gpus-idle",
        "1 workers use",
        {"instance_count": 1},
        {"options": ["--devices=cpu"]},
        severity="warning",
    ),
    Fault(
        "machines-idle",
        "1 worker(s) train on 3 machines",
        CPUS,
        severity="warning",
    ),
    Fault(
        "gpus", "asks for CUDA", CPUS, {"options": ["--devices", "cuda"]}, facts={"offers": OFFERS}
    ),
    Fault(
        "bf16",
        "the T4 of ml.g4dn.12xlarge",
        T4S,
        {"recipe": {"train.precision": "bf16"}},
        {"offers": OFFERS},
    ),
    Fault("bf16", "the V100", V100S, {"recipe": {"train.precision": "bf16"}}, {"offers": OFFERS}),
    Fault(
        "batch-norm",
        "8 workers train",
        job={"recipe": {"model.encoder.convolution_norm": "batch_norm"}},
    ),
    Fault("threads", "need 512 CPUs", job={"recipe": {"train.threads_per_worker": 64}}),
    Fault("head-run", "(cpu, ml.c5.4xlarge)", TWO_GROUPS, LOCAL_RUN, {"offers": OFFERS}),
    Fault("head-run", "(cpu,", TWO_GROUPS | {"head_group": "cpu"}, LOCAL_RUN, {"offers": OFFERS}),
    Fault(
        "shared-folder",
        "--out {run} is a folder of each machine",
        job={"command": ["run", "{channel:work}/r.yaml", "--out", "{run}"], "run": "runs/x"},
    ),
    Fault(
        "shared-folder",
        "--out {channel:work}/store is a folder",
        job={
            "command": ["data", "prepare", "{channel:work}/r", "--out", "{channel:work}/store"],
            "channels": LOCAL_RUN["channels"],
            "run": None,
        },
    ),
    Fault("shared-folder", "--store runs/store", job={"options": ["--store", "runs/store"]}),
    Fault(
        "gpus-idle",
        "`data prepare` computes on CPUs",
        job={"command": ["data", "prepare", "{channel:work}/r", "--out", "{channel:work}/s"]},
        severity="warning",
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_fault_is_found(fault: Fault) -> None:
    see_that_it_is_found(fault)
