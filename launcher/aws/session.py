"""Clients for AWS, made when first asked for, and its errors as sentences."""

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rayasr.errors import ConfigError, LaunchError

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

REHEARSAL_REGION = "us-east-1"
"""Where an emulator on this machine is said to be, if nothing says otherwise."""

_LOOPBACK = ("localhost", "::1")
_NEW_CREDENTIALS = "renew the credentials (`aws sso login`, or new keys) and try again"
_REMEDIES = {
    "ExpiredToken": _NEW_CREDENTIALS,
    "ExpiredTokenException": _NEW_CREDENTIALS,
    "RequestExpired": f"{_NEW_CREDENTIALS}; is this machine's clock right?",
    "InvalidClientTokenId": "these credentials are not known there; check the profile and region",
    "UnrecognizedClientException": "these credentials are not known there; check the profile and "
    "region",
    "InvalidAccessKeyId": "these credentials are not known there; check the profile and region",
    "SignatureDoesNotMatch": "check the secret key, and this machine's clock",
    "AccessDenied": "configs/iam/ lists what a submitter must be allowed",
    "AccessDeniedException": "configs/iam/ lists what a submitter must be allowed",
    "NoSuchBucket": "make the bucket, or correct sagemaker.output",
    "ResourceLimitExceeded": "ask for a higher quota under Service Quotas, Amazon SageMaker",
}
_THROTTLED = ("Throttling", "ThrottlingException", "TooManyRequestsException", "RequestTimeout")


class UnreachableError(LaunchError):
    """AWS gave no usable answer; the same call may succeed later."""


class Aws:
    """An account in a region; what is left out comes from boto3's own configuration.

    On loopback there is an emulator, which gets no real credentials unless a profile is named.
    """

    def __init__(
        self,
        *,
        profile: str | None = None,
        region: str | None = None,
        endpoint_url: str | None = None,
    ) -> None:
        if endpoint_url and not re.match(r"https?://[^/\s]+", endpoint_url):
            raise ConfigError(f"--endpoint-url {endpoint_url} must be http://HOST:PORT")
        self.profile = profile
        self.endpoint_url = endpoint_url
        self._region = region
        self._session: Any = None
        self._clients: dict[str, Any] = {}

    @property
    def region(self) -> str:
        """The region that is asked; raises LaunchError where none is known."""
        region = self._region or self._boto_session().region_name
        if region is None and self._on_loopback:
            return REHEARSAL_REGION
        if region is None:
            raise LaunchError(
                "there is no AWS region; give --region, sagemaker.region in the job file, or set "
                "AWS_DEFAULT_REGION"
            )
        return str(region)

    @property
    def options(self) -> str:
        """What to add to a command so that it asks the same place; begins with a space."""
        given = {
            "--profile": self.profile,
            "--region": self._region,
            "--endpoint-url": self.endpoint_url,
        }
        return "".join(f" {name} {shlex.quote(value)}" for name, value in given.items() if value)

    def client(self, name: str) -> Any:
        """The boto3 client of a service; raises LaunchError without credentials or region."""
        if name not in self._clients:
            with aws_errors(f"reach the service {name}"):
                self._clients[name] = self._make_client(name)
        return self._clients[name]

    def _make_client(self, name: str) -> Any:
        from botocore.config import Config

        session = self._boto_session()
        if session.get_credentials() is None:
            raise LaunchError(
                "there are no AWS credentials; run `aws configure` or `aws sso login`, set "
                "AWS_PROFILE, or give --profile"
            )
        config = Config(
            connect_timeout=10,
            read_timeout=60,
            retries={"mode": "standard"},
            user_agent_extra="rayasr",
            # An emulator has one host name, and no proxy leads back to this machine.
            s3={"addressing_style": "path"} if self.endpoint_url else None,
            proxies={} if self._on_loopback else None,
        )
        return session.client(
            name, region_name=self.region, endpoint_url=self.endpoint_url, config=config
        )

    def _boto_session(self) -> Any:
        if self._session is None:
            import boto3

            with aws_errors("read the AWS configuration"):
                if self._on_loopback and self.profile is None:
                    self._session = boto3.Session("rehearsal", "rehearsal")
                else:
                    self._session = boto3.Session(profile_name=self.profile)
        return self._session

    @property
    def _on_loopback(self) -> bool:
        host = urlsplit(self.endpoint_url or "").hostname or ""
        return host in _LOOPBACK or host.startswith("127.")


@contextmanager
def aws_errors(doing: str) -> Iterator[None]:
    """Turn boto3's errors into a LaunchError, "cannot DOING: …; what next".

    An UnreachableError where the same call may succeed later.
    """
    from botocore import exceptions as boto
    from botocore.parsers import ResponseParserError

    try:
        yield
    except boto.ClientError as error:
        raise _refusal(doing, error) from error
    except (boto.ConnectionError, boto.HTTPClientError, ResponseParserError) as error:
        said = f"{_first_line(error)}; check the network"
        raise UnreachableError(f"cannot {doing}: {said}") from error
    except (boto.SSOError, boto.TokenRetrievalError, boto.CredentialRetrievalError) as error:
        raise LaunchError(f"cannot {doing}: {_first_line(error)}; {_NEW_CREDENTIALS}") from error
    except boto.ProfileNotFound as error:
        known = "`aws configure list-profiles` shows what there is"
        raise LaunchError(f"cannot {doing}: {_first_line(error)}; {known}") from error
    except boto.BotoCoreError as error:
        raise LaunchError(f"cannot {doing}: {_first_line(error)}") from error


def error_code(error: "ClientError") -> str:
    """What AWS calls the error."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _refusal(doing: str, error: "ClientError") -> LaunchError:
    code = error_code(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    message = str(error.response.get("Error", {}).get("Message") or "").strip().rstrip(".")
    said = f"{message} ({code})" if message else code
    if status >= 500 or code in _THROTTLED:
        return UnreachableError(f"cannot {doing}: {said}")
    remedy = _REMEDIES.get(code)
    return LaunchError(f"cannot {doing}: {said}{f'; {remedy}' if remedy else ''}")


def _first_line(error: Exception) -> str:
    """boto3's text without its full stop, cut where a report of many lines follows."""
    return " ".join(str(error).split())[:400].rstrip(".")
