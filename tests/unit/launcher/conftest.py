"""A fake AWS for the tests of the launcher; its clients are made once, for that takes a second."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.aws.sagemaker import POLL_S, SageMakerBackend
from launcher.aws.session import Aws
from tests.fake_aws import FakeAws, FakeLogs, fake_aws, forget_aws


@pytest.fixture(scope="session")
def running_server() -> Iterator[FakeAws]:
    with fake_aws() as server:
        yield server


@pytest.fixture(scope="session")
def shared_aws(running_server: FakeAws) -> Aws:
    return Aws(endpoint_url=running_server.url)


@pytest.fixture
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine's user is found."""
    forget_aws(monkeypatch, tmp_path)


@pytest.fixture
def server(running_server: FakeAws) -> FakeAws:
    """A server that has been asked nothing yet, and answers nothing."""
    running_server.forget()
    return running_server


@pytest.fixture
def aws(no_account: None, server: FakeAws, shared_aws: Aws) -> Aws:  # noqa: ARG001
    """Clients for that server."""
    return shared_aws


@pytest.fixture
def logs(server: FakeAws) -> FakeLogs:
    """The server's log streams; there are none yet."""
    return FakeLogs(server)


@pytest.fixture
def aws_of_the_verbs(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verbs make no clients of their own, and no time passes while they wait."""
    monkeypatch.setattr(Aws, "client", lambda _, name, client=aws.client: client(name))
    unhurried = {"poll_s": POLL_S, "sleep": lambda _: None}
    monkeypatch.setattr(SageMakerBackend.__init__, "__kwdefaults__", unhurried)
