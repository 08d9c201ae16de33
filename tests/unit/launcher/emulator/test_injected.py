"""Each fault, injected into a running job."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.emulator import attempt
from launcher.emulator.faults import parse_fault
from rayasr.errors import ConfigError
from tests.rehearsal import LEAVE_WHEN_ASKED, WAIT, Rehearsal, rehearse

SPOT = {
    "EnableManagedSpotTraining": True,
    "StoppingCondition": {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 60},
}
CHECKPOINTS = {"CheckpointConfig": {"S3Uri": "s3://bucket/checkpoints"}}
# The first host goes on when the other is gone; only what it is told to wait for ends it.
OUTLIVE = "if me == 'algo-1': time.sleep(0.3); print('alone'); sys.exit(0)\n"


def stages(job: dict[str, Any]) -> list[str]:
    return [stage["Status"] for stage in job["SecondaryStatusTransitions"]]


def inject(rehearsal: Rehearsal, text: str) -> None:
    rehearsal.emulator.faults.add(parse_fault(text))


def test_spot_machines_are_taken_away_and_the_job_goes_on(rehearsal: Rehearsal) -> None:
    script = (
        "place = ml / 'checkpoints/step'\n"
        "step = int(place.read_text()) if place.exists() else 0\n"
        "print('from', step, *sorted(p.name for p in (ml / 'model').iterdir()), flush=True)\n"
        "def leave(*_):\n"
        "    place.write_text('40'); sys.exit(1)\n"
        "signal.signal(signal.SIGTERM, leave)\n"
        "(ml / 'model/trace').write_text('')\n"
        "if step == 0: print(me, 'waits', flush=True); signal.pause()"
    )
    inject(rehearsal, "spot@log:algo-1 waits")
    job = rehearsal.run(script, 2, **SPOT, **CHECKPOINTS)
    assert stages(job) == [
        *("Starting", "Downloading", "Training", "Interrupted"),
        *("Starting", "Downloading", "Training", "Uploading", "Completed"),
    ]
    name = job["TrainingJobName"]
    assert rehearsal.lines(name)["algo-1"] == ["from 0", "algo-1 waits", "from 40"]
    streams = rehearsal.streams(name)
    assert len(streams) == len(set(streams)) == 4
    assert rehearsal.folder(name, attempt=1) != rehearsal.folder(name, attempt=2)


def test_only_spot_jobs_lose_their_machines(rehearsal: Rehearsal) -> None:
    inject(rehearsal, "spot@0s")
    assert rehearsal.run("print('on')")["TrainingJobStatus"] == "Completed"
    assert [fault.kind for fault in rehearsal.emulator.faults.pending()] == ["spot"]
    assert "Interrupted" in stages(rehearsal.run("time.sleep(0.1)", **SPOT))


def test_spot_machines_that_do_not_leave_are_killed() -> None:
    with rehearse(grace_s=0.1, faults=[parse_fault("spot@log:ready")]) as rehearsal:
        script = (
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "again = (ml / 'checkpoints/x').exists()\n"
            "(ml / 'checkpoints/x').write_text('')\n"
            "if not again: " + WAIT
        )
        assert rehearsal.run(script, **SPOT, **CHECKPOINTS)["TrainingJobStatus"] == "Completed"


def test_a_killed_host_fails_the_job_that_goes_on_without_it(rehearsal: Rehearsal) -> None:
    inject(rehearsal, "kill-host:algo-2@log:ready")
    script = OUTLIVE + "import subprocess; subprocess.Popen(['sleep', '600'])\n" + WAIT
    job = rehearsal.run(script, 2)
    assert job["FailureReason"] == "AlgorithmError: , exit code: 137"
    assert rehearsal.lines(job["TrainingJobName"])["algo-1"] == ["alone"]


def test_a_silent_host_does_not_hold_the_job_up(rehearsal: Rehearsal) -> None:
    """The first host leaves when the other has stopped counting; the job then ends too."""
    inject(rehearsal, "silent-host:algo-2@log:2 beats")
    script = (
        "beat = ml.parents[1] / 'algo-2/ml/output/data/beat'\n"
        "if me == 'algo-2':\n"
        "    for n in range(10**6):\n"
        "        beat.write_text(str(n)); print(n, 'beats', flush=True); time.sleep(0.01)\n"
        "before = now = 0\n"
        "while not now or now != before:\n"
        "    before, now = now, beat.stat().st_mtime_ns if beat.exists() else 0\n"
        "    time.sleep(0.1)\n"
        "print('alone')"
    )
    job = rehearsal.run(script, 2)
    assert rehearsal.lines(job["TrainingJobName"])["algo-1"] == ["alone"]
    assert job["FailureReason"] == "AlgorithmError: , exit code: 137"


def test_some_processes_of_a_host_are_killed(rehearsal: Rehearsal) -> None:
    inject(rehearsal, r"kill-process:algo-1:sleep 6\d\d@log:ready")
    script = (
        "import subprocess\n"
        "victim, other = (subprocess.Popen(['sleep', n]) for n in ('601', '701'))\n"
        "print('ready', flush=True); code = victim.wait()\n"
        "print(code, other.poll()); other.kill()"
    )
    job = rehearsal.run(script)
    assert rehearsal.lines(job["TrainingJobName"])["algo-1"] == ["ready", "-9 None"]
    assert job["TrainingJobStatus"] == "Completed"
    assert any(note.endswith(r"sleep 6\d\d: 1 processes") for note in rehearsal.notes)


def test_a_host_never_comes(rehearsal: Rehearsal) -> None:
    inject(rehearsal, "no-show:algo-2")
    script = "(ml / 'output/failure').write_text('algo-1: algo-2 did not come'); sys.exit(6)"
    job = rehearsal.run(script, 2)
    assert job["FailureReason"] == "AlgorithmError: algo-1: algo-2 did not come, exit code: 6"
    assert list(rehearsal.lines(job["TrainingJobName"])) == ["algo-1"]


def test_there_is_no_capacity_once(rehearsal: Rehearsal) -> None:
    inject(rehearsal, "capacity")
    job = rehearsal.run("")
    assert job["FailureReason"].startswith("CapacityError: ")
    assert stages(job) == ["Starting", "Failed"]
    assert rehearsal.run("")["TrainingJobStatus"] == "Completed"


def test_names_come_late(rehearsal: Rehearsal) -> None:
    inject(rehearsal, "slow-names@2s")
    script = (
        "place = Path(os.environ['RAYASR_HOST_ADDRESSES'].removeprefix('@'))\n"
        "print(place.exists(), flush=True)\n"
        "while not place.exists(): time.sleep(0.01)\n"
        "print(place.read_text())"
    )
    job = rehearsal.run(script, 2)
    lines = rehearsal.lines(job["TrainingJobName"])
    assert lines["algo-1"] == ["False", "algo-1=127.0.0.2,algo-2=127.0.0.3"] == lines["algo-2"]


def test_somebody_stops_the_job(rehearsal: Rehearsal) -> None:
    inject(rehearsal, "stop@log:ready")
    job = rehearsal.run(LEAVE_WHEN_ASKED)
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "Stopped")


def test_a_fault_strikes_after_some_seconds(rehearsal: Rehearsal) -> None:
    inject(rehearsal, "kill-host:algo-1@0.1s")
    job = rehearsal.run(WAIT)
    training = job["SecondaryStatusTransitions"][2]
    assert (training["EndTime"] - training["StartTime"]).total_seconds() >= 0.1
    assert job["FailureReason"] == "AlgorithmError: , exit code: 137"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    mount = shutil.which("mount")
    done = subprocess.run(
        [str(mount), "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True
    )
    if done.returncode:
        pytest.skip("cannot mount a small file system")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_disk_is_full(small_disk: Path) -> None:
    script = (
        "place = Path('FOLDER'); (place / 'before').write_text('x')\n"
        "print('ready', flush=True)\n"
        "try:\n"
        "    for n in range(10**6): (place / f'after-{n}').write_bytes(b'x'); time.sleep(0.01)\n"
        "except OSError as error: print(error.strerror)"
    ).replace("FOLDER", str(small_disk))
    with rehearse(faults=[parse_fault(f"full-disk:{small_disk}@log:ready")]) as rehearsal:
        job = rehearsal.run(script)
        lines = rehearsal.lines(job["TrainingJobName"])
    assert lines["algo-1"] == ["ready", "No space left on device"]
    left = {path.name.split("-")[0] for path in small_disk.iterdir()}
    assert left == {"after", "before"}  # and nothing of ours


def test_no_large_disk_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = re.escape(f"full-disk:{tmp_path}: more than 2 GiB are free there")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 0, 2**40))
    fault = parse_fault(f"full-disk:{tmp_path}@1s")
    with pytest.raises(ConfigError, match=free), rehearse(faults=[fault]):
        pass
    monkeypatch.setattr(attempt, "MAX_FILL_BYTES", 2**20)
    filler = attempt.fill_disk(tmp_path)
    assert 2**20 < filler.stat().st_size <= 2 * 2**20
