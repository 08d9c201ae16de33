"""Checks of where data lies: buckets, corpora, disks and keys."""

from collections.abc import Iterator

from launcher.cloud_plan import CloudPlan
from launcher.cloud_spec import InstanceGroup
from launcher.instances import INSTANCES
from launcher.preflight.facts import Facts
from launcher.preflight.findings import Finding, error, warning
from launcher.preflight.recipe import recipe_of

GB = 1e9
GIB = 2**30
ROOM_GB = 10.0
"""For Ray's spilled objects, the run and its checkpoints, beside the data."""


def check_storage(plan: CloudPlan, facts: Facts) -> Iterator[Finding]:
    """S3 places that exist, data that is there and fits, keys that work."""
    yield from _buckets(plan, facts)
    yield from _data(plan, facts)
    for group in plan.place.groups:
        yield from _disk(group, plan, facts)
    yield from _keys(plan, facts)
    yield from _mirror(plan)


def s3_places(plan: CloudPlan) -> dict[str, str]:
    """Every place in S3 that the job names: key of the job file → s3://…"""
    places = {"sagemaker.output": plan.place.output}
    if plan.place.checkpoints is not None:
        places["sagemaker.checkpoints"] = plan.place.checkpoints
    for name, channel in plan.job.channels.items():
        if channel.s3 is not None:
            places[f"channels.{name}.s3"] = channel.s3
    return places


def bucket_of(url: str) -> str:
    """The bucket of s3://BUCKET/PREFIX."""
    return url.removeprefix("s3://").partition("/")[0]


def kms_keys(plan: CloudPlan) -> dict[str, str]:
    """The job's keys: key of the job file → id or ARN."""
    keys = {
        "sagemaker.volume_kms_key": plan.place.volume_kms_key,
        "sagemaker.output_kms_key": plan.place.output_kms_key,
    }
    return {name: key for name, key in keys.items() if key is not None}


def _buckets(plan: CloudPlan, facts: Facts) -> Iterator[Finding]:
    for name, url in s3_places(plan).items():
        bucket = bucket_of(url)
        if not facts.knows("bucket", bucket):
            continue
        if bucket not in facts.buckets:
            yield error(
                "bucket",
                f"{name}: there is no bucket {bucket}",
                "SageMaker refuses the job, or fails at its end with nowhere to put the model",
                f"make it (`aws s3 mb s3://{bucket} --region {plan.region}`), or correct {name}",
            )
        elif facts.buckets[bucket].region not in (None, plan.region):
            yield error(
                "bucket-region",
                f"{name}: the bucket {bucket} is in {facts.buckets[bucket].region}, the job in "
                f"{plan.region}",
                "SageMaker takes buckets of its own region only",
                f"take a bucket in {plan.region}, or run the job there",
            )


def _data(plan: CloudPlan, facts: Facts) -> Iterator[Finding]:
    for name, data in facts.data.items():
        if not data.num_objects:
            yield error(
                "data",
                f"channel '{name}': there is nothing under {plan.job.channels[name].s3}/",
                "the job would fail while it downloads its data",
                f"put the data there, or correct channels.{name}.s3",
            )


def _disk(group: InstanceGroup, plan: CloudPlan, facts: Facts) -> Iterator[Finding]:
    """Data of S3 channels is copied to every machine's disk before the job starts."""
    machine = INSTANCES.get(group.instance_type)
    if machine is None:
        return
    copied = [
        facts.data[name]
        for name, channel in plan.job.channels.items()
        if name in facts.data
        and channel.input_mode == "File"
        and (not channel.groups or group.name in channel.groups)
    ]
    data_gb = sum(data.num_bytes for data in copied) / GB
    disk_gb = machine.nvme_gb or plan.place.volume_gb * GIB / GB
    at_least = "" if all(data.complete for data in copied) else "at least "
    if not copied or data_gb + ROOM_GB <= disk_gb:
        return
    severity = error if data_gb > disk_gb else warning
    mend = (
        "take a type with more disk"
        if machine.nvme_gb
        else f"set sagemaker.volume_gb to {int((data_gb + ROOM_GB) * GB / GIB) + 1} or more"
    )
    yield severity(
        "disk",
        f"{at_least}{data_gb:.1f} GB of data go to the {disk_gb:.0f} GB disk of each "
        f"{group.instance_type}",
        f"the download fails when the disk is full, and the run needs some {ROOM_GB:.0f} GB too",
        f"{mend}, give the channel `input_mode: FastFile`, or put the data on FSx",
    )


def _keys(plan: CloudPlan, facts: Facts) -> Iterator[Finding]:
    for name, key_id in kms_keys(plan).items():
        key = facts.keys.get(key_id)
        if not facts.knows("key", key_id):
            continue
        if key is None or key.state != "Enabled" or not key.symmetric:
            state = "does not exist here" if key is None else f"is {key.state}"
            if key is not None and key.state == "Enabled":
                state = "is no symmetric key"
            yield error(
                "kms-key",
                f"{name}: {key_id} {state}",
                "nothing could be encrypted with it, and the job fails",
                f"give an enabled, symmetric key of {plan.region}, or leave {name} out",
            )
    own_disks = sorted(
        group.instance_type
        for group in plan.place.groups
        if group.instance_type in INSTANCES and INSTANCES[group.instance_type].nvme_gb
    )
    if plan.place.volume_kms_key is not None and own_disks:
        yield error(
            "kms-nvme",
            f"sagemaker.volume_kms_key is set, and {', '.join(own_disks)} have NVMe disks",
            "those are encrypted by their hardware; SageMaker refuses a key for them",
            "leave sagemaker.volume_kms_key out, or take a type without disks of its own",
        )


def _mirror(plan: CloudPlan) -> Iterator[Finding]:
    recipe = recipe_of(plan)
    if plan.place.network_isolation and recipe is not None and recipe.checkpoint.mirror:
        yield error(
            "isolation",
            f"the recipe mirrors checkpoints to {recipe.checkpoint.mirror}, and "
            "sagemaker.network_isolation is set",
            "isolated machines reach each other only, so the first checkpoint would fail the job",
            "set sagemaker.checkpoints, which SageMaker itself copies, or leave isolation out",
        )
