"""The image of the jobs: built and looked at through the Docker CLI, kept in ECR."""

import base64
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.aws.session import aws_errors
from launcher.docker.commands import DockerCli, num_gpus
from rayasr.errors import ConfigError, LaunchError

DOCKERFILE = "docker/Dockerfile"
DEFAULT_IMAGE = "rayasr"
"""The image of `image build` and `--on docker` where no other is named."""
DEPENDENCIES = "rayasr-dependencies"
"""Tag of the stage that holds what we depend on; it keeps that stage from being pruned."""
TORCH_FACTS = "/opt/rayasr/torch.json"


@dataclass(frozen=True)
class BuildOptions:
    """How an image is built."""

    tag: str = DEFAULT_IMAGE
    base: str | None = None
    """Image that it begins with; default: the Dockerfile's, for GPUs."""
    build_args: tuple[str, ...] = ()
    """NAME=VALUE, such as PIP_INDEX_URL."""
    platform: str | None = "linux/amd64"
    """What SageMaker's machines are, whatever this one is; None: this machine's."""
    network: str | None = None
    """Network of the build, as of `docker build --network`."""


@dataclass(frozen=True)
class Layer:
    """A layer of an image: its bytes, and the step that made it."""

    size: int
    created_by: str


def build_image(docker: DockerCli, checkout: Path, options: BuildOptions) -> None:
    """Build the image from a checkout, its torch told in labels; raises LaunchError."""
    if not (checkout / DOCKERFILE).is_file():
        raise ConfigError(
            f"there is no {DOCKERFILE} in {checkout.resolve()}; run this in a checkout of rayasr"
        )
    arguments = ["build", "--file", DOCKERFILE, *_flags(options)]
    docker.show(*arguments, "--target", "build", "--tag", DEPENDENCIES, ".", folder=checkout)
    for name, value in _labels(docker, checkout).items():
        arguments += ["--build-arg", f"{name}={value}"]
    docker.show(*arguments, "--tag", options.tag, ".", folder=checkout)


def image_layers(docker: DockerCli, image: str) -> list[Layer]:
    """The layers that take room, the largest first; raises LaunchError."""
    history = docker.output(
        "history", "--no-trunc", "--human=false", "--format", "{{json .}}", image
    )
    steps = [json.loads(line) for line in history.splitlines()]
    layers = [Layer(int(step["Size"]), str(step["CreatedBy"])) for step in steps]
    return sorted((layer for layer in layers if layer.size), key=lambda layer: -layer.size)


def check_image(docker: DockerCli, image: str) -> None:
    """Run the image's self-test, which needs no network; raises LaunchError where it fails."""
    require_image(docker, image)
    run = ["run", "--rm", "--network", "none", "--entrypoint", "python"]
    run += ["--gpus", "all"] if num_gpus(docker) else []
    docker.show(*run, image, "-m", "launcher.docker.image_check", is_result=True)


def require_image(docker: DockerCli, image: str) -> None:
    """Raise LaunchError where the engine has no such image."""
    if not docker.output("images", "--quiet", image):
        raise LaunchError(
            f"there is no image '{image}' here; run `rayasr image build`, or name another one"
        )


def push_image(
    docker: DockerCli, ecr: Any, image: str, repository: str, tag: str, *, create: bool
) -> str:
    """Bring an image to ECR; its address there with its digest; raises LaunchError."""
    require_image(docker, image)
    address = _repository_address(ecr, repository, create)
    _log_in(docker, ecr, address.partition("/")[0])
    docker.output("tag", image, f"{address}:{tag}")
    docker.show("push", f"{address}:{tag}")
    digests = docker.output("inspect", "--format", "{{json .RepoDigests}}", f"{address}:{tag}")
    for digest in json.loads(digests) or []:
        if digest.startswith(f"{address}@"):
            return str(digest)
    raise LaunchError(
        f"{address}:{tag} was pushed, but Docker tells no digest of it; look with "
        f"`docker inspect {address}:{tag}`"
    )


def _flags(options: BuildOptions) -> list[str]:
    flags: list[str] = []
    if options.platform:
        flags += ["--platform", options.platform]
    if options.network:
        flags += ["--network", options.network]
    if options.base:
        flags += ["--build-arg", f"BASE={options.base}"]
    for argument in options.build_args:
        flags += ["--build-arg", argument]
    return flags


def _labels(docker: DockerCli, checkout: Path) -> dict[str, str]:
    """The build arguments that become labels; torch is asked where it was installed."""
    run = ("run", "--rm", "--network", "none", "--entrypoint", "cat")
    torch = json.loads(docker.output(*run, DEPENDENCIES, TORCH_FACTS))
    project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {
        "TORCH": torch["torch"],
        "CUDA": torch["cuda"],
        "ARCH_LIST": torch["arch_list"],
        "VERSION": project["version"],
    }


def _repository_address(ecr: Any, repository: str, create: bool) -> str:
    """The repository's address in its registry; made where `create` says so."""
    with aws_errors(f"look for the repository '{repository}' in ECR"):
        try:
            found = ecr.describe_repositories(repositoryNames=[repository])["repositories"]
            return str(found[0]["repositoryUri"])
        except ecr.exceptions.RepositoryNotFoundException:
            if not create:
                raise LaunchError(
                    f"there is no repository '{repository}' in ECR of {ecr.meta.region_name}; "
                    "give --create to make it"
                ) from None
    with aws_errors(f"make the repository '{repository}' in ECR"):
        made = ecr.create_repository(repositoryName=repository)
    return str(made["repository"]["repositoryUri"])


def _log_in(docker: DockerCli, ecr: Any, registry: str) -> None:
    """Give Docker ECR's password of the next 12 hours, which no argument list shows."""
    with aws_errors("get a password for ECR"):
        token = ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    user, _, password = base64.b64decode(token).decode().partition(":")
    docker.output("login", "--username", user, "--password-stdin", registry, given=password)
