"""The image's self-test, outside of an image."""

import sys
from pathlib import Path

import pytest

from launcher.docker import image_check


def test_every_check_is_told_and_one_failure_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def bad() -> str:
        raise OSError("broken")

    monkeypatch.setattr(image_check, "CHECKS", (bad, image_check.python))
    assert image_check.main() == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first == "FAILED  bad: OSError: broken"
    assert second.startswith("ok      python: 3.")


def test_sound_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_check, "CHECKS", (image_check.python, image_check.shared_memory))
    assert image_check.main() == 0


def test_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    facts = '{"torch": "2.13.0+cu126", "cuda": "12.6", "arch_list": "sm_70 sm_80"}'
    (tmp_path / "torch.json").write_text(facts)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert image_check.torch_works() == "2.13.0+cu126, CUDA 12.6, sm_70 sm_80"


def test_packages() -> None:
    assert "soundfile" in image_check.packages()


@pytest.mark.parametrize("tool", ["gcc", "git"])
def test_a_build_tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tool: str) -> None:
    (tmp_path / tool).write_text("")
    (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileExistsError, match=f"{tool} should not ship"):
        image_check.no_build_tools()


def test_no_build_tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert image_check.no_build_tools() == "none"


def test_a_program_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="train is not on PATH"):
        image_check.programs()
