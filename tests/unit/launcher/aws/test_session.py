"""Clients and the sentences that boto3's errors become."""

import pytest
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, SSOError

from launcher.aws.session import REHEARSAL_REGION, Aws, UnreachableError, aws_errors
from rayasr.errors import ConfigError, LaunchError

pytestmark = pytest.mark.usefixtures("no_account")

LOOPBACK = "http://127.0.0.1:5599"


def refusal(code: str, message: str = "", status: int = 400) -> ClientError:
    return ClientError(
        {
            "Error": {"Code": code, "Message": message},
            "ResponseMetadata": {"HTTPStatusCode": status},
        },
        "Operation",
    )


def test_no_region() -> None:
    with pytest.raises(LaunchError, match=r"no AWS region; give --region, sagemaker\.region"):
        _ = Aws().region


def test_no_credentials() -> None:
    with pytest.raises(LaunchError, match="no AWS credentials; run `aws configure`"):
        Aws(region="eu-west-1").client("logs")


def test_half_of_the_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    with pytest.raises(LaunchError, match="Partial credentials found"):
        Aws(region="eu-west-1").client("logs")


def test_profile_that_is_not_there() -> None:
    with pytest.raises(LaunchError, match=r"profile \(nobody\).*`aws configure list-profiles`"):
        Aws(profile="nobody").client("logs")


@pytest.mark.parametrize("region", ["not a region", "eu west"])
def test_region_that_cannot_be_one(region: str) -> None:
    with pytest.raises(LaunchError, match="doesn't match a supported format"):
        Aws(region=region, endpoint_url=LOOPBACK).client("logs")


@pytest.mark.parametrize("url", ["127.0.0.1:5599", "ftp://x", "http://", "http:// x"])
def test_endpoint_that_is_no_url(url: str) -> None:
    with pytest.raises(ConfigError, match="must be http://HOST:PORT"):
        Aws(endpoint_url=url)


def test_emulator_needs_no_account_and_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    client = Aws(endpoint_url=LOOPBACK).client("s3")
    assert client.meta.region_name == REHEARSAL_REGION
    assert client.meta.config.proxies == {}
    url = client.generate_presigned_url("get_object", Params={"Bucket": "buck", "Key": "a"})
    assert url.startswith(f"{LOOPBACK}/buck/a?")


def test_emulator_gets_no_real_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAREAL")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "real")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "real")
    client = Aws(endpoint_url=LOOPBACK).client("logs")
    assert client._get_credentials().access_key == "rehearsal"
    assert client._get_credentials().token is None


def test_region_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "cn-north-1")
    assert Aws().region == "cn-north-1"
    assert Aws(region="eu-west-1").region == "eu-west-1"


def test_options_ask_the_same_place() -> None:
    aws = Aws(profile="my own", region="eu-west-1", endpoint_url=LOOPBACK)
    assert aws.options == f" --profile 'my own' --region eu-west-1 --endpoint-url {LOOPBACK}"
    assert Aws().options == ""


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("ExpiredTokenException", "renew the credentials"),
        ("UnrecognizedClientException", "check the profile and region"),
        ("AccessDeniedException", "configs/iam/"),
        ("NoSuchBucket", "make the bucket"),
        ("SignatureDoesNotMatch", "this machine's clock"),
    ],
)
def test_refusal_says_what_next(code: str, remedy: str) -> None:
    said = rf"^cannot do it: Told you so \({code}\); .*{remedy}"
    with pytest.raises(LaunchError, match=said) as info, aws_errors("do it"):
        raise refusal(code, "Told you so.")
    assert not isinstance(info.value, UnreachableError)


@pytest.mark.parametrize(
    "error",
    [
        refusal("InternalFailure", status=500),
        refusal("ThrottlingException"),
        EndpointConnectionError(endpoint_url=LOOPBACK),
    ],
)
def test_what_may_pass_is_told_apart(error: Exception) -> None:
    with pytest.raises(UnreachableError, match=r"^cannot do it: "), aws_errors("do it"):
        raise error


def test_lost_connection_says_where_to_look() -> None:
    said = r'^cannot do it: Could not connect to the endpoint URL: "x"; check the network$'
    with pytest.raises(UnreachableError, match=said), aws_errors("do it"):
        raise EndpointConnectionError(endpoint_url="x")


def test_single_sign_on_that_ended() -> None:
    with pytest.raises(LaunchError, match="renew the credentials"), aws_errors("do it"):
        raise SSOError


def test_any_other_error_of_boto() -> None:
    with pytest.raises(LaunchError, match=r"^cannot do it: An unspecified"), aws_errors("do it"):
        raise BotoCoreError


def test_our_own_errors_pass() -> None:
    with pytest.raises(ConfigError, match=r"^ours$"), aws_errors("do it"):
        raise ConfigError("ours")
