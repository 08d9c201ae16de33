"""Job files: read as text, checked, refused with one sentence."""

from pathlib import Path

import pytest

from launcher.spec import load_spec
from rayasr.errors import ConfigError

JOBS = Path(__file__).resolve().parents[3] / "configs" / "jobs"
GOOD = """
name: digits
command: [train, configs/digits.yaml, --store, "{channel:store}", --workers, 2]
channels: {store: {local_path: /data/store}}
time_limit: 20m
"""


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(GOOD, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.yaml")), ids=lambda path: path.stem)
def test_examples_load(path: Path) -> None:
    assert load_spec(path).name == path.stem


def test_numbers_in_a_command_are_its_text(job_file: Path) -> None:
    job = load_spec(job_file, ["environment.VERSION=1.10", "environment.FLAG=yes"])
    assert job.command[-1] == "2"
    assert job.environment == {"VERSION": "1.10", "FLAG": "yes"}


def test_pairs_of_escapes_are_one_character(job_file: Path) -> None:
    job = load_spec(job_file, [r'environment.X="\ud83d\ude00 \u8bed"'])
    assert job.environment["X"] == "😀 语"


def test_time_limit_in_seconds(job_file: Path) -> None:
    assert load_spec(job_file).time_limit_s == 1200.0


@pytest.mark.parametrize(
    "value", ["$(touch x)", "`id`", "a 'quoted' \"word\"", "two\nlines", "语音识别", "x" * 2500]
)
def test_awkward_values_are_carried_unchanged(job_file: Path, value: str) -> None:
    quoted = "'" + value.replace("'", "''").replace("\n", "\n\n") + "'"  # YAML folds single breaks
    assert load_spec(job_file, [f"environment.X={quoted}"]).environment["X"] == value


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("comand=[train]", "unknown key 'comand'; did you mean 'command'?"),
        ("channels.store.localpath=x", "did you mean 'channels.store.local_path'?"),
        ("channels.store.local_path=s3://b/k", "channels.store.local_path: must be a folder"),
        ("channels.store.access=rw", "'read' or 'write' (found 'rw')"),
        ("channels={'a b': {}}", "'a b' is no channel name"),
        ("command=['{channel:stor}']", "did you mean {channel:store}?"),
        ("command=['{chanel:store}']", "{chanel:store} is unknown"),
        ("command=[train, --out, '{run}']", "{run} is used, but the job has no 'run:'"),
        ("command=[launch, job.yaml]", "a job cannot launch another job"),
        ("command=train", "command: "),
        ("command=[]", "command: "),
        ("run='{run}/x'", "{run} cannot stand for itself"),
        ("name=语音", "name: must be 1 to 63 ASCII letters"),
        (f"name={'x' * 64}", "name: must be 1 to 63 ASCII letters"),
        ("time_limit=soon", "time_limit: is not a time; write 90s, 20m, 8h or 2d"),
        ("time_limit=99999999d", "time_limit: is not a time"),
        ("time_limit=0s", "time_limit: is not a time"),
        ("environment.a-b=1", "'a-b' is no name of an environment variable"),
    ],
)
def test_mistakes_are_named(job_file: Path, override: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_spec(job_file, [override])
    assert sentence in str(caught.value)
    assert str(job_file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_braces_of_other_programs_stay(job_file: Path) -> None:
    job = load_spec(job_file, ["command=[train, '{\"a\": 1}', '{x}', '${HOME}']"])
    assert job.command[1:] == ('{"a": 1}', "{x}", "${HOME}")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"name: [", "is not valid YAML"),
        (b"- a", "must be a mapping"),
        (b"\xff\xfe", "is not text in UTF-8"),
        (b"", "name: Field required"),
        (b'name: "\\ud83d"', "is not valid YAML: half a character"),
        (b"[" * 3000, "is not valid YAML: it is nested too deeply"),
    ],
)
def test_files_that_are_no_jobs(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=sentence):
        load_spec(path)


def test_missing_file_lists_the_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(JOBS.parents[1])
    with pytest.raises(ConfigError, match=r"configs/jobs/ has digits\.yaml"):
        load_spec("nothing.yaml")
