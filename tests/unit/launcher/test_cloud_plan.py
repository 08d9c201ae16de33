"""Plans for SageMaker: what travels, what it is called, what is refused before anything is sent."""

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.cloud_plan import make_cloud_plan
from launcher.job_file import JobFile, sha256
from launcher.spec import JobSpec, load_spec
from rayasr.config import load_recipe
from rayasr.errors import ConfigError, RayasrError
from tests.cloud_jobs import FILE_SYSTEM, STAMP, TOKEN, cloud_job, cloud_plan

ROOT = Path(__file__).resolve().parents[3]
TUTORIAL = ("download", "prepare", "train-local", "train-2x4gpu", "export")
RECIPE = "name: tiny\ntrain: {epochs: 3}\ncorpora: [{path: /corpus}]\n"


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    return str(tmp_path / "tiny.yaml")


def job_file(job: JobSpec) -> JobFile:
    return JobFile.from_json(cloud_plan(job).files["job.json"])


@pytest.mark.parametrize("name", TUTORIAL)
def test_the_tutorial_can_be_planned(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    plan = cloud_plan(load_spec(f"configs/jobs/{name}.yaml"))
    assert plan.name == f"{name}-{STAMP}"
    assert plan.job_prefix == f"s3://my-bucket/rayasr/{name}-{STAMP}/job"
    for channel in plan.job.channels.values():
        assert channel.local_path is not None  # the same file runs here


def test_job_file_says_what_the_machines_need() -> None:
    job = cloud_job(
        workers="2:4",
        environment={"A": "1"},
        place={
            "instance_type": None,
            "instance_count": None,
            "instance_groups": [
                {"name": "cpus", "instance_type": "ml.c5.xlarge", "instance_count": 3},
                {"name": "gpus", "instance_type": "ml.g5.xlarge"},
            ],
            "head_group": "gpus",
        },
    )
    assert job_file(job) == JobFile(
        name=f"job-{STAMP}",
        command=job.command,
        channels={"work": "write"},
        run="{channel:work}/run",
        environment={"A": "1"},
        token=TOKEN,
        head_group="gpus",
        num_hosts=4,
        on_lost_host="continue",
        time_limit_s=7200.0,
        files={},
    )


def test_recipe_travels_with_all_its_values(recipe: str, tmp_path: Path) -> None:
    command = ["train", recipe, "--store", "s", "--set", "train.epochs=7", "--set=seed=5"]
    plan = cloud_plan(cloud_job(command=command))
    assert plan.command == ("train", "{job}/recipe.yaml", *command[2:])
    (tmp_path / "arrived.yaml").write_bytes(plan.files["recipe.yaml"])
    arrived = load_recipe(tmp_path / "arrived.yaml")
    assert arrived == load_recipe(recipe, ["train.epochs=7", "seed=5"])
    # What the command still says is said twice, which changes nothing.
    assert arrived == load_recipe(tmp_path / "arrived.yaml", ["train.epochs=7", "seed=5"])
    digests = json.loads(plan.files["job.json"])["files"]
    assert digests == {"recipe.yaml": sha256(plan.files["recipe.yaml"])}


def test_recipe_of_a_channel_stays_there() -> None:
    job = cloud_job(command=["train", "{channel:work}/r.yaml", "--out", "{run}"])
    plan = cloud_plan(job)
    assert plan.command == job.command
    assert "recipe.yaml" not in plan.files


def test_values_known_only_there_are_left_to_the_command(recipe: str) -> None:
    late = "units.file={channel:work}/units.txt"
    plan = cloud_plan(cloud_job(command=["train", recipe, "--set", late]))
    assert plan.command[-1] == late
    assert b"file: null" in plan.files["recipe.yaml"]


def test_workers_are_added_to_the_command(recipe: str) -> None:
    plan = cloud_plan(cloud_job(command=["train", recipe], workers="8"))
    assert plan.command[-2:] == ("--workers", "8")


def test_code_travels_where_asked(tmp_path: Path) -> None:
    for package in ("rayasr", "launcher"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "rayasr/x.pem").touch()
    plan = cloud_plan(cloud_job(place={"code": {"folder": str(tmp_path)}}))
    assert plan.overlay_files == ("launcher/__init__.py", "rayasr/__init__.py")
    assert list(json.loads(plan.files["job.json"])["files"]) == ["code.tar.gz"]
    shown = plan.describe()
    assert "code         2 files, 0.00 MB packed" in shown
    assert "left out     rayasr/x.pem" in shown


@pytest.mark.parametrize(
    "value", ["x" * 2500, "$(id)`id`", "a 'b' \"c\"", "two\nlines", "语音识别"]
)
def test_odd_values_are_carried_unchanged(value: str) -> None:
    job = cloud_job(command=["transcribe", value], environment={"X": value})
    sent = job_file(job)
    assert sent.command == ("transcribe", value)
    assert sent.environment == {"X": value}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("job", f"job-{STAMP}"),
        ("x" * 63, f"{'x' * 47}-{STAMP}"),
        (f"{'x' * 46}--y", f"{'x' * 46}-{STAMP}"),
    ],
)
def test_name_has_room_for_the_stamp(name: str, expected: str) -> None:
    plan = cloud_plan(cloud_job(name=name))
    assert plan.name == expected
    assert len(plan.name) <= 63


def test_partition_of_the_region() -> None:
    job = cloud_job(place={"role": "arn:aws-cn:iam::123456789012:role/job"})
    plan = cloud_plan(job, "cn-north-1")
    assert (plan.partition, plan.dns_suffix) == ("aws-cn", "amazonaws.com.cn")


def test_mount_name_of_one_channel_serves_all() -> None:
    fsx = {"id": "fs-00000000000000000"}
    channels = {"a": {"fsx": fsx | {"mount_name": "abc"}}, "b": {"fsx": fsx}}
    plan = cloud_plan(cloud_job(command=["score"], run=None, channels=channels))
    assert plan.mount_names == {"fs-00000000000000000": "abc"}


def test_mount_name_of_the_job_file_comes_first() -> None:
    channels = {"work": {"fsx": {"id": FILE_SYSTEM, "mount_name": "mine"}}}
    assert cloud_plan(cloud_job(channels=channels)).mount_names == {FILE_SYSTEM: "mine"}


def test_description_names_places_and_no_secret() -> None:
    job = cloud_job(
        environment={"API_TOKEN": "hush"},
        place={"spot": True, "max_wait": "1d", "checkpoints": "s3://my-bucket/checkpoints"},
    )
    shown = cloud_plan(job).describe()
    for line in (
        f"job          job-{STAMP}, on SageMaker in eu-central-1",
        "machines     2 x spot, ml.g5.12xlarge",
        f"channel      work: FSx {FILE_SYSTEM}:/fsxmount (write)",
        "checkpoints  s3://my-bucket/checkpoints",
        "environment  API_TOKEN",
        "time limit   2h",
    ):
        assert line in shown.splitlines()
    assert "hush" not in shown
    assert TOKEN not in shown + repr(cloud_plan(job))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"sagemaker": None}, "job job has no 'sagemaker:' section"),
        ({"channels": {"work": {"local_path": "x"}}}, "channel 'work' has no place on SageMaker"),
        (
            {"channels": {"work": {"fsx": {"id": "fs-00000000000000000"}}}},
            "the MountName of fs-00000000000000000 is not known; give channels.work.fsx.mount_name",
        ),
        ({"command": ["train"]}, "command: put the recipe right behind 'train'"),
        (
            {"command": ["data", "prepare", "--out", "x", "r.yaml"]},
            "command: put the recipe right behind 'data prepare'",
        ),
        ({"command": ["train", "none.yaml"]}, "cannot read none.yaml"),
        ({"command": ["score", "{job}/x"]}, "{job} is kept for the folder of the job file"),
        (
            {"place": {"role": "arn:aws-cn:iam::123456789012:role/job"}},
            "sagemaker.role: arn:aws-cn:iam::123456789012:role/job is of partition aws-cn, but "
            "eu-central-1 is in aws",
        ),
        (
            {"place": {"volume_kms_key": "arn:aws-us-gov:kms:us-gov-west-1:123456789012:key/k"}},
            "sagemaker.volume_kms_key: ",
        ),
        ({"place": {"code": {"folder": "/nowhere"}}}, "is no checkout of rayasr"),
    ],
)
def test_what_cannot_run_is_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cloud_plan(cloud_job(**fields))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("units.file=units.txt", "the recipe's units.file units.txt does not travel"),
        ("corpora=[{path: corpora/mine}]", "the recipe's corpus corpora/mine does not travel"),
        ("train.epoch=3", "did you mean 'train.epochs'?"),
    ],
)
def test_recipes_that_cannot_run_there(recipe: str, setting: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cloud_plan(cloud_job(command=["data", "prepare", recipe, "--set", setting]))
    assert sentence in str(caught.value)


def test_corpus_of_the_command_replaces_the_recipes(recipe: str) -> None:
    command = ["run", recipe, "--set", "corpora=[{path: mine}]", "--corpus={channel:work}"]
    assert cloud_plan(cloud_job(command=command)).files["recipe.yaml"]


def test_unknown_region() -> None:
    with pytest.raises(RayasrError, match="there is no AWS region 'mars-1'"):
        make_cloud_plan(cloud_job(), region="mars-1", stamp=STAMP, token=TOKEN, mount_names={})
