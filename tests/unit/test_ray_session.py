"""The Ray session: a cluster that is not there is named at once."""

import socket

import pytest

from rayasr.errors import LaunchError
from rayasr.ray_session import connect


def test_a_cluster_that_is_not_there_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but nobody listens
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(LaunchError, match=f"{address}.*unset RAY_ADDRESS"), connect():
            pass
