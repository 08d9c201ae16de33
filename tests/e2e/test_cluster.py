"""One job file, here and on two hosts: the emulator, the launcher's command line, real Ray."""

import filecmp
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.contract import FileSystem
from launcher.emulator.options import Options
from launcher.emulator.server import Emulator, run_emulator
from launcher.spec import JobSpec
from tests.cloud_jobs import FILE_SYSTEM, cluster_job
from tests.factories import make_tone_corpus

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
RECIPE = str(Path(__file__).parent / "tiny.yaml")
DATA = "{channel:data}"
STORE = ("--store", f"{DATA}/store")


class Place:
    """A folder on this machine, one that plays FSx, and the emulator that serves it."""

    def __init__(self, folder: Path, emulator: Emulator) -> None:
        self.folder, self.emulator = folder, emulator
        self.local, self.shared = folder / "local", folder / "fsx" / "data"

    def launch(self, on: str, command: list[str], **fields: Any) -> str:
        """Run a job to its end; what it printed. A job file serves every place."""
        path = self.folder / f"{command[0]}.yaml"
        path.write_text(yaml.safe_dump(job(self.local, command, **fields)))
        return self.rayasr("launch", str(path), "--on", on, "--yes")

    def rayasr(self, *arguments: str) -> str:
        environment = {"XDG_CACHE_HOME": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"}
        result = subprocess.run(
            [sys.executable, "-m", "rayasr", *arguments],
            capture_output=True,
            text=True,
            env=os.environ | self.emulator.environment | environment,
            timeout=400,
        )
        assert result.returncode == 0, f"{arguments}: {result.stdout}\n{result.stderr}"
        return result.stdout + result.stderr


def job(local: Path, command: list[str], **fields: Any) -> dict[str, Any]:
    """A job that finds its folder here, and on the file system of two hosts."""
    values = cluster_job(2, "tiny", command, **fields)
    values["channels"]["data"]["local_path"] = str(local)
    return values


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("cluster")
    for data in (folder / "local", folder / "fsx" / "data"):
        make_tone_corpus(data / "corpus")
    options = Options(
        num_hosts=2,
        file_systems={FILE_SYSTEM: FileSystem(folder / "fsx")},
        job_files=[JobSpec.model_validate(job(folder, ["train"]))],
    )
    with run_emulator(options, os.environ, lambda _: None) as emulator:
        yield Place(folder, emulator)


def test_one_job_file_prepares_here_and_on_two_hosts(place: Place) -> None:
    command = ["data", "prepare", RECIPE, "--corpus", f"{DATA}/corpus", "--out", f"{DATA}/store"]
    assert "all 2 hosts are up" in place.launch("sagemaker", command)
    place.launch("local", command)
    shards = sorted(path.name for path in (place.local / "store" / "shards").iterdir())
    names = [f"shards/{name}" for name in shards] + ["index.parquet", "cmvn.json", "units.txt"]
    ours, other = place.shared / "store", place.local / "store"
    assert filecmp.cmpfiles(ours, other, names, shallow=False) == (names, [], [])


def test_two_hosts_train_as_two_workers_here_do(place: Place) -> None:
    command = ["train", RECIPE, *STORE, "--out", "{run}", "--set", "train.epochs=2"]
    command += ["--set", "train.validate_every_epochs=2", "--set", "batch.micro_batches=2"]
    fields = {"run": f"{DATA}/run", "workers": "2"}
    place.launch("sagemaker", command, **fields)
    place.launch("local", command, **fields)
    model = "run/model/model.safetensors"
    assert (place.shared / model).read_bytes() == (place.local / model).read_bytes()
    status = json.loads(place.rayasr("jobs", "status", "last", "--json"))
    assert status["status"] == "Completed"
    assert status["hosts"] == {"ml.c5.xlarge": 2}
    assert "step" in place.rayasr("jobs", "logs", "last")
