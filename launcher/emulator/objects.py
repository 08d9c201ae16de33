"""Objects of S3, as the service copies them to and from the hosts; moto keeps them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from launcher.contract import TransferError

TEST_KEY = "testing"
"""Access key and secret that moto takes, and everybody knows."""


class ObjectStore:
    """S3 of one region."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def find(self, url: str) -> dict[str, str]:
        """Name below a prefix → key, in order; a single object goes by its last part."""
        bucket, prefix = split_url(url)
        folder = f"{prefix}/" if prefix else ""
        pages = self._client.get_paginator("list_objects_v2")
        with _explained(url):
            keys = sorted(
                entry["Key"]
                for page in pages.paginate(Bucket=bucket, Prefix=prefix)
                for entry in page.get("Contents", ())
                if not entry["Key"].endswith("/")  # what the console makes for an empty folder
            )
        found = {key.removeprefix(folder): key for key in keys if key.startswith(folder)}
        if prefix in keys:
            found[Path(prefix).name] = prefix
        return found

    def download(self, bucket: str, found: Mapping[str, str], folder: Path) -> None:
        """Copy objects to their names in a folder."""
        for name, key in found.items():
            target = folder / name
            if not target.resolve().is_relative_to(folder.resolve()):
                raise TransferError(f"s3://{bucket}/{key}: the name leads out of the folder")
            with _explained(f"s3://{bucket}/{key}"):
                target.parent.mkdir(parents=True, exist_ok=True)
                self._client.download_file(bucket, key, str(target))

    def upload(self, path: Path, url: str) -> None:
        """Copy a file to an object."""
        bucket, key = split_url(url)
        with _explained(url), path.open("rb") as file:
            self._client.upload_fileobj(file, bucket, key)

    def delete(self, url: str) -> None:
        """Remove an object."""
        bucket, key = split_url(url)
        with _explained(url):
            self._client.delete_object(Bucket=bucket, Key=key)


def connect_objects(endpoint_url: str) -> Callable[[str], ObjectStore]:
    """Makes the object store of a region, behind the emulator's own endpoint."""

    @cache  # a client takes long to make, and any thread may use it
    def connect(region: str) -> ObjectStore:
        session = boto3.session.Session(TEST_KEY, TEST_KEY, region_name=region)
        config = Config(proxies={}, retries={"total_max_attempts": 1})
        return ObjectStore(session.client("s3", endpoint_url=endpoint_url, config=config))

    return connect


def split_url(url: str) -> tuple[str, str]:
    """Bucket and key of s3://BUCKET/KEY."""
    parts = urlsplit(url)
    return parts.netloc, parts.path.strip("/")


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """AWS's errors and the disk's as one of ours."""
    try:
        yield
    except ClientError as error:
        said = error.response["Error"]
        raise TransferError(f"{url}: {said['Code']}: {said['Message']}") from error
    except (BotoCoreError, OSError) as error:
        raise TransferError(f"{url}: {error}") from error
