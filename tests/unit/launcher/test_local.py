"""Jobs on this machine, with a small program in place of rayasr."""

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from launcher.local import LocalBackend
from launcher.spec import JobSpec
from rayasr.errors import LaunchError


def backend(script: str, environment: dict[str, str] | None = None) -> LocalBackend:
    """A backend whose `rayasr` is a Python script."""
    return LocalBackend(
        {"PATH": os.environ["PATH"]} | (environment or {}),
        program=(sys.executable, "-S", "-c", script),
        stop_grace_s=0.2,
    )


def job(*command: str, **fields: object) -> JobSpec:
    return JobSpec.model_validate({"name": "job", "command": command, "time_limit": "60s"} | fields)


def submit(place: LocalBackend, spec: JobSpec) -> tuple[int, list[str]]:
    notes: list[str] = []
    return place.submit(place.plan(spec), notes.append), notes


def test_arguments_and_environment_arrive_unchanged(tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = (
        "import os, sys; open(sys.argv[1], 'w', encoding='utf-8')"
        ".write('|'.join([*sys.argv[2:], os.environ['X'], os.environ['RAY_ADDRESS']]))"
    )
    odd = ["$(touch x)", "`id`", "a b", "it's", '"', "语音"]
    spec = job(str(out), *odd, environment={"X": "two\nlines"})
    code, notes = submit(backend(script, {"RAY_ADDRESS": "10.0.0.1:6379"}), spec)
    assert code == 0
    assert out.read_text(encoding="utf-8") == "|".join([*odd, "two\nlines", "10.0.0.1:6379"])
    assert notes == ["job: on the Ray cluster 10.0.0.1:6379"]


def test_exit_code_is_passed_on() -> None:
    code, notes = submit(backend("import sys; sys.exit(3)"), job("train"))
    assert code == 3
    assert notes == ["job: on this machine"]


def test_death_by_signal_is_said() -> None:
    code, notes = submit(backend("import os; os.kill(os.getpid(), 9)"), job("train"))
    assert code == 137
    assert "ended by SIGKILL; was there enough memory?" in notes[-1]


def test_model_is_named_after_success(tmp_path: Path) -> None:
    script = "import os, sys; os.makedirs(sys.argv[1] + '/model')"
    code, notes = submit(backend(script), job("{run}", run=str(tmp_path / "run")))
    assert code == 0
    assert notes[-1] == f"job: the model is in {tmp_path}/run/model"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_reach_the_command_once(tmp_path: Path, number: signal.Signals) -> None:
    """The command decides what a signal means: it leaves with 7 at the first one."""
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    script = (
        "import signal, sys\n"
        f"signal.signal({int(number)}, lambda *_: sys.exit(7))\n"
        "open(sys.argv[1], 'w').close()\n"
        "signal.pause()"
    )

    def send() -> None:
        with ready.open():  # opens when the command has its handler
            os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    before = signal.getsignal(number)
    code, _ = submit(backend(script), job(str(ready)))
    sender.join()
    assert code == 7
    assert signal.getsignal(number) is before


def test_time_limit_stops_a_command_that_will_not_leave() -> None:
    script = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
    with pytest.raises(LaunchError, match=r"stopped at its time limit of 0\.2s; run it again"):
        submit(backend(script), job("train", time_limit="0.2s"))


def test_channel_without_a_local_folder() -> None:
    with pytest.raises(LaunchError, match=r"--set channels\.store\.local_path=DIR"):
        backend("").plan(job("train", "{channel:store}", channels={"store": {}}))


def test_missing_channel_folder(tmp_path: Path) -> None:
    folder = tmp_path / "none"
    spec = job("{channel:a}", channels={"a": {"local_path": str(folder)}})
    with pytest.raises(LaunchError, match=f"channel 'a': there is no {folder}"):
        submit(backend(""), spec)


def test_folder_to_write_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "work"
    spec = job("x", channels={"a": {"local_path": str(folder), "access": "write"}})
    assert submit(backend(""), spec)[0] == 0
    assert folder.is_dir()


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    spec = job("x", channels={"a": {"local_path": f"{tmp_path}/file/sub", "access": "write"}})
    with pytest.raises(LaunchError, match="cannot make"):
        submit(backend(""), spec)


def test_program_that_is_not_there() -> None:
    place = LocalBackend({}, program=("/nowhere/rayasr",))
    with pytest.raises(LaunchError, match="cannot start the command: No such file"):
        submit(place, job("train"))
