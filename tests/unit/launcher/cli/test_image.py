"""The verbs of `rayasr image`: what they hand on and print."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from launcher.cli import image as cli_image
from launcher.docker import image
from launcher.docker.image import BuildOptions
from tests.unit.launcher.fake_docker import FakeDocker

LAYERS = [json.dumps({"Size": str(size), "CreatedBy": "COPY x"}) for size in (2_500_000, 1_000_000)]


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    fake = FakeDocker(tmp_path, {"history": f"[print(line) for line in {LAYERS}]"})
    monkeypatch.setenv("PATH", fake.environment["PATH"])
    app = typer.Typer()
    cli_image.register(app)
    app.callback()(lambda: None)
    return app


def run(app: typer.Typer, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["image", *arguments])


def test_build_shows_the_layers(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(image, "build_image", lambda _docker, *rest: seen.extend(rest))
    result = run(app, "build", "asr:1", "--base", "debian", "--build-arg", "A=1", "--network", "n")
    assert result.exit_code == 0
    assert seen == [Path(), BuildOptions("asr:1", "debian", ("A=1",), "linux/amd64", "n")]
    assert result.stdout.splitlines() == [
        "      3.5 MB  asr:1",
        "      2.5 MB  COPY x",
        "      1.0 MB  COPY x",
    ]


def test_check(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(image, "check_image", lambda _docker, name: seen.append(name))
    assert run(app, "check").exit_code == 0
    assert seen == ["rayasr"]


def test_push_writes_the_digest_into_the_job(
    app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def push(_docker: Any, _ecr: Any, *names: str, create: bool) -> str:
        assert names == ("rayasr", "asr", "latest")
        assert create
        return "asr@sha256:1"

    monkeypatch.setattr(image, "push_image", push)
    monkeypatch.setattr("launcher.aws.session.Aws.client", lambda _self, name: name)
    job = tmp_path / "job.yaml"
    job.write_text("sagemaker:\n  image: old # ours\n")
    result = run(app, "push", "--repository", "asr", "--create", "--job", str(job))
    assert result.exit_code == 0
    assert result.stdout == "asr@sha256:1\n"
    assert job.read_text() == "sagemaker:\n  image: asr@sha256:1 # ours\n"
