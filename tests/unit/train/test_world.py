"""What a worker meets where another one is gone."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from rayasr.train.reducer import GradientReducer
from rayasr.train.world import PeerError, World

TWO = World(0, 2, torch.device("cpu"))


def test_a_lost_peer_is_told_from_a_bug(monkeypatch: pytest.MonkeyPatch):
    def closed(*_: object, **__: object) -> None:
        raise RuntimeError("Connection closed by peer [10.0.0.2]:4711")

    for name in ("all_reduce", "broadcast", "broadcast_object_list", "all_gather_object"):
        monkeypatch.setattr(dist, name, closed)
    for use in (
        lambda: TWO.sum_(torch.zeros(1)),
        lambda: TWO.broadcast_([torch.zeros(1)]),
        lambda: TWO.share(1),
        lambda: TWO.gather(1),
    ):
        with pytest.raises(PeerError, match="Connection closed by peer"):
            use()


def test_a_peer_lost_during_backward(monkeypatch: pytest.MonkeyPatch):
    class Work:
        def wait(self) -> None:
            raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(dist, "all_reduce", lambda *_, **__: Work())
    layer = nn.Linear(2, 1)
    reducer = GradientReducer(list(layer.parameters()), TWO, num_extras=1)
    reducer.arm(torch.zeros(1))
    layer(torch.ones(1, 2)).sum().backward()
    with pytest.raises(PeerError):
        reducer.finish()
    monkeypatch.setattr(dist, "all_reduce", lambda *_, **__: Work().wait())
    reducer.arm(torch.zeros(1))
    with pytest.raises(PeerError):
        layer(torch.ones(1, 2)).sum().backward()
