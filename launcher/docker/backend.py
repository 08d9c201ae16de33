"""Jobs in containers on this machine: the image, the request and the contract of SageMaker."""

import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from launcher.aws.request import training_job_request
from launcher.cloud_plan import CloudPlan, make_cloud_plan
from launcher.cloud_spec import EfsSource, SageMakerSpec
from launcher.contract import Host, contract_environment, lay_out, write_contract
from launcher.docker.commands import DockerCli, num_gpus
from launcher.docker.image import DEFAULT_IMAGE, require_image
from launcher.docker.run import Bind, Container, Containers, run_containers
from launcher.host.log import with_host
from launcher.host.topology import read_topology
from launcher.job_file import JOB_FILE, JobFile
from launcher.local import check_folder, local_folders
from launcher.plan import Plan
from launcher.spec import JOB_CHANNEL, ChannelSpec, JobSpec

RUNS = Path("runs/docker")
"""Where the containers' /opt/ml are kept, a folder for each job."""
ML = "/opt/ml"
INTERFACE = "eth0"

_REGION = "us-east-1"
_SOURCE = EfsSource(id="fs-00000000")
_PLACE = SageMakerSpec(
    role="arn:aws:iam::000000000000:role/docker",
    image=DEFAULT_IMAGE,
    output="s3://docker",
    instance_type="ml.m5.large",
)
"""These stand for what only AWS needs, so that a job is packed and requested as it is there."""


class DockerBackend:
    """Runs a job in as many containers as it has machines on SageMaker, or in one."""

    def __init__(self, environment: Mapping[str, str], runs: Path = RUNS) -> None:
        self._docker = DockerCli(environment)
        self._runs = runs

    def plan(self, job: JobSpec) -> Plan:
        """The job as its containers see it; raises LaunchError where a channel has no folder."""
        local_folders(job)
        packed = JobFile.from_json(pack(job).files[JOB_FILE])
        return Plan(
            job=job,
            backend="docker",
            arguments=packed.arguments_on_host(ML),
            channels={name: f"{ML}/input/data/{name}" for name in job.channels},
            run=packed.run_on_host(ML),
            environment=job.environment,
            time_limit_s=job.time_limit_s,
        )

    def submit(self, plan: Plan, notes: Callable[[str], None]) -> int:
        """Run the containers; the exit code of the head; raises LaunchError."""
        folders = local_folders(plan.job)
        for name, folder in folders.items():
            check_folder(name, Path(folder), plan.job.channels[name].access)
        cloud = pack(plan.job)
        require_image(self._docker, cloud.place.image)
        hosts = self._write_contract(cloud)
        topology = read_topology(hosts[0].ml).with_head_group(cloud.place.head_group)
        containers = self._containers(cloud, hosts, folders)
        notes(f"{cloud.name}: {len(hosts)} x {containers.image}, led by {topology.head}")
        codes = run_containers(self._docker, containers, plan.time_limit_s, _show)
        for host in hosts:
            if codes[host.name]:
                why = f": {host.failure()}" if host.failure() else ""
                notes(f"{cloud.name}: {host.name} ended with {codes[host.name]}{why}")
            elif host.name == topology.head:
                notes(f"{cloud.name}: what the job left is in {host.ml}")
        return codes[topology.head]

    def _write_contract(self, cloud: CloudPlan) -> tuple[Host, ...]:
        """The hosts, each with the folder that will be its /opt/ml."""
        request = training_job_request(cloud)
        hosts = lay_out(request, self._runs / cloud.name)
        for host in hosts:
            write_contract(host, hosts, request, INTERFACE)
            channel = host.ml / "input/data" / JOB_CHANNEL
            channel.mkdir()
            for file, content in cloud.files.items():
                (channel / file).write_bytes(content)
        return hosts

    def _containers(
        self, cloud: CloudPlan, hosts: Sequence[Host], folders: Mapping[str, str]
    ) -> Containers:
        """The containers, among which this machine is shared out."""
        # One for all hosts and all runs of the job, as the prefix in S3 is.
        checkpoints = self._runs / "checkpoints" / cloud.job.name
        checkpoints.mkdir(parents=True, exist_ok=True)
        shared = [Bind(checkpoints, f"{ML}/checkpoints")]
        for name, folder in folders.items():
            read_only = cloud.job.channels[name].access == "read"
            shared.append(Bind(Path(folder), f"{ML}/input/data/{name}", read_only))
        gpus, step = range(num_gpus(self._docker)), len(hosts)
        members = [
            Container(host.name, (Bind(host.ml, ML), *shared), tuple(gpus[number::step]))
            for number, host in enumerate(hosts)
        ]
        arn = f"arn:aws:sagemaker:{_REGION}:000000000000:training-job/{cloud.name}"
        environment = contract_environment(training_job_request(cloud), arn, _REGION)
        cpus = max(1, (os.cpu_count() or 1) // len(hosts))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Containers(
            job=cloud.name,
            image=cloud.place.image,
            members=tuple(members),
            environment=environment | {"RAYASR_NUM_CPUS": str(cpus)},
            shm_bytes=memory // (2 * len(hosts)),
        )


def pack(job: JobSpec) -> CloudPlan:
    """The job packed as for SageMaker; what only AWS needs is replaced."""
    place = _PLACE
    if job.sagemaker is not None:
        place = job.sagemaker.model_copy(
            update={"role": _PLACE.role, "volume_kms_key": None, "output_kms_key": None}
        )
    channels = {
        name: ChannelSpec.model_construct(access=channel.access, efs=_SOURCE)
        for name, channel in job.channels.items()
    }
    return make_cloud_plan(
        job.model_copy(update={"sagemaker": place, "channels": channels}),
        region=_REGION,
        stamp=time.strftime("%Y%m%d-%H%M%S"),
        token=secrets.token_hex(32),
        mount_names={},
    )


def _show(host: str, line: str) -> None:
    print(with_host(host, line), flush=True)
