"""The forecast of a whole recipe, from what lies on this machine."""

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.cloud_plan import CloudPlan, make_cloud_plan
from launcher.outlook import describe_outlook
from launcher.prices import estimate
from launcher.spec import JobSpec
from rayasr.errors import ConfigError

RECIPE = Path(__file__).resolve().parents[3] / "configs" / "digits.yaml"
PLACE = {
    "role": "arn:aws:iam::111122223333:role/job",
    "image": "111122223333.dkr.ecr.us-east-1.amazonaws.com/rayasr:1",
    "output": "s3://bucket/out",
    "instance_type": "ml.g5.xlarge",
    "prices": {"ml.g5.xlarge": 2.0},
    "vpc": {"subnets": ["subnet-1"], "security_groups": ["sg-1"]},
}


def plan(*command: str, folder: str | None = None, **fields: Any) -> CloudPlan:
    """A job whose channel `work` lies at `folder` too."""
    work = {"fsx": {"id": "fs-0123456789", "mount_name": "abc"}, "access": "write"}
    job = {
        "name": "job",
        "command": command,
        "channels": {"work": work | ({"local_path": folder} if folder else {})},
        "run": "{channel:work}/run",
        "time_limit": "10h",
        "sagemaker": PLACE,
    }
    spec = JobSpec.model_validate(job | fields)
    return make_cloud_plan(spec, region="us-east-1", stamp="1", token="0" * 64, mount_names={})


def outlook(plan: CloudPlan, speed: float | None = None) -> str | None:
    return describe_outlook(plan, estimate(plan.job, plan.region), speed)


def train(*more: str) -> tuple[str, ...]:
    return ("train", str(RECIPE), "--set", "train.epochs=3", "--store", "{channel:work}/s", *more)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A store of 20 hours and a run of 5 hours an hour, after one epoch and a half of 18 hours."""
    (tmp_path / "s").mkdir()
    store = {"splits": {"train": {"hours": 20.0}, "dev": {"hours": 1.0}}}
    (tmp_path / "s" / "store.json").write_text(json.dumps(store))
    (tmp_path / "run").mkdir()
    rows = [
        {"epoch": 0, "audio_hours": 18.0, "audio_hours_per_hour": 5.0},
        {"epoch": 0, "step": 4, "dev_loss": 2.0},
        {"epoch": 1, "audio_hours": 27.0, "audio_hours_per_hour": 5.0},
    ]
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    (tmp_path / "run" / "metrics.jsonl").write_text(lines)
    return str(tmp_path)


def test_speed_of_the_last_run_and_hours_of_the_store(folder: str) -> None:
    assert outlook(plan(*train(), folder=folder)) == (
        "about 12.0 hours of training for the whole recipe, 24.00 USD (3 epochs of 20 h at the "
        "last run's 5 h an hour); the time limit of 10h comes before its end"
    )


def test_speed_that_is_given_comes_first(folder: str) -> None:
    assert outlook(plan(*train(), folder=folder), 10.0) == (
        "about 6.0 hours of training for the whole recipe, 12.00 USD (3 epochs of 20 h at a given "
        "10 h an hour)"
    )


def test_hours_of_an_epoch_where_there_is_no_store(folder: str) -> None:
    Path(folder, "s", "store.json").unlink()
    assert "3 epochs of 18 h at the last run's 5 h" in str(outlook(plan(*train(), folder=folder)))


def test_corpus_of_unknown_size() -> None:
    assert str(outlook(plan(*train()), 10.0)).startswith("no forecast: ")


def test_nothing_is_said_where_nothing_is_known(tmp_path: Path) -> None:
    assert outlook(plan(*train())) is None
    assert outlook(plan(*train(), folder=str(tmp_path))) is None


def test_only_training_has_a_forecast(folder: str) -> None:
    assert outlook(plan("score", "a", "b", folder=folder), 5.0) is None


@pytest.mark.parametrize("speed", [0.0, -1.0])
def test_speed_that_cannot_be(folder: str, speed: float) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        outlook(plan(*train(), folder=folder), speed)


@pytest.mark.parametrize("argument", ["x" * 2500, "s3://bucket/store", "语音", "{channel:work}"])
def test_odd_arguments_are_no_stores(folder: str, argument: str) -> None:
    Path(folder, "s", "store.json").unlink()
    assert "epochs of 18 h" in str(outlook(plan(*train("--x", argument), folder=folder)))
