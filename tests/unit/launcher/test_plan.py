"""Plans are pure: placeholders become folders, nothing else changes."""

import pytest

from launcher.plan import fill, make_plan
from launcher.spec import JobSpec


def job(command: list[str], run: str | None = None) -> JobSpec:
    return JobSpec(
        name="job",
        command=tuple(command),
        channels={"store": {}, "work": {"access": "write"}},
        run=run,
        time_limit="90s",
    )


PLACES = {"store": "/mnt/a", "work": "/mnt/b"}


def test_placeholders_become_folders() -> None:
    plan = make_plan(
        job(["train", "--store={channel:store}/x", "{run}"], run="{channel:work}/run"),
        "local",
        PLACES,
    )
    assert plan.arguments == ("train", "--store=/mnt/a/x", "/mnt/b/run")
    assert plan.run == "/mnt/b/run"
    assert plan.model == "/mnt/b/run/model"
    assert plan.time_limit_s == 90.0


def test_a_folder_that_looks_like_a_placeholder_is_not_filled_again() -> None:
    plan = make_plan(job(["score", "{channel:store}"]), "local", PLACES | {"store": "{run}"})
    assert plan.arguments == ("score", "{run}")


def test_job_without_run_has_no_model() -> None:
    assert make_plan(job(["score"]), "local", PLACES).model is None


@pytest.mark.parametrize("argument", ["a b", "$(id)", "'", "语音", "two\nlines"])
def test_description_quotes_what_a_shell_would_read(argument: str) -> None:
    plan = make_plan(job(["transcribe", argument]), "local", PLACES)
    assert plan.arguments == ("transcribe", argument)
    assert "command      rayasr transcribe " in plan.describe()
    assert plan.describe().count("channel      ") == 2


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["train", "r.yaml"], ("train", "r.yaml", "--workers", "4:8")),
        (["run", "r.yaml"], ("run", "r.yaml", "--workers", "4:8")),
        (["train", "r.yaml", "--workers", "2"], ("train", "r.yaml", "--workers", "2")),
        (["train", "r.yaml", "--workers=2"], ("train", "r.yaml", "--workers=2")),
        (["data", "prepare", "r.yaml"], ("data", "prepare", "r.yaml")),
    ],
)
def test_workers_go_to_verbs_that_train(command: list[str], expected: tuple[str, ...]) -> None:
    spec = job(command).model_copy(update={"workers": "4:8"})
    assert make_plan(spec, "local", PLACES).arguments == expected


def test_places_without_a_folder_stay() -> None:
    assert fill("{job}/a {run} {run:x} {job:x}", {}) == "{job}/a {run} {run:x} {job:x}"
    assert fill("{job}/a {run} {job:x}", {}, run="{job}", job="/j") == "/j/a {job} {job:x}"
