"""Any job file gives a request that the service would take, or a named error; never a traceback."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from launcher.aws.request import training_job_request
from launcher.aws.request_check import request_problems
from launcher.cloud_plan import CloudPlan
from launcher.job_file import JobFile
from launcher.spec import load_spec
from rayasr.errors import RayasrError
from tests.cloud_jobs import PLACE, cloud_plan

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
JOBS = {
    (GOLDEN / f"{name}.yaml").read_text(encoding="utf-8"): region
    for name, region in {"china": "cn-north-1", "groups": "us-west-2", "spot": "eu-west-1"}.items()
}
"""Sound jobs, and where they run."""

TIMES = ("90s", "1800s", "1.5h", "2d", "28d", "29d", "0.1s", "1e3s", "9" * 400 + "d")
COUNTS = ("1", "2", "30", "100", "101", "0", "-1", "1e3", "9" * 30)
URLS = ("s3://my-bucket", "s3://my-bucket/语音/", "s3://my-bucket//", "s3://ab", "https://x/y")
FSX = "fsx: {id: fs-0123456789abcdef0"
CHANGES = {
    "name": ("job", "x" * 63, "x" * 64, "a--b", "-a", "语音", "a_b"),
    "command": (
        *("[score]", "[]", "[train]", "[launch, x]", "[train, tests/none.yaml]", "[run, --out, x]"),
        *("[score, '{run}', '{channel:work}']", "[score, '{job}']", "[score, {a: b}]", "['']"),
        *("[train, '{channel:work}/r.yaml', --set, a, --set]", "[data, prepare]", "[[score]]"),
    ),
    "run": ("x", "/x", "'{run}'", "'{channel:work}/语音'", "'{channel:}'", "''"),
    "channels": (
        *("{}", "{work: {}}", "{work: null}", "{'a b': {}}", "{rayasr-job: {}}", "[]"),
        f"{{work: {{access: write, {FSX}}}}}, c: {{s3: s3://my-bucket/x}}}}",
        f"{{work: {{{FSX}, path: //a//../b}}}}}}",
        f"{{work: {{{FSX}, path: /{'x' * 5000}}}}}}}",
        f"{{work: {{{FSX}}}, s3: s3://my-bucket}}}}",
        "{work: {efs: {id: fs-" + "0" * 40 + "}}}",
        "{work: {s3: s3://my-bucket/" + "x" * 1020 + "}}",
        "{" + ", ".join(f"c{n}: {{s3: s3://my-bucket/{n}}}" for n in range(20)) + "}",
        "{work: {s3: s3://my-bucket, groups: [cpus, gpus, nobody]}}",
    ),
    "environment": ("{A: b}", "{'': b}", "{1: 2}", "{A: [b]}", "[A]", "{语: b}"),
    "time_limit": TIMES,
    "workers": ("8", "4:8", "8:4", "0", "'8 '"),
    "on_lost_host": ("fail", "continue", "hope"),
    "sagemaker": ("null", "[]", "{}", "x"),
    "sagemaker.region": ("us-east-1", "mars", "''"),
    "sagemaker.role": (
        *("arn:aws:iam::123456789012:role/a/b", "arn:aws-cn:iam::123456789012:role/a", "me"),
        *("arn:aws:iam::123456789012:role/" + "x" * 512, "arn:aws:iam::123456789012:role/(语)"),
    ),
    "sagemaker.image": ("a/b:c", "x" * 256, "语音识别", "'a\n\nb'"),
    "sagemaker.output": (*URLS, "s3://my-bucket/" + "x" * 1000),
    "sagemaker.instance_type": (
        "ml.c5.xlarge",
        "ml.c5.huge",
        "ml.g5.12xlarge",
        "c5.xlarge",
        "null",
    ),
    "sagemaker.instance_count": COUNTS,
    "sagemaker.instance_groups": (
        "[{name: a, instance_type: ml.c5.xlarge}]",
        "[{name: a, instance_type: ml.c5.xlarge}, {name: a, instance_type: ml.g5.xlarge}]",
        "[" + "{name: a, instance_type: ml.c5.xlarge}, " * 6 + "]",
    ),
    "sagemaker.head_group": ("a", "gpus", "''"),
    "sagemaker.volume_gb": COUNTS,
    "sagemaker.vpc": (
        *("null", "{}", "{subnets: [a], security_groups: [b]}", "{subnets: a}"),
        "{subnets: ['a b'], security_groups: ['']}",
        "{subnets: [" + "a, " * 17 + "], security_groups: [b]}",
    ),
    "sagemaker.checkpoints": URLS,
    "sagemaker.spot": ("true", "false", "maybe"),
    "sagemaker.max_wait": TIMES,
    "sagemaker.max_pending": TIMES,
    "sagemaker.keep_alive": TIMES,
    "sagemaker.volume_kms_key": ("alias/a", "a b", "arn:aws:kms:x", "arn:", "x" * 2049),
    "sagemaker.output_kms_key": ("alias/a", "语", "arn:aws-cn:kms:x:y"),
    "sagemaker.tags": ("{a: b}", "{'': b}", "{a: ''}", "{语: 音}", "{a: ';'}", "{aws:x: y}"),
    "sagemaker.metrics": ("{a: b}", "{'': b}", "{a: ''}", "{a: (}", "{a: " + "x" * 501 + "}"),
    "sagemaker.attempts": COUNTS,
    "sagemaker.code": ("{folder: /nowhere}", "{folder: ~nobody}", "{max_mb: 1e-9}", "{max_mb: x}"),
    "sagemaker.max_cost": (*COUNTS, "inf", "nan"),
    "sagemaker.prices": ("{ml.c5.xlarge: 1}", "{x: -1}", "{x: y}", "{x: nan}"),
}
"""Values that are sound, or not, in a job that is."""

pytestmark = pytest.mark.property
odd_text = (
    st.text(max_size=20)
    | st.sampled_from(
        ["", " ", "'\"", "two\nlines\r", "$(id)", "`id`", "语音识别", "{", "\0", "\x85"]
    )
    | st.just(2500).map(lambda count: "x" * count)
)
jobs = st.sampled_from(list(JOBS))


@st.composite
def changes(draw: st.DrawFn) -> str:
    """One changed value, `key=value`; one in six is anything at all."""
    key = draw(st.sampled_from(sorted(CHANGES)))
    if draw(st.integers(0, 5)) == 0:
        return f"{key}={json.dumps(draw(odd_text))}"
    return f"{key}={draw(st.sampled_from(CHANGES[key]))}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module", autouse=True)
def in_the_checkout() -> Iterator[None]:
    """The jobs name recipes relative to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(GOLDEN.parents[1])
        yield


def plan_of(content: str, folder: Path, *overrides: str, region: str = "eu-west-1") -> Any:
    """The plan of a job file, whose request breaks no limit; None where it is refused."""
    path = folder / "job.yaml"
    path.write_text(content, encoding="utf-8", newline="")
    try:
        plan = cloud_plan(load_spec(path, overrides), region)
        request = training_job_request(plan)
    except RayasrError:
        return None
    assert request_problems(request) == []
    return plan


@settings(max_examples=600, deadline=None)
@given(job=jobs, changed=st.lists(changes(), max_size=2))
def test_changed_job_files(job: str, changed: list[str], folder: Path) -> None:
    plan = plan_of(job, folder, *changed, region=JOBS[job])
    assert plan is not None or changed


@settings(max_examples=300, deadline=None)
@given(
    job=jobs,
    at=st.floats(0, 1),
    length=st.integers(0, 40),
    put_in=odd_text
    | st.sampled_from([":", "- ", "!!python/x ", "&a ", "*a ", "\t", "? ", "\ufeff"]),
)
def test_damaged_job_files(job: str, at: float, length: int, put_in: str, folder: Path) -> None:
    start = int(at * len(job))
    plan_of(job[:start] + put_in + job[start + length :], folder, region=JOBS[job])


@settings(max_examples=200, deadline=None)
@given(
    key=st.sampled_from(["a.b", "channels.x.y", "name.x", "sagemaker.vpc.subnets"]) | odd_text,
    value=odd_text,
)
@example(key="environment.A", value='"\\ud800"')  # half a character: not to be had in UTF-8
@example(key="sagemaker.spot", value="*a")
@example(key="name", value="!!python/object:os.system x")
def test_overrides_of_every_shape(key: str, value: str, folder: Path) -> None:
    plan_of(list(JOBS)[-1], folder, f"{key}={value}")


@settings(max_examples=200, deadline=None)
@given(arguments=st.lists(odd_text, max_size=4), value=odd_text)
def test_what_is_taken_is_carried_unchanged(arguments: list[str], value: str, folder: Path) -> None:
    job = {
        "name": "job",
        "command": ["transcribe", *arguments],
        "environment": {"X": value},
        "time_limit": "1h",
        "sagemaker": PLACE,
    }
    plan: CloudPlan | None = plan_of(yaml.safe_dump(job, default_style='"'), folder)
    if plan is None:
        assert {"\0", "{"} & set("".join([*arguments, value]))
        return
    sent = JobFile.from_json(plan.files["job.json"])
    assert sent.command == ("transcribe", *arguments)
    assert sent.environment == {"X": value}
