"""Sound jobs have no finding; what could not be asked is a note and blocks nothing."""

from dataclasses import replace
from typing import Any

import pytest

from launcher.preflight.check import check, has_errors
from launcher.preflight.facts import Image, S3Data, Topic, Unknown
from tests.cloud_jobs import FILE_SYSTEM
from tests.sound_job import BUCKET, CPUS, LOCAL_RUN, OFFERS, T4S, sound_facts, sound_plan

PREPARE = ["data", "prepare", "{channel:work}/r.yaml", "--out", "{channel:work}/store"]
SPOT = {"spot": True, "max_wait": "4h"}


@pytest.mark.parametrize(
    ("place", "job"),
    [
        ({}, {}),
        ({}, {"workers": "4:8"}),
        (SPOT, {}),  # the run is on FSx
        (SPOT | {"checkpoints": f"s3://{BUCKET}/checkpoints"}, LOCAL_RUN),
        ({"vpc": None}, LOCAL_RUN),
        ({"max_cost": 30}, {}),
        (CPUS, {"command": PREPARE, "run": None}),
        (CPUS, {"workers": "3"}),
        (T4S, {"recipe": {"train.precision": "auto"}}),
    ],
)
def test_a_sound_job_has_no_finding(place: dict[str, Any], job: dict[str, Any]) -> None:
    facts = sound_facts(offers=OFFERS, data={"work": S3Data(9, 10**9)})
    assert check(sound_plan(place, **job), facts) == []


@pytest.mark.parametrize(
    ("topic", "subject", "left_out"),
    [
        ("regions", "", {"regions": {}}),
        ("role", "", {"role": None}),
        ("image", "", {"image": None}),
        ("instance offers", "", {"offers": {}}),
        ("subnets", "", {"subnets": {}}),
        ("security groups", "", {"security_groups": {}}),
        ("file system", FILE_SYSTEM, {"file_systems": {}}),
        ("bucket", BUCKET, {"buckets": {}}),
    ],
)
def test_what_could_not_be_asked_is_a_note(
    topic: Topic, subject: str, left_out: dict[str, Any]
) -> None:
    missing = Unknown(topic, subject, "not authorized to perform it")
    findings = check(sound_plan(), sound_facts(unknown=(missing,), **left_out))
    assert [finding.severity for finding in findings] == ["note"]
    assert findings[0].found.startswith("not authorized to perform it")
    assert findings[0].why.startswith("so it was not checked that ")
    assert not has_errors(findings)


def test_kernels_do_not_matter_where_nothing_runs_on_the_gpus() -> None:
    image = replace(sound_facts().image or Image(""), labels={"rayasr.arch_list": ""})
    prepare = check(sound_plan(command=PREPARE, run=None), sound_facts(image=image))
    on_cpus = check(sound_plan(options=["--devices", "cpu"]), sound_facts(image=image))
    assert [finding.check for finding in prepare] == ["gpus-idle"]
    assert [finding.severity for finding in on_cpus] == ["warning"]


def test_without_credentials_the_job_itself_is_still_checked() -> None:
    facts = sound_facts(
        identity=None, role=None, unknown=(Unknown("credentials", "", "there are none"),)
    )
    findings = check(sound_plan(recipe={"batch.micro_batches": 4}), facts)
    assert [finding.check for finding in findings] == ["credentials", "micro-batches"]


def test_the_worst_comes_first() -> None:
    job = sound_plan({"instance_type": "ml.p3.8xlarge", "prices": {}}, workers="4")
    severities = [finding.severity for finding in check(job, sound_facts())]
    assert severities == sorted(severities, key=("error", "warning", "note").index)
    assert {"error", "warning"} <= set(severities)


def test_a_finding_says_what_why_and_what_to_do() -> None:
    finding, *_ = check(sound_plan(), sound_facts(role=None))
    lines = finding.describe().splitlines()
    assert lines[0].startswith("error    role: there is no role arn:aws:iam::123456789012:role/")
    assert [line.split()[0] for line in lines[1:]] == ["why:", "do:"]
