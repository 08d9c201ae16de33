"""Run a job's image in the local mode of SageMaker's own SDK, which knows nothing of our launcher.

    python docker/check_local_mode.py JOB.yaml [--hosts 2] [--cpus 1]

Needs the extra `sagemaker` and Docker Compose. Channels are the folders of their `local_path`.
Local mode has no /opt/ml/checkpoints, so the job's `run` must lie in a channel. It also gives no
`train` argument, names an interface that is not there, leaves 64 MB of shared memory, and ends all
containers with the first: what our entry point must bear.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from launcher.docker.backend import pack
from launcher.docker.commands import DockerCli
from launcher.job_file import DIGEST_VARIABLE
from launcher.local import local_folders
from launcher.spec import JOB_CHANNEL, JobSpec, load_spec

SETTINGS = "SchemaVersion: '1.0'\nSageMaker: {PythonSDK: {Modules: {TelemetryOptOut: true}}}\n"


def main() -> None:
    """Pack the job, let the SDK run it, and remove what the SDK leaves behind."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("job")
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--cpus", type=int, default=1, help="what Ray may use in a container")
    options = parser.parse_args()
    job = load_spec(options.job, [f"sagemaker.instance_count={options.hosts}"])
    with tempfile.TemporaryDirectory(prefix="local-mode-", ignore_cleanup_errors=True) as name:
        try:
            code = run(job, Path(name), options.hosts, options.cpus)
        finally:
            remove_project(DockerCli(os.environ), Path(name).name)
    sys.exit(code)


def run(job: JobSpec, folder: Path, hosts: int, cpus: int) -> int:
    """Let the SDK run the job; 0 where all containers ended well."""
    settings = folder / "settings.yaml"
    settings.write_text(SETTINGS)
    os.environ["SAGEMAKER_USER_CONFIG_OVERRIDE"] = str(settings)
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")  # asked for, and not used

    from sagemaker.core.training.configs import Compute, InputData
    from sagemaker.train.model_trainer import Mode, ModelTrainer

    plan = pack(job)
    channel = folder / JOB_CHANNEL
    channel.mkdir()
    for file, content in plan.files.items():
        (channel / file).write_bytes(content)
    folders = {JOB_CHANNEL: str(channel), **local_folders(job)}
    trainer = ModelTrainer(
        training_mode=Mode.LOCAL_CONTAINER,
        training_image=plan.place.image,
        compute=Compute(instance_type="local_cpu", instance_count=hosts),
        environment={DIGEST_VARIABLE: plan.digest, "RAYASR_NUM_CPUS": str(cpus)},
        local_container_root=str(folder),
    )
    try:
        trainer.train([InputData(channel_name=n, data_source=at) for n, at in folders.items()])
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    for file in sorted((folder / "compressed_artifacts").iterdir()):
        print(f"{file.name}: {file.stat().st_size} bytes")
    return 0


def remove_project(docker: DockerCli, name: str) -> None:
    """Remove the containers and the network of a project of Docker Compose."""
    ours = ("--quiet", "--filter", f"label=com.docker.compose.project={name}")
    if containers := docker.output("ps", "--all", *ours).split():
        docker.output("rm", "--force", "--volumes", *containers)
    if networks := docker.output("network", "ls", *ours).split():
        docker.output("network", "rm", *networks)


if __name__ == "__main__":
    main()
