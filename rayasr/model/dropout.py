"""Dropout, with random numbers that cost little on the CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dropout(nn.Module):
    """Dropout while training; see `drop`."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return drop(x, self.active_rate())

    def add(self, x: Tensor, y: Tensor, factor: float = 1.0) -> Tensor:
        """x + factor * dropout(y), in one pass on the CPU."""
        rate = self.active_rate()
        if rate == 0.0 or x.device.type != "cpu":
            return torch.add(x, drop(y, rate), alpha=factor)
        return torch.addcmul(x, y, keep_mask(y, rate, factor))

    def active_rate(self) -> float:
        """The rate while training, else 0."""
        return self.rate if self.training else 0.0


def drop(x: Tensor, rate: float) -> Tensor:
    """Dropout, with cheap random numbers on the CPU and torch's own on a GPU."""
    if rate == 0.0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, rate, True)
    return x * keep_mask(x, rate, 1.0)


def keep_mask(x: Tensor, rate: float, factor: float) -> Tensor:
    """What to multiply x by: 0 where it is dropped, else factor / (1 - rate); like x.

    One random byte decides about an element, so the rate is rounded to a multiple of 1/256; the
    scale is exact for the rounded rate. Float arithmetic throughout: three times cheaper than a
    bool mask.
    """
    threshold = max(1, round(rate * 256))
    mask = random_bytes(x.numel()).view(x.shape).to(x.dtype)
    return mask.ge_(threshold).mul_(factor * 256.0 / (256 - threshold))


def random_bytes(count: int) -> Tensor:
    """`count` uniform random bytes, uint8, from torch's global CPU generator.

    Drawn 64 bits at a time: 15 times cheaper than `bernoulli_`.
    """
    # A script cannot reinterpret memory, and nobody trains one.
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return torch.empty(count, dtype=torch.uint8).random_()
    words = torch.empty((count + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    return words.view(torch.uint8)[:count]
