"""How the weights move: optimizer, learning rate, clipping, the moving average of the weights."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rayasr.config import OptimConfig


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Fused Adam or AdamW over all trainable parameters; AdamW decays matrices only."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if config.name == "adam":
        return torch.optim.Adam(
            [p for _, p in named], lr=config.lr, betas=config.betas, eps=config.eps, fused=True
        )
    groups = [
        {"params": [p for _, p in named if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for _, p in named if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def learning_rate(config: OptimConfig, update: int, total: int) -> float:
    """Learning rate of an update (counted from 0) of `total`."""
    warmup = config.warmup_steps or max(1, round(config.warmup_fraction * total))
    if config.schedule == "warmup":
        # WeNet sets its scheduler back by one step before training: the first two updates share
        # a rate. Keeping that makes our runs comparable with its own, update by update.
        n = max(1, update)
        return config.lr * min(math.sqrt(warmup / n), n / warmup)
    if update < warmup:
        return config.lr * (update + 1) / warmup
    done = min(1.0, (update - warmup + 1) / max(1, total - warmup))
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * done))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set one learning rate for all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def clip_gradients(gradients: Sequence[Tensor], max_norm: float, scale: Tensor | None) -> Tensor:
    """Scale all gradients to at most `max_norm`; returns the norm before, 0-dim, on the device.

    `scale` is what an fp16 loss was multiplied by: it is divided out in the same pass. Where the
    norm is not finite the gradients are useless; the caller skips the update.
    """
    norms = torch._foreach_norm(list(gradients))
    norm = torch.linalg.vector_norm(torch.stack(norms)) if len(norms) > 1 else norms[0]
    factor = 1.0 if scale is None else 1.0 / scale
    norm = norm * factor
    clip = torch.clamp(max_norm / (norm + 1e-6), max=1.0) * factor
    torch._foreach_mul_(list(gradients), clip)
    return norm


def update_weights(optimizer: torch.optim.Optimizer, norm: Tensor) -> Tensor:
    """One optimizer step unless the gradient norm is not finite; returns 1.0 where skipped.

    On a GPU the decision stays there: the fused kernel reads `found_inf`, nothing waits.
    """
    skipped = torch.logical_not(torch.isfinite(norm)).to(torch.float32)
    if norm.device.type == "cpu":
        if not skipped.item():
            optimizer.step()
        return skipped
    optimizer.found_inf = skipped  # type: ignore[attr-defined]  # read by torch's fused kernels
    optimizer.step()
    return skipped


class LossScale:
    """Dynamic loss scale for fp16, kept on the device."""

    def __init__(self, device: torch.device, initial: float = 2.0**15) -> None:
        self.value = torch.full((), initial, device=device)
        self.growth = torch.zeros((), dtype=torch.int32, device=device)

    def update(self, skipped: Tensor) -> None:
        """Halve after a skipped update, double after 2,000 good ones."""
        torch._amp_update_scale_(self.value, self.growth, skipped, 2.0, 0.5, 2000)


class WeightAverage:
    """Exponential moving average of the parameters; the weights that are validated and kept."""

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self._parameters = [parameter.data for parameter in parameters]
        self._decay = decay
        self.averages = [parameter.clone() for parameter in self._parameters]

    def update(self, update: int) -> None:
        """Move towards the parameters; faster at first, so that the start is soon forgotten."""
        decay = min(self._decay, (1 + update) / (10 + update))
        torch._foreach_lerp_(self.averages, self._parameters, 1.0 - decay)

    def swap(self) -> None:
        """Exchange averages and parameters, for a validation; call twice."""
        kept = [average.clone() for average in self.averages]
        torch._foreach_copy_(self.averages, self._parameters)
        torch._foreach_copy_(self._parameters, kept)
