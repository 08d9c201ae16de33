"""`rayasr fsx`: the file system that jobs and notebooks share, from its making to its end."""

from typing import TYPE_CHECKING, Annotated

import typer

from launcher.aws.file_system import Deployment, FileSystemOptions, default_volume
from launcher.cli.options import (
    EndpointOption,
    JsonOption,
    ProfileOption,
    RegionOption,
    YesOption,
    ask,
    find_aws,
    note,
)

if TYPE_CHECKING:
    from launcher.aws.fsx import FileSystems
    from launcher.aws.session import Aws

fsx_app = typer.Typer(
    help="Make, look at, mount, export and delete an FSx for Lustre file system.",
    no_args_is_help=True,
)

IdArgument = Annotated[str, typer.Argument(metavar="FILE_SYSTEM", help="Its id, fs-….")]
AtOption = Annotated[str, typer.Option("--at", metavar="DIR", help="Where it is mounted.")]
PriceOption = Annotated[
    float | None,
    typer.Option("--price", min=0, help="Price of a GiB and month, over the built-in table's."),
]


def register(app: typer.Typer) -> None:
    """Add the verbs to the app."""
    app.add_typer(fsx_app, name="fsx")


@fsx_app.command("create")
def create(
    name: Annotated[str, typer.Option("--name", help="Its name; one that is there goes on.")],
    subnet: Annotated[str, typer.Option("--subnet", help="The subnet of the jobs.")],
    security_groups: Annotated[
        list[str],
        typer.Option(
            "--security-group", help="Admits itself on TCP 988 and 1018-1023; may be repeated."
        ),
    ],
    s3: Annotated[
        str | None, typer.Option("--s3", metavar="URL", help="Mirror this prefix, both ways.")
    ] = None,
    s3_path: Annotated[
        str, typer.Option("--s3-path", metavar="PATH", help="The folder that mirrors it.")
    ] = "/",
    capacity: Annotated[int, typer.Option("--capacity", metavar="GIB", help="Its size.")] = 1200,
    deployment: Annotated[
        Deployment | None,
        typer.Option(
            "--deployment",
            case_sensitive=False,
            help="Default: PERSISTENT_2; outside of the partition `aws`: PERSISTENT_1.",
        ),
    ] = None,
    throughput: Annotated[
        int | None,
        typer.Option("--throughput", metavar="MBS", help="MB/s per TiB; default: the least."),
    ] = None,
    kms_key: Annotated[
        str | None, typer.Option("--kms-key", metavar="KEY", help="Its key, if not AWS's own.")
    ] = None,
    price: PriceOption = None,
    yes: YesOption = False,
    profile: ProfileOption = None,
    region: RegionOption = None,
    endpoint_url: EndpointOption = None,
) -> None:
    """Make a file system linked to S3, and wait until it can be mounted, some 10 minutes.

    Broken off, the same command goes on where it was.

    Example: rayasr fsx create --name asr --subnet subnet-0a1b2c3d --security-group sg-0a1b2c3d
    --s3 s3://bucket/corpora
    """
    from launcher.partition import partition_of

    aws = find_aws(profile, region, endpoint_url)
    volume = default_volume(partition_of(aws.region).name, capacity, deployment, throughput)
    groups = tuple(security_groups)
    options = FileSystemOptions(name, subnet, groups, volume, kms_key, s3, s3_path)
    systems = _systems(aws)
    found = systems.find(name)
    if found is None:
        note(f"volume       {volume.describe()}, in {subnet} of {aws.region}")
        note(f"price        {volume.describe_price(price)}")
        ask("make it?", yes)
        found = systems.create(options)
    note(f"{name} is {found.id}")
    found = systems.wait(found.id)
    if s3:
        systems.link(found.id, s3, s3_path)
    typer.echo(found.describe(systems.links(found.id), price))
    note(f"a channel of a job file: fsx: {{id: {found.id}, path: /}}")


@fsx_app.command("status")
def status(
    file_system: IdArgument,
    price: PriceOption = None,
    as_json: JsonOption = False,
    profile: ProfileOption = None,
    region: RegionOption = None,
    endpoint_url: EndpointOption = None,
) -> None:
    """Show a file system, its links to S3, and what it costs.

    Example: rayasr fsx status fs-0123456789abcdef0
    """
    import dataclasses
    import json

    systems = _systems(find_aws(profile, region, endpoint_url))
    found, links = systems.get(file_system), systems.links(file_system)
    if as_json:
        values = dataclasses.asdict(found) | {"links": [dataclasses.asdict(link) for link in links]}
        typer.echo(json.dumps(values, indent=2, ensure_ascii=False))
        return
    typer.echo(found.describe(links, price))


@fsx_app.command("mount-script")
def mount_script(
    file_system: IdArgument,
    at: AtOption = "/fsx",
    profile: ProfileOption = None,
    region: RegionOption = None,
    endpoint_url: EndpointOption = None,
) -> None:
    """Print a script that mounts a file system on a machine in its network.

    Example: rayasr fsx mount-script fs-0123456789abcdef0 | sudo bash
    """
    from launcher.aws import fsx_mount

    systems = _systems(find_aws(profile, region, endpoint_url))
    typer.echo(fsx_mount.mount_script(systems.get(file_system), at), nl=False)


@fsx_app.command("notebook-config")
def notebook_config(
    file_system: IdArgument,
    name: Annotated[
        str, typer.Option("--name", help="Name of the lifecycle configuration.")
    ] = "rayasr-fsx",
    at: AtOption = "/fsx",
    show: Annotated[bool, typer.Option("--print", help="Print the script, and leave.")] = False,
    profile: ProfileOption = None,
    region: RegionOption = None,
    endpoint_url: EndpointOption = None,
) -> None:
    """Make a lifecycle configuration that mounts a file system whenever a notebook starts.

    Example: rayasr fsx notebook-config fs-0123456789abcdef0
    """
    from launcher.aws import fsx_mount

    aws = find_aws(profile, region, endpoint_url)
    found = _systems(aws).get(file_system)
    script = fsx_mount.notebook_script(found, at)
    if show:
        typer.echo(script, nl=False)
        return
    fsx_mount.put_notebook_config(aws.client("sagemaker"), name, script)
    note(
        f"give the lifecycle configuration {name} to a notebook instance in {found.vpc}, subnet "
        f"{', '.join(found.subnets)}, with a security group that the file system admits"
    )
    typer.echo(name)


@fsx_app.command("export")
def export(
    file_system: IdArgument,
    profile: ProfileOption = None,
    region: RegionOption = None,
    endpoint_url: EndpointOption = None,
) -> None:
    """Write what is new in a file system to S3, and wait for it.

    Example: rayasr fsx export fs-0123456789abcdef0
    """
    systems = _systems(find_aws(profile, region, endpoint_url))
    systems.export(file_system)


@fsx_app.command("delete")
def delete(
    file_system: IdArgument,
    no_export: Annotated[
        bool, typer.Option("--no-export", help="Do not write what is new to S3 before.")
    ] = False,
    yes: YesOption = False,
    profile: ProfileOption = None,
    region: RegionOption = None,
    endpoint_url: EndpointOption = None,
) -> None:
    """Delete a file system, with all that is in it, after an export to S3.

    Example: rayasr fsx delete fs-0123456789abcdef0
    """
    systems = _systems(find_aws(profile, region, endpoint_url))
    found, links = systems.get(file_system), systems.links(file_system)
    note(found.describe(links))
    if links and not no_export:
        ask(f"export what is new to S3, then delete {file_system}?", yes)
        systems.export(file_system)
    else:
        ask(f"delete {file_system} with everything in it that is not in S3?", yes)
    systems.delete(file_system)


def _systems(aws: "Aws") -> "FileSystems":
    from launcher.aws.fsx import FileSystems

    return FileSystems(aws.client("fsx"), note)
