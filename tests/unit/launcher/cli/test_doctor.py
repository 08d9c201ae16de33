"""The verb: what it prints, in which order, and its exit code."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

pytest.importorskip("moto")

from launcher.aws.session import Aws
from launcher.cli.doctor import register
from launcher.preflight import gather_image as facts_image
from rayasr.errors import ConfigError, LaunchError
from tests.cloud_jobs import REGION
from tests.moto_account import MotoAccount, client, moto_account


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[MotoAccount]:
    with moto_account(monkeypatch) as account:
        monkeypatch.setattr(Aws, "client", lambda _aws, name: client(name))
        monkeypatch.setattr(
            facts_image, "urlopen", lambda url, **_: io.BytesIO(account.download(url))
        )
        yield account


def doctor(account: MotoAccount, folder: Path, *options: str, **place: Any) -> Result:
    """Run the verb on the sound job, with `place` in its `sagemaker` section."""
    values = account.plan(place).job.model_dump(mode="json", exclude_unset=True)
    values["channels"]["work"]["fsx"].pop("mount_name")
    job = folder / "job.yaml"
    job.write_text(yaml.safe_dump(values))
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return CliRunner().invoke(app, ["doctor", str(job), "--region", REGION, *options])


def test_a_sound_job(account: MotoAccount, tmp_path: Path) -> None:
    result = doctor(account, tmp_path)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == f"job      job, on SageMaker in {REGION}"
    assert lines[1].startswith("price    14.18 USD an hour, at most 28.36 USD")
    assert lines[2:] == ["found    nothing to mend"]


def test_errors_end_with_6(account: MotoAccount, tmp_path: Path) -> None:
    client("iam").delete_role(RoleName="rayasr-job")
    result = doctor(account, tmp_path)
    assert isinstance(result.exception, LaunchError)  # main() ends with its exit code, 6
    assert "error    role: there is no role" in result.stdout
    assert result.stdout.splitlines()[-1] == "found    1 error"


def test_warnings_and_notes_end_with_0(account: MotoAccount, tmp_path: Path) -> None:
    result = doctor(account, tmp_path, spot=True, max_wait="2h", instance_type="ml.g6.24xlarge")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "found    1 warning, 1 note"


def test_json_is_all_that_is_printed(account: MotoAccount, tmp_path: Path) -> None:
    client("fsx").delete_file_system(FileSystemId=account.file_system)
    report = json.loads(doctor(account, tmp_path, "--json").stdout)
    assert (report["job"], report["region"]) == ("job", REGION)
    assert report["price"]["max_bill"] == pytest.approx(28.36)
    assert [finding["check"] for finding in report["findings"]] == ["file-system"]
    assert set(report["findings"][0]) == {"check", "severity", "found", "why", "remedy"}


def test_values_can_be_changed(account: MotoAccount, tmp_path: Path) -> None:
    result = doctor(account, tmp_path, "--set", "sagemaker.max_cost=20")
    assert "may cost 28.36 USD, more than 20 USD" in result.stdout


def test_a_job_without_machines_is_refused(account: MotoAccount, tmp_path: Path) -> None:
    result = doctor(account, tmp_path, "--set", "sagemaker=")
    assert isinstance(result.exception, ConfigError)
    assert "sagemaker" in str(result.exception)
