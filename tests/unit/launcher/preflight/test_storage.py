"""Faults of buckets, data, disks and keys."""

import pytest

from launcher.preflight.facts import Bucket, Key, S3Data
from tests.cloud_jobs import REGION
from tests.sound_job import ACCOUNT, BUCKET, CPUS, LOCAL_RUN, OFFERS, Fault, see_that_it_is_found

KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1234"

FAULTS = [
    Fault("bucket", f"sagemaker.output: there is no bucket {BUCKET}", facts={"buckets": {}}),
    Fault(
        "bucket", "sagemaker.checkpoints: there is no bucket other", {"checkpoints": "s3://other/c"}
    ),
    Fault("bucket-region", "is in us-east-1", facts={"buckets": {BUCKET: Bucket("us-east-1")}}),
    Fault(
        "data",
        f"nothing under s3://{BUCKET}/corpus/",
        job=LOCAL_RUN,
        facts={"data": {"work": S3Data(0, 0)}},
    ),
    Fault(
        "disk",
        "at least 200.0 GB of data go to the 54 GB disk of each ml.c5.4xlarge",
        CPUS,
        LOCAL_RUN | {"workers": "3"},
        {"offers": OFFERS, "data": {"work": S3Data(50_000, 200 * 10**9, complete=False)}},
    ),
    Fault(
        "disk",
        "3795.0 GB of data go to the 3800 GB disk",
        job=LOCAL_RUN,
        facts={"data": {"work": S3Data(9, 3795 * 10**9)}},
        severity="warning",
    ),
    Fault("kms-key", "does not exist here", {"output_kms_key": KEY}),
    Fault(
        "kms-key",
        "is PendingDeletion",
        {"output_kms_key": KEY},
        facts={"keys": {KEY: Key("PendingDeletion")}},
    ),
    Fault(
        "kms-key",
        "no symmetric key",
        {"output_kms_key": KEY},
        facts={"keys": {KEY: Key("Enabled", symmetric=False)}},
    ),
    Fault(
        "kms-nvme",
        "ml.g5.12xlarge have NVMe",
        {"volume_kms_key": KEY},
        facts={"keys": {KEY: Key("Enabled")}},
    ),
    Fault(
        "isolation",
        "mirrors checkpoints to s3://b/c",
        {"network_isolation": True},
        {"recipe": {"checkpoint.mirror": "s3://b/c"}},
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_fault_is_found(fault: Fault) -> None:
    see_that_it_is_found(fault)
