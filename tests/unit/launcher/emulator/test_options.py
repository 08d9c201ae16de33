"""Options that cannot work, said before anything starts."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from launcher.contract import FileSystem
from launcher.emulator.faults import parse_fault
from launcher.emulator.namespace_runner import NamespaceRunner
from launcher.emulator.options import parse_file_system
from rayasr.errors import ConfigError, LaunchError
from tests.rehearsal import rehearse


def test_file_systems_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_file_system("fs-01234567=a=b") == ("fs-01234567", FileSystem(tmp_path / "a=b"))
    named = FileSystem(tmp_path, "abcdefgh")
    assert parse_file_system(f"fs-0123456789/abcdefgh={tmp_path}") == ("fs-0123456789", named)


@pytest.mark.parametrize("text", ["", "fs-0123", "fs-01234567", "fs-01234567=", "fs-XYZ45678=a"])
def test_other_texts_are_no_file_systems(text: str) -> None:
    with pytest.raises(ConfigError, match="write fs-0123456789=DIR"):
        parse_file_system(text)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"runner": "podman"}, "there are processes, namespaces and docker"),
        ({"file_systems": {"fs-01234567": FileSystem(Path("/no/such"))}}, "no such folder"),
        ({"faults": [parse_fault("full-disk:/no/such@1s")]}, "no such folder"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says), rehearse(**options):
        pass


def test_namespaces_need_root_and_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runner = NamespaceRunner("rehearsal", tmp_path, {})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LaunchError, match="needs root; run as root, or give --runner processes"):
        runner.check()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "unshare" else name)
    with pytest.raises(LaunchError, match="needs the command unshare"):
        runner.check()
