"""The verbs of `rayasr fsx`: what they ask, print and refuse."""

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
import typer
from moto import mock_aws
from typer.testing import CliRunner

from launcher.aws.file_system import FileSystem, S3Link, Volume
from launcher.cli import fsx as cli_fsx
from rayasr.errors import ConfigError

CREATE = ["create", "--name", "asr", "--subnet", "subnet-01234567"]
CREATE += ["--security-group", "sg-01234567"]
LINK = S3Link("dra-1", "/", "s3://bucket/data", "AVAILABLE", "", ("NEW",), ("NEW",))


class Systems:
    """In place of AWS: notes what is done."""

    def __init__(self, links: list[S3Link]) -> None:
        self.done: list[str] = []
        self.there: FileSystem | None = None
        self._links = links

    def find(self, _name: str) -> FileSystem | None:
        return self.there

    def create(self, options: Any) -> FileSystem:
        self.done.append(f"create {options.volume.describe()}")
        return self.get("fs-01234567")

    def get(self, file_system: str) -> FileSystem:
        volume = Volume("SCRATCH_2", 1200, None)
        mount, dns = "abcd1234", "fs.fsx.example.com"
        subnets = ("subnet-1",)
        return FileSystem(
            file_system, "asr", "AVAILABLE", "", volume, "2.15", mount, dns, "vpc-1", subnets
        )

    def wait(self, file_system: str) -> FileSystem:
        self.done.append("wait")
        return self.get(file_system)

    def links(self, _file_system: str) -> list[S3Link]:
        return self._links

    def link(self, _file_system: str, s3: str, path: str) -> None:
        self.done.append(f"link {s3} {path}")

    def export(self, _file_system: str) -> None:
        self.done.append("export")

    def delete(self, file_system: str) -> None:
        self.done.append(f"delete {file_system}")


@pytest.fixture
def systems(monkeypatch: pytest.MonkeyPatch) -> Systems:
    found = Systems([LINK])
    monkeypatch.setattr(cli_fsx, "_systems", lambda _aws: found)
    return found


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    app = typer.Typer()
    cli_fsx.register(app)
    app.callback()(lambda: None)
    return app


def run(app: typer.Typer, *arguments: str, answer: str | None = None) -> Any:
    return CliRunner().invoke(app, ["fsx", *arguments], input=answer)


def test_create_tells_the_price_and_asks(app: typer.Typer, systems: Systems) -> None:
    result = run(app, *CREATE, "--s3", "s3://bucket/data", answer="y\n")
    assert result.exit_code == 0
    assert systems.done == [
        "create 1200 GiB PERSISTENT_2, 125 MB/s per TiB",
        "wait",
        "link s3://bucket/data /",
    ]
    assert "price        174.00 USD a month" in result.stderr
    assert "make it? [y/N]" in result.stderr
    assert "fsx: {id: fs-01234567, path: /}" in result.stderr
    assert result.stdout.startswith("file system  fs-01234567 (asr), AVAILABLE")


@pytest.mark.parametrize("answer", ["n\n", "\n", "yess\n"])
def test_create_refused_by_the_person(app: typer.Typer, systems: Systems, answer: str) -> None:
    result = run(app, *CREATE, answer=answer)
    assert result.exit_code == 1
    assert systems.done == []


def test_create_with_nobody_there(app: typer.Typer, systems: Systems) -> None:
    result = run(app, *CREATE)
    assert isinstance(result.exception, ConfigError)
    assert "give --yes" in str(result.exception)
    assert systems.done == []


def test_create_goes_on_with_one_that_is_there(app: typer.Typer, systems: Systems) -> None:
    systems.there = systems.get("fs-99999999")
    result = run(app, *CREATE)
    assert result.exit_code == 0
    assert systems.done == ["wait"]
    assert "asr is fs-99999999" in result.stderr


def test_china_gets_what_it_has(app: typer.Typer, systems: Systems) -> None:
    assert run(app, *CREATE, "--yes", "--region", "cn-north-1").exit_code == 0
    assert systems.done[0] == "create 1200 GiB PERSISTENT_1, 50 MB/s per TiB"


def test_bad_options_are_refused_before_aws_is_asked(
    app: typer.Typer, systems: Systems, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systems, "find", lambda _name: pytest.fail("asked"))
    result = run(app, *CREATE, "--capacity", "1000")
    assert isinstance(result.exception, ConfigError)


@pytest.mark.usefixtures("systems")
def test_status(app: typer.Typer) -> None:
    result = run(app, "status", "fs-01234567")
    assert "168.00 USD a month" in result.stdout
    assert "S3           / = s3://bucket/data" in result.stdout
    values = json.loads(run(app, "status", "fs-01234567", "--json").stdout)
    assert values["volume"]["capacity_gib"] == 1200
    assert values["links"][0]["s3"] == "s3://bucket/data"


@pytest.mark.usefixtures("systems")
def test_mount_script_can_be_piped(app: typer.Typer) -> None:
    result = run(app, "mount-script", "fs-01234567", "--at", "/data")
    assert result.stdout.startswith("#!/bin/bash\n")
    assert "fs.fsx.example.com@tcp:/abcd1234 /data\n" in result.stdout


@pytest.mark.usefixtures("systems")
def test_notebook_config_is_printed_only(app: typer.Typer) -> None:
    result = run(app, "notebook-config", "fs-01234567", "--print")
    assert "/home/ec2-user/SageMaker/fsx" in result.stdout


@pytest.fixture
def moto(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield


@pytest.mark.usefixtures("moto", "systems")
def test_notebook_config_is_made(app: typer.Typer) -> None:
    result = run(app, "notebook-config", "fs-01234567", "--name", "asr")
    assert result.exit_code == 0
    assert result.stdout == "asr\n"
    assert "to a notebook instance in vpc-1, subnet subnet-1" in result.stderr
    client = boto3.client("sagemaker", "eu-west-1")
    made = client.describe_notebook_instance_lifecycle_config(
        NotebookInstanceLifecycleConfigName="asr"
    )
    assert len(made["OnStart"]) == 1


def test_export(app: typer.Typer, systems: Systems) -> None:
    assert run(app, "export", "fs-01234567").exit_code == 0
    assert systems.done == ["export"]


def test_delete_exports_first(app: typer.Typer, systems: Systems) -> None:
    result = run(app, "delete", "fs-01234567", answer="yes\n")
    assert result.exit_code == 0
    assert systems.done == ["export", "delete fs-01234567"]
    assert "export what is new to S3, then delete fs-01234567? [y/N]" in result.stderr


def test_delete_without_export(app: typer.Typer, systems: Systems) -> None:
    result = run(app, "delete", "fs-01234567", "--no-export", answer="y\n")
    assert systems.done == ["delete fs-01234567"]
    assert "with everything in it that is not in S3? [y/N]" in result.stderr


def test_delete_refused(app: typer.Typer, systems: Systems) -> None:
    assert run(app, "delete", "fs-01234567", answer="n\n").exit_code == 1
    assert systems.done == []


def test_a_failed_export_keeps_the_file_system(
    app: typer.Typer, systems: Systems, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_file_system: str) -> None:
        raise ConfigError("no")

    monkeypatch.setattr(systems, "export", fail)
    assert run(app, "delete", "fs-01234567", "--yes").exit_code != 0
    assert systems.done == []
