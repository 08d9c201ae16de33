"""What the service copies: inputs to the hosts before the start, results to S3 at the end."""

import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher.contract import Host, TransferError, channels_of, write_contract
from launcher.emulator.objects import ObjectStore, split_url


def stage_inputs(
    request: Mapping[str, Any], hosts: Sequence[Host], interface: str, objects: ObjectStore
) -> None:
    """Write the contract's files and copy the S3 channels; raises TransferError."""
    for host in hosts:
        write_contract(host, hosts, request, interface)
    for channel in request.get("InputDataConfig", ()):
        source = channel["DataSource"].get("S3DataSource")
        if source is not None:
            receivers = [host for host in hosts if channel in channels_of(host, request)]
            _stage_channel(channel["ChannelName"], source, receivers, objects)


def upload_results(request: Mapping[str, Any], hosts: Sequence[Host], objects: ObjectStore) -> str:
    """Upload the model and, where there is any, the output; the model's URL.

    All hosts' files go into one archive, so that of two with one name one is lost. Raises
    TransferError.
    """
    place = request["OutputDataConfig"]["S3OutputPath"].rstrip("/")
    place = f"{place}/{request['TrainingJobName']}/output"
    folder = hosts[0].folder.parent
    model = _pack([host.ml / "model" for host in hosts], folder / "model.tar.gz")
    objects.upload(model, f"{place}/model.tar.gz")
    outputs = [host.ml / "output/data" for host in hosts]
    if any(any(output.iterdir()) for output in outputs):
        objects.upload(_pack(outputs, folder / "output.tar.gz"), f"{place}/output.tar.gz")
    return f"{place}/model.tar.gz"


def _stage_channel(
    name: str, source: Mapping[str, Any], hosts: Sequence[Host], objects: ObjectStore
) -> None:
    found = list(objects.find(source["S3Uri"]).items())
    if not found:
        raise TransferError(f"{source['S3Uri']}: there are no objects")
    sharded = source.get("S3DataDistributionType") == "ShardedByS3Key"
    for index, host in enumerate(hosts):
        share = found[index :: len(hosts)] if sharded else found
        folder = host.ml / "input/data" / name
        folder.mkdir()
        objects.download(split_url(source["S3Uri"])[0], dict(share), folder)


def _pack(folders: Sequence[Path], archive: Path) -> Path:
    """One archive of what lies in several folders; of one name the last counts."""
    entries = {entry.name: entry for folder in folders for entry in sorted(folder.iterdir())}
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for name, path in entries.items():
            tar.add(path, name)
    return archive
