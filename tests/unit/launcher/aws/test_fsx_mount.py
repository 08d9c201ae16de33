"""Scripts that mount: run with small programs in place of those of a real machine."""

import base64
import subprocess
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from launcher.aws.file_system import FileSystem, Volume
from launcher.aws.fsx_mount import mount_script, notebook_script, put_notebook_config
from rayasr.errors import LaunchError

PROGRAM = '#!/bin/sh\necho "${{0##*/}}" "$@" >>{log}\n{body}\n'


def file_system(lifecycle: str = "AVAILABLE", mount_name: str = "abcd1234") -> FileSystem:
    return FileSystem(
        id="fs-01234567",
        name="asr",
        lifecycle=lifecycle,
        failure="",
        volume=Volume("SCRATCH_2", 1200, None),
        version="2.15",
        mount_name=mount_name,
        dns_name="fs-01234567.fsx.eu-west-1.amazonaws.com",
        vpc="vpc-1",
        subnets=("subnet-1",),
    )


def run(tmp_path: Path, script: str, **programs: str) -> tuple[int, list[str]]:
    """Run a script with nothing on PATH but coreutils and these programs; what they were told."""
    log = tmp_path / "log"
    log.touch()
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("mkdir", "cat", "rm", "ln", "cp", "timeout", "bash"):
        (folder / name).symlink_to(f"/bin/{name}")
    for name, body in programs.items():
        path = folder / name.replace("_", "-").replace("-dot-", ".")
        path.write_text(PROGRAM.format(log=log, body=body))
        path.chmod(0o755)
    done = subprocess.run(
        ["/bin/bash", "-c", script], env={"PATH": str(folder)}, capture_output=True, check=False
    )
    return done.returncode, log.read_text().splitlines()


def test_mount_with_a_client_that_is_there(tmp_path: Path) -> None:
    script = mount_script(file_system(), f"{tmp_path}/a b")
    code, calls = run(tmp_path, script, mount_dot_lustre="", mountpoint="exit 1", mount="")
    assert code == 0
    source = "fs-01234567.fsx.eu-west-1.amazonaws.com@tcp:/abcd1234"
    assert calls[-1] == f"mount -t lustre -o relatime,flock {source} {tmp_path}/a b"
    assert (tmp_path / "a b").is_dir()


def test_what_is_mounted_stays(tmp_path: Path) -> None:
    script = mount_script(file_system(), f"{tmp_path}/fsx")
    code, calls = run(tmp_path, script, mount_dot_lustre="", mountpoint="", mount="")
    assert (code, calls) == (0, [f"mountpoint -q {tmp_path}/fsx"])


@pytest.mark.parametrize(
    ("installer", "call"),
    [
        ("amazon_linux_extras", "amazon-linux-extras install -y lustre"),
        ("dnf", "dnf install -y lustre-client"),
    ],
)
def test_the_client_is_installed(tmp_path: Path, installer: str, call: str) -> None:
    script = mount_script(file_system(), f"{tmp_path}/fsx")
    programs = {installer: "", "mountpoint": "exit 1", "mount": ""}
    code, calls = run(tmp_path, script, **programs)
    assert code == 0
    assert calls[0] == call
    assert calls[-1].startswith("mount -t lustre ")


def test_no_client_to_be_had(tmp_path: Path) -> None:
    code, calls = run(tmp_path, mount_script(file_system(), f"{tmp_path}/fsx"), mount="")
    assert (code, calls) == (1, [])


@pytest.mark.parametrize("unready", [file_system("CREATING", ""), file_system("FAILED")])
def test_a_file_system_that_cannot_be_mounted(unready: FileSystem) -> None:
    with pytest.raises(LaunchError, match="cannot be mounted yet; look with `rayasr fsx status"):
        mount_script(unready, "/fsx")


@pytest.mark.parametrize("mounts", [True, False])
def test_a_notebook_starts_in_any_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounts: bool
) -> None:
    home = tmp_path / "SageMaker"
    home.mkdir()
    monkeypatch.setattr("launcher.aws.fsx_mount.NOTEBOOK_FOLDER", str(home))
    script = notebook_script(file_system(), f"{tmp_path}/fsx")
    script = script.replace("/tmp/mount-fsx", f"{tmp_path}/mount-fsx")
    body = "" if mounts else "echo no way to it >&2; exit 32"
    code, _ = run(tmp_path, script, mount_dot_lustre="", mountpoint="exit 1", mount=body)
    assert code == 0
    note = home / "FSX_IS_NOT_MOUNTED.txt"
    if mounts:
        assert (home / "fsx").readlink() == tmp_path / "fsx"
        assert not note.exists()
    else:
        assert "no way to it" in note.read_text()
        assert not (home / "fsx").exists()


def test_a_notebook_script_that_is_too_long() -> None:
    with pytest.raises(LaunchError, match="but only 16384 are allowed; give a shorter --at"):
        notebook_script(file_system(), "/" + "x" * 9000)


def stubbed() -> tuple[Any, Stubber]:
    sagemaker = boto3.client(
        "sagemaker", "eu-west-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    return sagemaker, Stubber(sagemaker)


@pytest.mark.parametrize(("known", "verb"), [(False, "create"), (True, "update")])
def test_a_configuration_is_made_or_changed(known: bool, verb: str) -> None:
    script = notebook_script(file_system(), "/fsx")
    sagemaker, stubber = stubbed()
    name = {"NotebookInstanceLifecycleConfigName": "fsx"}
    if known:
        stubber.add_response("describe_notebook_instance_lifecycle_config", {}, name)
    else:
        operation = "describe_notebook_instance_lifecycle_config"
        stubber.add_client_error(operation, "ValidationException", expected_params=name)
    content = base64.b64encode(script.encode()).decode()
    request = name | {"OnStart": [{"Content": content}]}
    stubber.add_response(f"{verb}_notebook_instance_lifecycle_config", {}, request)
    with stubber:
        put_notebook_config(sagemaker, "fsx", script)
    stubber.assert_no_pending_responses()
    assert len(content) < 16384


def test_no_right_to_make_one() -> None:
    sagemaker, stubber = stubbed()
    stubber.add_client_error("describe_notebook_instance_lifecycle_config", "AccessDenied", "no")
    with stubber, pytest.raises(LaunchError, match="cannot write the lifecycle configuration fsx"):
        put_notebook_config(sagemaker, "fsx", "x")
