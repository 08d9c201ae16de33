"""Asks ECR about an image, down to its labels, without pulling it."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.request import urlopen

from launcher.preflight.facts import EcrAddress, Image
from rayasr.errors import LaunchError

Json = dict[str, Any]
Download = Callable[[str], bytes]

_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_LARGEST_CONFIG = 4 * 2**20  # bytes; ours has a few thousand
_TIMEOUT_S = 20.0


def find_manifest(ecr: Any, address: EcrAddress) -> Json | None:
    """ECR's entry of an image: its digest and manifest; None where there is none."""
    wanted = {"imageDigest": address.digest} if address.digest else {"imageTag": address.tag}
    try:
        found = ecr.batch_get_image(
            registryId=address.account,
            repositoryName=address.repository,
            imageIds=[wanted],
            acceptedMediaTypes=[*_INDEXES, *_MANIFESTS],
        )["images"]
    except ecr.exceptions.RepositoryNotFoundException:
        return None
    return found[0] if found else None


def read_image(ecr: Any, address: EcrAddress, entry: Json, download: Download) -> Image:
    """The architectures and labels of an image; raises LaunchError where they cannot be read."""
    digest = entry["imageId"]["imageDigest"]
    try:
        architectures, manifest = _choose(ecr, address, json.loads(entry["imageManifest"]))
        config = _config(ecr, address, manifest, download)
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise LaunchError(f"cannot read the labels of {address.repository}: {error!r}") from error
    labels = config.get("config", {}).get("Labels") or {}
    return Image(digest, architectures or frozenset({config["architecture"]}), labels)


def fetch(url: str) -> bytes:
    """What an address of ECR gives; raises OSError."""
    with urlopen(url, timeout=_TIMEOUT_S) as response:
        content: bytes = response.read(_LARGEST_CONFIG)
    return content


def _choose(ecr: Any, address: EcrAddress, manifest: Json) -> tuple[frozenset[str], Json]:
    """The manifest to look into, of an image for several architectures; and which those are."""
    if "manifests" not in manifest:
        return frozenset(), manifest
    platforms = {
        item["platform"]["architecture"]: item["digest"]
        for item in manifest["manifests"]
        if item.get("platform", {}).get("os") == "linux"  # others are signatures and the like
    }
    digest = platforms.get("amd64") or next(iter(platforms.values()))
    inner = find_manifest(ecr, replace(address, tag="", digest=digest))
    if inner is None:
        raise LookupError(digest)
    return frozenset(platforms), json.loads(inner["imageManifest"])


def _config(ecr: Any, address: EcrAddress, manifest: Json, download: Download) -> Json:
    """The image's own description, which ECR keeps as it does layers."""
    url = ecr.get_download_url_for_layer(
        registryId=address.account,
        repositoryName=address.repository,
        layerDigest=manifest["config"]["digest"],
    )["downloadUrl"]
    config: Json = json.loads(download(url))
    return config
