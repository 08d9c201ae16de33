"""What becomes of a job: its states, its files, its end."""

import io
import json
import tarfile
import time
from pathlib import Path
from typing import Any

from launcher.contract import FileSystem
from launcher.emulator import processes
from tests.rehearsal import (
    LEAVE_WHEN_ASKED,
    WAIT,
    Rehearsal,
    fsx_channel,
    rehearse,
    s3_channel,
)

VPC = {"VpcConfig": {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}}


def stages(job: dict[str, Any]) -> list[str]:
    return [stage["Status"] for stage in job["SecondaryStatusTransitions"]]


def runs(pid: str) -> bool:
    """Whether a process is there; what has ended and is not reaped yet has no command line."""
    return processes.command_line(int(pid)) != ""


def archive(rehearsal: Rehearsal, key: str) -> dict[str, bytes]:
    """The files in an archive that a job has left."""
    with tarfile.open(fileobj=io.BytesIO(rehearsal.get(key))) as tar:
        members = [member for member in tar.getmembers() if member.isfile()]
        return {member.name: tar.extractfile(member).read() for member in members}  # type: ignore[union-attr]


def test_a_job_goes_through_its_states(rehearsal: Rehearsal) -> None:
    job = rehearsal.run("print(me)", 2)
    assert stages(job) == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Completed", "Completed")
    assert "FailureReason" not in job
    starts = [stage["StartTime"] for stage in job["SecondaryStatusTransitions"]]
    ends = [stage["EndTime"] for stage in job["SecondaryStatusTransitions"]]
    assert starts[1:] == ends[:-1]
    assert job["CreationTime"] <= starts[0]
    assert job["TrainingStartTime"] < job["TrainingEndTime"]
    assert job["TrainingTimeInSeconds"] == job["BillableTimeInSeconds"] >= 1
    assert rehearsal.lines(job["TrainingJobName"]) == {"algo-1": ["algo-1"], "algo-2": ["algo-2"]}


def test_lines_come_while_the_job_runs(rehearsal: Rehearsal) -> None:
    name = rehearsal.start("print('语音', file=sys.stderr, flush=True)\n" + LEAVE_WHEN_ASKED)
    rehearsal.until_line(name, "ready")
    assert rehearsal.lines(name)["algo-1"] == ["语音", "ready"]
    rehearsal.sagemaker.stop_training_job(TrainingJobName=name)
    rehearsal.end(name)


def test_inputs_are_copied_to_every_host(rehearsal: Rehearsal) -> None:
    for key in ("in/a", "in/deep/b", "in-other/c"):
        rehearsal.put(key, key.encode())
    channels = [
        s3_channel("whole", "in/"),
        s3_channel("bare", "in"),
        s3_channel("one", "in/deep/b"),
        s3_channel("shared", "in/", S3DataDistributionType="ShardedByS3Key"),
    ]
    show = (
        "data = ml / 'input/data'\n"
        "print(*sorted(str(p.relative_to(data)) for p in data.rglob('*') if p.is_file()))"
    )
    job = rehearsal.run(show, 2, InputDataConfig=channels)
    files = rehearsal.lines(job["TrainingJobName"])
    common = "bare/a bare/deep/b one/b"
    assert files == {
        "algo-1": [f"{common} shared/a whole/a whole/deep/b"],
        "algo-2": [f"{common} shared/deep/b whole/a whole/deep/b"],
    }
    content = rehearsal.folder(job["TrainingJobName"]) / "input/data/whole/deep/b"
    assert content.read_bytes() == b"in/deep/b"


def test_results_of_all_hosts_go_into_one_archive(rehearsal: Rehearsal) -> None:
    script = (
        "(ml / 'model' / me).mkdir(); (ml / 'model' / me / 'weights').write_text(me)\n"
        "(ml / 'model/same').write_text(me); (ml / 'output/data/notes').write_text('n')"
    )
    job = rehearsal.run(script, 2)
    place = f"out/{job['TrainingJobName']}/output"
    assert job["ModelArtifacts"]["S3ModelArtifacts"] == f"s3://bucket/{place}/model.tar.gz"
    assert archive(rehearsal, f"{place}/model.tar.gz") == {
        "algo-1/weights": b"algo-1",
        "algo-2/weights": b"algo-2",
        "same": b"algo-2",
    }
    assert archive(rehearsal, f"{place}/output.tar.gz") == {"notes": b"n"}


def test_a_job_that_fails_says_why_and_keeps_its_model(rehearsal: Rehearsal) -> None:
    script = (
        "(ml / 'model/half').write_text('h')\n"
        "if me == 'algo-2': (ml / 'output/failure').write_text('algo-2: 原因 ' + 'x' * 2000)\n"
        "sys.exit(0 if me == 'algo-1' else 3)"
    )
    job = rehearsal.run(script, 2)
    assert job["TrainingJobStatus"] == job["SecondaryStatus"] == "Failed"
    said = ("algo-2: 原因 " + "x" * 2000)[:1024]
    assert job["FailureReason"] == f"AlgorithmError: {said}, exit code: 3"
    assert stages(job)[-2:] == ["Uploading", "Failed"]
    assert archive(rehearsal, f"out/{job['TrainingJobName']}/output/model.tar.gz") == {"half": b"h"}


def test_a_host_without_a_word_fails_the_job_too(rehearsal: Rehearsal) -> None:
    job = rehearsal.run("sys.exit(7)")
    assert job["FailureReason"] == "AlgorithmError: , exit code: 7"


def test_the_cause_counts_more_than_who_ended_first(rehearsal: Rehearsal) -> None:
    script = (
        "if me == 'algo-1': sys.exit(1)\n"
        "(ml / 'output/failure').write_text('algo-2: the cause')\n"
        "time.sleep(0.2); sys.exit(4)"
    )
    job = rehearsal.run(script, 2)
    assert job["FailureReason"] == "AlgorithmError: algo-2: the cause, exit code: 4"


def test_a_stopped_job_leaves_by_itself_and_uploads(rehearsal: Rehearsal) -> None:
    script = (
        "def leave(*_):\n"
        "    (ml / 'model/late').write_text(me); print('left'); sys.exit(9)\n"
        "signal.signal(signal.SIGTERM, leave)\n" + WAIT
    )
    name = rehearsal.start(script)
    rehearsal.until_line(name, "ready")
    rehearsal.sagemaker.stop_training_job(TrainingJobName=name)
    job = rehearsal.end(name)
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "Stopped")
    assert stages(job)[-3:] == ["Stopping", "Uploading", "Stopped"]
    assert rehearsal.lines(name)["algo-1"] == ["ready", "left"]
    assert archive(rehearsal, f"out/{name}/output/model.tar.gz") == {"late": b"algo-1"}


def test_a_host_that_does_not_leave_is_killed_with_all_it_started() -> None:
    child = (
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('no', flush=True))\n"
        "print(child.pid, flush=True)\n"
        "while True: signal.pause()"
    )
    with rehearse(grace_s=0.2) as rehearsal:
        name = rehearsal.start(child)
        rehearsal.until(name, lambda _: rehearsal.lines(name).get("algo-1"))
        began = time.monotonic()
        rehearsal.sagemaker.stop_training_job(TrainingJobName=name)
        assert rehearsal.end(name)["TrainingJobStatus"] == "Stopped"
        assert time.monotonic() - began >= 0.2
        pid, answer = rehearsal.lines(name)["algo-1"]
        assert answer == "no"
        assert not runs(pid)


def test_the_time_limit_stops_a_job(rehearsal: Rehearsal) -> None:
    job = rehearsal.run(LEAVE_WHEN_ASKED, StoppingCondition={"MaxRuntimeInSeconds": 1})
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")
    assert stages(job)[-3:] == ["Stopping", "Uploading", "MaxRuntimeExceeded"]


def test_too_many_hosts_cannot_be_had(rehearsal: Rehearsal) -> None:
    job = rehearsal.run("", 4)
    assert stages(job) == ["Starting", "Failed"]
    assert job["FailureReason"].startswith("CapacityError: Unable to provision")
    assert "TrainingStartTime" not in job


def test_a_job_waits_for_machines_and_may_be_stopped_meanwhile(rehearsal: Rehearsal) -> None:
    first = rehearsal.start(LEAVE_WHEN_ASKED)
    rehearsal.until_line(first, "ready")
    second, third = rehearsal.start("print(me)"), rehearsal.start("")
    rehearsal.sagemaker.stop_training_job(TrainingJobName=third)
    assert stages(rehearsal.end(third)) == ["Starting", "Stopping", "Stopped"]
    waiting = rehearsal.sagemaker.describe_training_job(TrainingJobName=second)
    assert stages(waiting) == ["Starting"]
    rehearsal.sagemaker.stop_training_job(TrainingJobName=first)
    assert rehearsal.end(second)["TrainingJobStatus"] == "Completed"


def test_a_spot_job_that_gets_no_machines_gives_up(rehearsal: Rehearsal) -> None:
    first = rehearsal.start(LEAVE_WHEN_ASKED)
    rehearsal.until_line(first, "ready")
    limits = {"MaxRuntimeInSeconds": 1, "MaxWaitTimeInSeconds": 1}
    job = rehearsal.run("", EnableManagedSpotTraining=True, StoppingCondition=limits)
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "MaxWaitTimeExceeded")
    rehearsal.sagemaker.stop_training_job(TrainingJobName=first)
    rehearsal.end(first)


def test_checkpoints_are_restored_to_every_host_and_mirrored(rehearsal: Rehearsal) -> None:
    for key in ("ck/old", "ck/deep/kept", "ck-other/x"):
        rehearsal.put(key, key.encode())
    script = (
        "place = ml / 'checkpoints'\n"
        "print(*sorted(p.name for p in place.rglob('*') if p.is_file()), flush=True)\n"
        "(place / me).write_text('1')\n"
        "if me == 'algo-1': (place / 'old').unlink()\n" + LEAVE_WHEN_ASKED
    )
    config = {"S3Uri": "s3://bucket/ck", "LocalPath": "/opt/ml/checkpoints"}
    name = rehearsal.start(script, 2, CheckpointConfig=config)
    wanted = ["ck/algo-1", "ck/algo-2", "ck/deep/kept"]
    rehearsal.until(name, lambda _: rehearsal.keys("ck/") == wanted)  # while it runs
    assert {host: lines[0] for host, lines in rehearsal.lines(name).items()} == {
        "algo-1": "kept old",
        "algo-2": "kept old",
    }
    rehearsal.sagemaker.stop_training_job(TrainingJobName=name)
    assert rehearsal.end(name)["TrainingJobStatus"] == "Stopped"
    assert rehearsal.keys("ck-other/") == ["ck-other/x"]


def test_the_last_checkpoint_is_not_lost() -> None:
    """What a host writes just before it ends is mirrored, though no round comes any more."""
    with rehearse(mirror_every_s=600.0) as rehearsal:
        script = "(ml / 'checkpoints/last').write_text('l')"
        rehearsal.run(script, CheckpointConfig={"S3Uri": "s3://bucket/last"})
        assert rehearsal.get("last/last") == b"l"


def test_file_systems_are_seen_by_all_hosts(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    system = "fs-0123456789"
    with rehearse(file_systems={system: FileSystem(tmp_path)}) as rehearsal:
        channel = fsx_channel("work", system, "/rayasr/corpus")
        script = "(ml / 'input/data/work' / me).write_text(me)"
        job = rehearsal.run(script, 2, InputDataConfig=[channel], **VPC)
        assert job["TrainingJobStatus"] == "Completed"
        assert sorted(path.name for path in (tmp_path / "corpus").iterdir()) == ["algo-1", "algo-2"]
        missing = fsx_channel("work", system, "/rayasr/nothing")
        job = rehearsal.run(script, InputDataConfig=[missing], **VPC)
        assert job["FailureReason"].startswith("ClientError: cannot mount")


def test_a_result_that_cannot_be_uploaded_fails_the_job(rehearsal: Rehearsal) -> None:
    job = rehearsal.run("", OutputDataConfig={"S3OutputPath": "s3://no-such-bucket/out"})
    assert job["FailureReason"].startswith("ClientError: Artifact upload failed: s3://no-such")
    assert "NoSuchBucket" in job["FailureReason"]
    assert "ModelArtifacts" not in job


def test_hosts_see_addresses_and_a_short_folder_but_no_credentials(
    rehearsal: Rehearsal, monkeypatch: Any
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    show = "print(json.dumps(dict(os.environ)))"
    job = rehearsal.run(show, 2)
    lines = rehearsal.lines(job["TrainingJobName"])
    first, second = (json.loads(lines[host][0]) for host in ("algo-1", "algo-2"))
    assert first["RAYASR_HOST_ADDRESSES"] == "algo-1=127.0.0.2,algo-2=127.0.0.3"
    assert first["RAYASR_ML_ROOT"].endswith("/algo-1/ml")
    assert first["RAYASR_TMP"] != second["RAYASR_TMP"]
    assert len(first["RAYASR_TMP"]) < 40
    assert first["TRAINING_JOB_NAME"] == job["TrainingJobName"]
    assert first["AWS_REGION"] == "eu-central-1"
    assert "AWS_SECRET_ACCESS_KEY" not in first
    assert not [name for name in first if name.startswith("SM_")]


def test_leaving_ends_all_hosts_at_once() -> None:
    with rehearse() as rehearsal:
        name = rehearsal.start("print(os.getpid(), flush=True); signal.pause()", 2)
        rehearsal.until(name, lambda _: len(rehearsal.lines(name)) == 2)
        rehearsal.until(name, lambda _: all(rehearsal.lines(name).values()))
        pids = [lines[0] for lines in rehearsal.lines(name).values()]
        folder = rehearsal.emulator.folder
        assert all(runs(pid) for pid in pids)
    assert not any(runs(pid) for pid in pids)
    assert not folder.exists()
