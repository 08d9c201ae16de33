"""The workers of one training run, seen from one of them; knows torch.distributed but no Ray."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class PeerError(Exception):
    """Workers could not exchange values, as it happens where one of them is gone."""


@contextmanager
def exchange() -> Iterator[None]:
    """Around whatever all workers do together; raises PeerError for torch.distributed's errors."""
    try:
        yield
    except RuntimeError as error:
        raise PeerError(f"torch.distributed: {error}") from error


@dataclass(frozen=True)
class World:
    """This worker's rank, how many there are, and the device it computes on.

    Whatever all workers do together raises PeerError where one of them is gone.
    """

    rank: int
    size: int
    device: torch.device

    @classmethod
    def single(cls, device: str | torch.device = "cpu") -> "World":
        """A world of one worker, which needs no process group."""
        return cls(0, 1, torch.device(device))

    @classmethod
    def joined(cls, device: str | torch.device = "cpu") -> "World":
        """The world of the process group that is already set up; of one worker if there is none."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls.single(device)
        return cls(dist.get_rank(), dist.get_world_size(), torch.device(device))

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which alone reads and writes the run folder."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all workers, in place."""
        if self.size > 1:
            with exchange():
                dist.all_reduce(tensor)
        return tensor

    def broadcast_(self, tensors: list[Tensor]) -> None:
        """Give all workers rank 0's values, in place; small tensors travel together."""
        if self.size == 1 or not tensors:
            return
        for dtype in sorted({tensor.dtype for tensor in tensors}, key=str):
            group = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.detach().reshape(-1).to(self.device) for tensor in group])
            with exchange():
                dist.broadcast(flat, src=0)
            parts = torch.split(flat, [tensor.numel() for tensor in group])
            with torch.no_grad():
                for tensor, part in zip(group, parts, strict=True):
                    tensor.copy_(part.view(tensor.shape))

    def share(self, value: Any) -> Any:
        """Rank 0's value of a plain Python object, on all workers."""
        if self.size == 1:
            return value
        box = [value]
        with exchange():
            dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every worker's value of a plain Python object, by rank, on all workers."""
        if self.size == 1:
            return [value]
        box: list[Any] = [None] * self.size
        with exchange():
            dist.all_gather_object(box, value)
        return box
