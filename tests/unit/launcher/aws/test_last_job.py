"""The job submitted last is found again, where it was submitted."""

from pathlib import Path

import pytest

from launcher.aws.last_job import LastJob, recall, remember
from rayasr.errors import ConfigError

JOB = LastJob("job-1", "work", "eu-west-1", "http://127.0.0.1:5599")


def test_it_is_kept_in_the_cache_folder(tmp_path: Path) -> None:
    remember(LastJob("older"), {"XDG_CACHE_HOME": str(tmp_path)})
    remember(JOB, {"XDG_CACHE_HOME": str(tmp_path)})
    assert (tmp_path / "rayasr" / "last_job.json").is_file()
    assert recall({"XDG_CACHE_HOME": str(tmp_path)}) == JOB


def test_default_is_below_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    remember(JOB, {})
    assert (tmp_path / ".cache" / "rayasr" / "last_job.json").is_file()
    assert recall({}) == JOB


def test_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    environment = {"XDG_CACHE_HOME": str(tmp_path / "file")}
    remember(JOB, environment)
    with pytest.raises(ConfigError, match="no job is remembered"):
        recall(environment)


@pytest.mark.parametrize("content", ["", "[]", '{"name": "x", "other": 1}', "3", "\udcff"])
def test_file_that_is_damaged(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rayasr" / "last_job.json"
    path.parent.mkdir()
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=r"no job is remembered.*`rayasr jobs ls`"):
        recall({"XDG_CACHE_HOME": str(tmp_path)})
