"""Gradients summed over workers while the backward pass still runs.

DistributedDataParallel averages, rebuilds its buckets after the first step (so that a resumed run
differs in the last bits) and waits for ever for a worker without a backward pass. Here buckets are
fixed, in reverse order of the parameters, and a worker without a micro-batch contributes zeros.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rayasr.train.world import World, exchange

BUCKET_BYTES = 16 * 2**20
"""Large enough that the fixed cost of an all-reduce does not matter, small enough to overlap."""


class GradientReducer:
    """Flat gradient buckets; every parameter's `.grad` is a view into one of them.

    Use per step: `zero()`, backward of all micro-batches but the last, `arm(extras)`, backward of
    the last one, `finish()`. `extras` are a few numbers that travel with the last bucket and come
    back summed, so that losses and the stop flag cost no all-reduce of their own.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        world: World,
        num_extras: int = 0,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        self._world = world
        self._buckets: list[Tensor] = []
        self._bucket_of: dict[int, int] = {}
        self._sizes: list[int] = []
        self._armed = False
        groups = _group(list(reversed(parameters)), bucket_bytes)
        for index, group in enumerate(groups):
            extra = num_extras if index == len(groups) - 1 else 0
            self._add_bucket(index, group, extra)
        self._extras = self._buckets[-1][self._buckets[-1].numel() - num_extras :]
        self.gradients = [
            bucket[: bucket.numel() - num_extras] if bucket is self._buckets[-1] else bucket
            for bucket in self._buckets
        ]
        """The buckets without the extras: clip and measure the gradient through these."""

    def zero(self) -> None:
        """Clear all gradients (they stay views, so `optimizer.zero_grad()` is never called)."""
        torch._foreach_zero_(self._buckets)

    def arm(self, extras: Tensor) -> None:
        """Let the next backward launch the all-reduces; `extras` (num_extras,) are summed too."""
        self._extras.copy_(extras)
        self._missing = list(self._sizes)
        self._works: list[Any] = []
        self._armed = self._world.size > 1

    def finish(self) -> Tensor:
        """Launch what backward has not, wait for all; returns the summed extras (a view)."""
        if self._armed:
            self._launch(len(self._buckets))
            with exchange():
                for work in self._works:
                    work.wait()
            self._armed = False
        return self._extras

    def _add_bucket(self, index: int, group: list[nn.Parameter], extra: int) -> None:
        first = group[0]
        numel = sum(parameter.numel() for parameter in group) + extra
        bucket = torch.zeros(numel, dtype=first.dtype, device=first.device)
        start = 0
        for parameter in group:
            end = start + parameter.numel()
            parameter.grad = bucket[start:end].view(parameter.shape)
            start = end
            if self._world.size > 1:
                hook = partial(self._arrived, index)
                parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
        self._buckets.append(bucket)
        self._sizes.append(len(group))

    def _arrived(self, index: int, _parameter: Tensor) -> None:
        """Backward has added a gradient; launch every bucket that is complete, in fixed order."""
        if not self._armed:
            return
        self._missing[index] -= 1
        ready = len(self._works)
        while ready < len(self._buckets) and self._missing[ready] == 0:
            ready += 1
        self._launch(ready)

    def _launch(self, until: int) -> None:
        # All workers must launch the same buckets in the same order, whatever order theirs filled.
        with exchange():
            for bucket in self._buckets[len(self._works) : until]:
                self._works.append(dist.all_reduce(bucket, async_op=True))


def _group(parameters: list[nn.Parameter], bucket_bytes: int) -> list[list[nn.Parameter]]:
    """Neighbours together, up to a size; one dtype and device per group."""
    groups: list[list[nn.Parameter]] = []
    room = 0
    kind: tuple[torch.dtype, torch.device] | None = None
    for parameter in parameters:
        size = parameter.numel() * parameter.element_size()
        if kind != (parameter.dtype, parameter.device) or size > room:
            groups.append([])
            kind, room = (parameter.dtype, parameter.device), bucket_bytes
        groups[-1].append(parameter)
        room -= size
    return groups
