"""A job on Docker: what its containers find, and what is told at its end."""

import itertools
import json
from pathlib import Path

import pytest

from launcher.docker.backend import DockerBackend
from launcher.job_file import DIGEST_VARIABLE, load_job
from launcher.spec import JobSpec
from rayasr.errors import LaunchError
from tests.unit.launcher.fake_docker import FakeDocker

RECIPE = "configs/digits.yaml"
PLACE = {
    "role": "arn:aws-cn:iam::123456789012:role/job",
    "image": "asr:1",
    "output": "s3://bucket/out",
    "instance_type": "ml.g5.12xlarge",
    "instance_count": 2,
    "volume_kms_key": "arn:aws-cn:kms:cn-north-1:123456789012:key/k",
}
ANSWERS = {
    "images": "print('sha256:0')",
    "info": "print('{\"runc\": {}}')",
    "wait": "print(0)",
}


def job(tmp_path: Path, **fields: object) -> JobSpec:
    (tmp_path / "corpus").mkdir(exist_ok=True)
    values = {
        "name": "job",
        "command": ["train", RECIPE, "--store", "{channel:work}/store", "--out", "{run}", "$(id)"],
        "channels": {
            "corpus": {"local_path": f"{tmp_path}/corpus"},
            "work": {"local_path": f"{tmp_path}/work", "access": "write"},
        },
        "run": "exp",
        "time_limit": "1h",
        "environment": {"SECRET": "hush"},
    }
    return JobSpec.model_validate(values | fields)


def submit(tmp_path: Path, spec: JobSpec, **answers: str) -> tuple[int, list[str], FakeDocker]:
    fake = FakeDocker(tmp_path, ANSWERS | answers)
    backend = DockerBackend(fake.environment, runs=tmp_path / "runs")
    notes: list[str] = []
    return backend.submit(backend.plan(spec), notes.append), notes, fake


def created(fake: FakeDocker) -> list[list[str]]:
    return [call for call in fake.calls if call[0] == "create"]


def test_plan_is_what_the_containers_run(tmp_path: Path) -> None:
    plan = DockerBackend({}).plan(job(tmp_path, workers="2"))
    assert plan.arguments == (
        "train",
        "/opt/ml/input/data/rayasr-job/recipe.yaml",
        *("--store", "/opt/ml/input/data/work/store"),
        *("--out", "/opt/ml/checkpoints/exp", "$(id)"),
        *("--workers", "2"),
    )
    assert plan.model == "/opt/ml/checkpoints/exp/model"
    assert "on docker" in plan.describe()


def test_every_host_finds_the_contract(tmp_path: Path) -> None:
    code, notes, fake = submit(tmp_path, job(tmp_path, sagemaker=PLACE))
    assert code == 0
    first, second = created(fake)
    assert first[-2:] == ["asr:1", "train"]
    name = notes[0].split(":")[0]
    for number, call in enumerate((first, second), start=1):
        ml = tmp_path / "runs" / name / f"algo-{number}" / "ml"
        assert f"type=bind,source={ml},target=/opt/ml" in call
        config = json.loads((ml / "input/config/resourceconfig.json").read_bytes())
        assert config["current_host"] == f"algo-{number}"
        assert config["hosts"] == ["algo-1", "algo-2"]
        environment = dict(
            value.split("=", 1) for flag, value in itertools.pairwise(call) if flag == "--env"
        )
        found = load_job(ml / "input/data/rayasr-job", environment[DIGEST_VARIABLE])
        assert found.num_hosts == 2
        assert found.environment == {"SECRET": "hush"}
        assert environment["TRAINING_JOB_NAME"] == name
        assert int(environment["RAYASR_NUM_CPUS"]) >= 1
        assert not [part for part in call if found.token in part or "hush" in part]
    assert notes[-1] == f"{name}: what the job left is in {tmp_path}/runs/{name}/algo-1/ml"


def test_channels_are_mounted(tmp_path: Path) -> None:
    _, _, fake = submit(tmp_path, job(tmp_path))
    (call,) = created(fake)
    assert call[-2:] == ["rayasr", "train"]
    data = "/opt/ml/input/data"
    assert f"type=bind,source={tmp_path}/corpus,target={data}/corpus,readonly" in call
    assert f"type=bind,source={tmp_path}/work,target={data}/work" in call
    assert (tmp_path / "work").is_dir()
    checkpoints = tmp_path / "runs/checkpoints/job"
    assert f"type=bind,source={checkpoints},target=/opt/ml/checkpoints" in call
    assert checkpoints.is_dir()


def test_gpus_are_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.docker.backend.num_gpus", lambda _docker: 3)
    _, _, fake = submit(tmp_path, job(tmp_path, sagemaker=PLACE))
    given = [call[call.index("--gpus") + 1] for call in created(fake)]
    assert given == ['"device=0,2"', '"device=1"']


def test_the_head_s_code_and_every_failure_are_told(tmp_path: Path) -> None:
    program = f"""\
import glob
number = int(arguments[-1][-1])
for ml in glob.glob({str(tmp_path)!r} + "/runs/job-*/algo-" + str(number) + "/ml"):
    with open(ml + "/output/failure", "w") as failure:
        failure.write("no store")
print(number + 2)"""
    groups = [
        {"name": "cpu", "instance_type": "ml.c5.xlarge", "instance_count": 1},
        {"name": "gpu", "instance_type": "ml.g5.xlarge", "instance_count": 1},
    ]
    place = {key: PLACE[key] for key in ("role", "image", "output")}
    place |= {"instance_groups": groups, "head_group": "gpu"}
    code, notes, _ = submit(tmp_path, job(tmp_path, sagemaker=place), wait=program)
    head = notes[0].rpartition(" ")[2]
    assert code == {"algo-1": 3, "algo-2": 4}[head]
    assert [note.split(": ", 1)[1] for note in notes[1:]] == [
        "algo-1 ended with 3: no store",
        "algo-2 ended with 4: no store",
    ]


def test_lines_carry_their_host_once(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    submit(tmp_path, job(tmp_path), logs="print('algo-1 | step 1'); print('Killed')")
    assert capfd.readouterr().out == "algo-1 | step 1\nalgo-1 | Killed\n"


def test_an_image_that_is_not_here(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="there is no image 'rayasr' here; run `rayasr image"):
        submit(tmp_path, job(tmp_path), images="")
    assert not (tmp_path / "runs").exists()


def test_an_engine_that_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="docker images: Cannot connect to the Docker daemon"):
        submit(tmp_path, job(tmp_path), images="sys.exit('Cannot connect to the Docker daemon')")


def test_a_channel_without_a_folder(tmp_path: Path) -> None:
    channels = {"work": {"s3": "s3://bucket/work"}}
    with pytest.raises(LaunchError, match=r"--set channels\.work\.local_path=DIR"):
        DockerBackend({}).plan(job(tmp_path, channels=channels))


def test_a_missing_folder(tmp_path: Path) -> None:
    channels = {"work": {"local_path": f"{tmp_path}/none"}}
    with pytest.raises(LaunchError, match=f"channel 'work': there is no {tmp_path}/none"):
        submit(tmp_path, job(tmp_path, channels=channels))
