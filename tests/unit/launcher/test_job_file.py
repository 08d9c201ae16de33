"""job.json: both sides of what travels."""

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.job_file import JobFile, load_job, sha256
from rayasr.errors import LaunchError
from tests.cloud_jobs import TOKEN

RECIPE = b"name: r\n"


def job_file(**fields: Any) -> JobFile:
    values = {
        "name": "job-1",
        "command": ["train", "{job}/recipe.yaml", "--store", "{channel:s}/x", "--out", "{run}"],
        "channels": {"s": "read"},
        "run": "{channel:s}/run",
        "environment": {},
        "token": TOKEN,
        "head_group": None,
        "num_hosts": 2,
        "on_lost_host": "fail",
        "time_limit_s": 60.0,
        "files": {"recipe.yaml": sha256(RECIPE)},
    }
    return JobFile.model_validate(values | fields)


def write(folder: Path, job: JobFile) -> str:
    """Put a job and its recipe into a folder, as S3 would; the digest of job.json."""
    content = job.to_json()
    (folder / "job.json").write_bytes(content)
    (folder / "recipe.yaml").write_bytes(RECIPE)
    return sha256(content)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    job = job_file()
    assert load_job(tmp_path, write(tmp_path, job)) == job


@pytest.mark.parametrize(
    "value",
    ["x" * 2500, 'it\'s "quoted"', "two\nlines\r\n\ttab", "$(id) ${HOME}", "`id`", "语音识别", ""],
)
def test_odd_values_arrive_unchanged(value: str) -> None:
    job = job_file(command=["score", value], environment={"X": value})
    read = JobFile.from_json(job.to_json())
    assert read.arguments_on_host("/opt/ml") == ("score", value)
    assert read.environment == {"X": value}


def test_the_same_job_gives_the_same_bytes() -> None:
    assert job_file().to_json() == job_file().to_json()
    assert json.loads(job_file().to_json())["format"] == 1


def test_places_on_a_host() -> None:
    job = job_file()
    data = "/opt/ml/input/data"
    assert job.run_on_host("/opt/ml") == f"{data}/s/run"
    assert job.arguments_on_host("/opt/ml") == (
        *("train", f"{data}/rayasr-job/recipe.yaml"),
        *("--store", f"{data}/s/x", "--out", f"{data}/s/run"),
    )


@pytest.mark.parametrize(
    ("run", "folder"),
    [("digits", "/opt/ml/checkpoints/digits"), ("/scratch/run", "/scratch/run"), (None, None)],
)
def test_a_relative_run_lies_where_checkpoints_are_mirrored(
    run: str | None, folder: str | None
) -> None:
    assert job_file(run=run).run_on_host("/opt/ml") == folder


def test_a_changed_job_is_refused(tmp_path: Path) -> None:
    write(tmp_path, job_file())
    with pytest.raises(LaunchError, match=r"job\.json is not the one that was submitted"):
        load_job(tmp_path, "0" * 64)


def test_a_changed_recipe_is_refused(tmp_path: Path) -> None:
    digest = write(tmp_path, job_file())
    (tmp_path / "recipe.yaml").write_text("name: other\n")
    with pytest.raises(LaunchError, match=r"recipe\.yaml is not the one that was submitted"):
        load_job(tmp_path, digest)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    digest = write(tmp_path, job_file())
    (tmp_path / "recipe.yaml").unlink()
    with pytest.raises(LaunchError, match=r"cannot read .*/recipe\.yaml: No such file"):
        load_job(tmp_path, digest)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{", "job.json: content: Invalid JSON"),
        (b"\xff", "job.json: content: Invalid JSON"),
        (b"[]", "job.json: content: Input should be an object"),
        (b'{"format": 2}', "job.json: format: Input should be 1"),
    ],
)
def test_what_is_no_job_is_refused(content: bytes, sentence: str) -> None:
    with pytest.raises(LaunchError) as caught:
        JobFile.from_json(content)
    assert str(caught.value).startswith(sentence)


def test_the_token_is_never_shown() -> None:
    values = json.loads(job_file().to_json()) | {"token": TOKEN + "x"}
    with pytest.raises(LaunchError) as caught:
        JobFile.from_json(json.dumps(values).encode())
    assert TOKEN not in str(caught.value)
    assert TOKEN not in repr(job_file())
