"""`rayasr image`: build, check and push the image of the jobs."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli.options import EndpointOption, ProfileOption, RegionOption, find_aws, note
from launcher.docker.image import DEFAULT_IMAGE

if TYPE_CHECKING:
    from launcher.docker.commands import DockerCli

image_app = typer.Typer(help="Build, check and push the image of the jobs.", no_args_is_help=True)

ImageArgument = Annotated[str, typer.Argument(metavar="IMAGE", help="The image here.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to the app."""
    app.add_typer(image_app, name="image")


@image_app.command("build")
def build(
    image: ImageArgument = DEFAULT_IMAGE,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="IMAGE",
            help="Image to begin with, such as python:3.11-slim-bookworm; default: CUDA's.",
        ),
    ] = None,
    build_args: Annotated[
        list[str] | None,
        typer.Option(
            "--build-arg",
            metavar="NAME=VALUE",
            help="PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_NO_INDEX, PIP_CERT, LOCAL; may be "
            "repeated.",
        ),
    ] = None,
    platform: Annotated[
        str, typer.Option("--platform", help="What SageMaker's machines are.")
    ] = "linux/amd64",
    network: Annotated[
        str | None, typer.Option("--network", metavar="NAME", help="Docker network of the build.")
    ] = None,
) -> None:
    """Build the image from the checkout in this folder.

    Example: rayasr image build --base python:3.11-slim-bookworm
    """
    from launcher.docker.image import BuildOptions, build_image

    docker = _docker()
    options = BuildOptions(image, base, tuple(build_args or ()), platform, network)
    build_image(docker, Path(), options)
    _show_layers(docker, image)


@image_app.command("check")
def check(image: ImageArgument = DEFAULT_IMAGE) -> None:
    """Run the image's self-test, and show its layers.

    Example: rayasr image check
    """
    from launcher.docker.image import check_image

    docker = _docker()
    check_image(docker, image)
    _show_layers(docker, image)


@image_app.command("push")
def push(
    image: ImageArgument = DEFAULT_IMAGE,
    repository: Annotated[
        str, typer.Option("--repository", metavar="NAME", help="Repository in ECR.")
    ] = "rayasr",
    tag: Annotated[str, typer.Option("--tag", help="Tag in ECR.")] = "latest",
    create: Annotated[
        bool, typer.Option("--create", help="Make the repository where there is none.")
    ] = False,
    job: Annotated[
        Path | None,
        typer.Option("--job", metavar="JOB", help="Job file to write the image's digest into."),
    ] = None,
    profile: ProfileOption = None,
    region: RegionOption = None,
    endpoint_url: EndpointOption = None,
) -> None:
    """Bring the image to ECR, and print its address there, by digest.

    Example: rayasr image push --create --job configs/jobs/train-2x4gpu.yaml
    """
    from launcher.docker.image import push_image
    from launcher.docker.image_line import write_image

    ecr = find_aws(profile, region, endpoint_url).client("ecr")
    address = push_image(_docker(), ecr, image, repository, tag, create=create)
    if job is not None:
        write_image(job, address)
        note(f"sagemaker.image of {job} is that now")
    typer.echo(address)


def _docker() -> "DockerCli":
    from launcher.docker.commands import DockerCli

    return DockerCli(os.environ)


def _show_layers(docker: "DockerCli", image: str) -> None:
    from launcher.docker.image import image_layers

    layers = image_layers(docker, image)
    typer.echo(f"{sum(layer.size for layer in layers) / 1e6:9.1f} MB  {image}")
    for layer in layers:
        typer.echo(f"{layer.size / 1e6:9.1f} MB  {layer.created_by[:80]}")
