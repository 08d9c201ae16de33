"""What a job on SageMaker will do, worked out before anything is sent: no network, no clock."""

import itertools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from launcher.cloud_spec import SageMakerSpec
from launcher.job_file import CODE_FILE, JOB_FILE, RECIPE_FILE, JobFile, sha256
from launcher.overlay import Overlay, pack_overlay
from launcher.partition import partition_of
from launcher.plan import full_command
from launcher.spec import PLACEHOLDER, ChannelSpec, JobSpec
from rayasr.config import Recipe, dump_recipe, load_recipe
from rayasr.errors import ConfigError

MAX_JOB_NAME = 63
RECIPE_VERBS = (("train",), ("run",), ("data", "prepare"))
"""Verbs whose first argument is a recipe."""


@dataclass(frozen=True)
class CloudPlan:
    """A job, the files that travel with it, and where it runs."""

    job: JobSpec
    region: str
    partition: str  # "aws", "aws-cn"
    dns_suffix: str  # "amazonaws.com", "amazonaws.com.cn"
    name: str  # the training job's
    command: tuple[str, ...]  # placeholders in, the recipe replaced
    files: Mapping[str, bytes] = field(repr=False)  # job.json holds a secret
    mount_names: Mapping[str, str]  # of FSx file systems, by id
    overlay_files: tuple[str, ...] = ()
    overlay_left_out: tuple[str, ...] = ()

    @property
    def place(self) -> SageMakerSpec:
        """The job's `sagemaker` section, which a plan always has."""
        assert self.job.sagemaker is not None
        return self.job.sagemaker

    @property
    def job_prefix(self) -> str:
        """Where the files go in S3."""
        return f"{self.place.output}/{self.name}/job"

    @property
    def digest(self) -> str:
        """SHA-256 of job.json, and through it of every file."""
        return sha256(self.files[JOB_FILE])

    def describe(self) -> str:
        """The plan for a person, one line each."""
        lines = [f"job          {self.name}, on SageMaker in {self.region}"]
        for group in self.place.groups:
            kind = "spot, " if self.place.spot else ""
            lines.append(f"machines     {group.instance_count} x {kind}{group.instance_type}")
        lines += [f"image        {self.place.image}"]
        lines += [f"command      {shlex.join(('rayasr', *self.command))}"]
        for name, channel in self.job.channels.items():
            where = describe_source(channel, self.mount_names)
            lines.append(f"channel      {name}: {where} ({channel.access})")
        if self.job.run is not None:
            lines.append(f"run          {self.job.run}")
        if self.place.checkpoints is not None:
            lines.append(f"checkpoints  {self.place.checkpoints}")
        lines.append(f"output       {self.place.output}/{self.name}")
        # Values stay unsaid: they may be secret, and the plan is shown and logged.
        lines += [f"environment  {name}" for name in self.job.environment]
        lines.append(f"time limit   {self.job.time_limit}")
        if self.overlay_files:
            size = len(self.files[CODE_FILE]) / 1e6
            lines.append(f"code         {len(self.overlay_files)} files, {size:.2f} MB packed")
            lines += [f"             {name}" for name in self.overlay_files]
            lines += [f"left out     {name}" for name in self.overlay_left_out]
        return "\n".join(lines)


def make_cloud_plan(
    job: JobSpec, *, region: str, stamp: str, token: str, mount_names: Mapping[str, str]
) -> CloudPlan:
    """Work out a job; `stamp` makes its name unique, `token` is its cluster's secret.

    `mount_names` are the MountNames of FSx file systems by id; the job file's own come first.
    Reads the recipe and the code that travel along; raises ConfigError and LaunchError.
    """
    place = job.sagemaker
    if place is None:
        raise ConfigError(
            f"job {job.name} has no 'sagemaker:' section; see configs/jobs/train-2x4gpu.yaml"
        )
    partition = partition_of(region)
    _check_partition(place, partition.name, region)
    command, files = _with_recipe(full_command(job))
    overlay = Overlay(b"", (), ()) if place.code is None else pack_overlay(place.code)
    if place.code is not None:
        files[CODE_FILE] = overlay.archive
    mounts = _mount_names(job.channels, mount_names)
    name = f"{job.name[: MAX_JOB_NAME - 1 - len(stamp)].rstrip('-')}-{stamp}"
    job_file = JobFile(
        name=name,
        command=command,
        channels={channel: spec.access for channel, spec in job.channels.items()},
        run=job.run,
        environment=job.environment,
        token=token,
        head_group=place.head_group,
        num_hosts=place.num_hosts,
        on_lost_host="continue" if job.goes_on_without_lost_hosts else "fail",
        time_limit_s=job.time_limit_s,
        files={file: sha256(content) for file, content in files.items()},
    )
    return CloudPlan(
        job=job,
        region=region,
        partition=partition.name,
        dns_suffix=partition.dns_suffix,
        name=name,
        command=command,
        files={JOB_FILE: job_file.to_json(), **files},
        mount_names=mounts,
        overlay_files=overlay.files,
        overlay_left_out=overlay.left_out,
    )


def directory_path(channel: ChannelSpec, mount_names: Mapping[str, str]) -> str:
    """The folder of a file-system channel as SageMaker wants it: FSx begins with its MountName."""
    if channel.fsx is not None:
        return f"/{mount_names[channel.fsx.id]}{channel.fsx.path}".rstrip("/")
    assert channel.efs is not None
    return channel.efs.path


def describe_source(channel: ChannelSpec, mount_names: Mapping[str, str]) -> str:
    """Where a channel's data lies, in a few words."""
    if channel.s3 is not None:
        return f"{channel.s3} ({channel.input_mode})"
    source = channel.fsx or channel.efs
    assert source is not None
    kind = "FSx" if channel.fsx else "EFS"
    return f"{kind} {source.id}:{directory_path(channel, mount_names)}"


def _with_recipe(command: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, bytes]]:
    """Let the recipe of a verb travel, with all its values written out; raises ConfigError."""
    if any("{job}" in argument for argument in command):
        raise ConfigError("command: {job} is kept for the folder of the job file itself")
    verb = next((verb for verb in RECIPE_VERBS if command[: len(verb)] == verb), None)
    if verb is None:
        return command, {}
    before, rest = command[: len(verb)], command[len(verb) :]
    if not rest or rest[0].startswith("-"):
        raise ConfigError(
            f"command: put the recipe right behind '{' '.join(verb)}', so that it can travel"
        )
    if PLACEHOLDER.search(rest[0]):  # it lies in a channel already
        return command, {}
    known, late = _overrides(rest)
    recipe = load_recipe(rest[0], known)
    _check_paths(recipe, verb, rest, late)
    files = {RECIPE_FILE: dump_recipe(recipe).encode()}
    return (*before, f"{{job}}/{RECIPE_FILE}", *rest[1:]), files


def _overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The values of `--set`: those known here, and those whose folder is known on the host only.

    The command keeps them all: applied twice, they give the same recipe.
    """
    values = []
    for argument, following in itertools.pairwise((*arguments, "")):
        if argument == "--set":
            values.append(following)
        elif argument.startswith("--set="):
            values.append(argument.removeprefix("--set="))
    late = [value for value in values if PLACEHOLDER.search(value)]
    return [value for value in values if value not in late], late


def _check_paths(
    recipe: Recipe, verb: tuple[str, ...], arguments: Sequence[str], late: Sequence[str]
) -> None:
    """Refuse a recipe that reads what does not travel; raises ConfigError."""
    units = recipe.units.file
    if units and not units.startswith("/") and not any(v.startswith("units.file=") for v in late):
        raise ConfigError(
            f"the recipe's units.file {units} does not travel; put it into a channel and add "
            "--set units.file={channel:NAME}/…"
        )
    given = any(argument.partition("=")[0] == "--corpus" for argument in arguments)
    if verb == ("train",) or given or any(value.startswith("corpora") for value in late):
        return
    for corpus in recipe.corpora:
        if not corpus.path.startswith("/"):
            raise ConfigError(
                f"the recipe's corpus {corpus.path} does not travel; name a channel: --corpus "
                "{channel:NAME}"
            )


def _mount_names(channels: Mapping[str, ChannelSpec], asked: Mapping[str, str]) -> dict[str, str]:
    """The MountName of every FSx file system; raises ConfigError where a channel has no source."""
    systems = [channel.fsx for channel in channels.values() if channel.fsx is not None]
    known = {**asked, **{fsx.id: fsx.mount_name for fsx in systems if fsx.mount_name}}
    for name, channel in channels.items():
        if not (channel.fsx or channel.efs or channel.s3):
            raise ConfigError(
                f"channel '{name}' has no place on SageMaker; give channels.{name}.fsx, .efs or .s3"
            )
        if channel.fsx is not None and channel.fsx.id not in known:
            raise ConfigError(
                f"the MountName of {channel.fsx.id} is not known; give "
                f"channels.{name}.fsx.mount_name"
            )
    return {fsx.id: known[fsx.id] for fsx in systems}


def _check_partition(place: SageMakerSpec, partition: str, region: str) -> None:
    """Refuse ARNs of another partition than the region's; raises ConfigError."""
    for key in ("role", "volume_kms_key", "output_kms_key"):
        arn = getattr(place, key) or ""
        if arn.startswith("arn:") and arn.split(":")[1] != partition:
            raise ConfigError(
                f"sagemaker.{key}: {arn} is of partition {arn.split(':')[1]}, but {region} is in "
                f"{partition}"
            )
