"""All that changes while a model is trained, on the device and in state.json."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rayasr.checkpoint import Checkpoint, load_weights
from rayasr.config import Recipe
from rayasr.errors import CheckpointError
from rayasr.model.u2 import U2Model
from rayasr.train.optim import LossScale, WeightAverage, build_optimizer
from rayasr.train.reducer import GradientReducer
from rayasr.train.world import World

NUM_EXTRAS = 5
"""Numbers that travel with the gradients: loss, CTC, attention, stop code, checkpoint wanted."""


@dataclass
class Position:
    """Where training stands; (epoch, epoch_step) is the next step, so a resume costs nothing."""

    step: int = 0
    epoch: int = 0
    epoch_step: int = 0
    seconds: float = 0.0
    audio_seconds: float = 0.0
    skipped_in_row: int = 0
    best_dev_loss: float | None = None
    best_step: int = 0
    window: dict[str, float] = field(default_factory=dict)
    """Sums since the last logged step, so that a resumed run logs what an unbroken one logs."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for state.json; floats survive JSON bit for bit."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Position":
        """The position of a checkpoint's state.json."""
        return cls(**{key: values[key] for key in cls.__dataclass_fields__ if key in values})


@dataclass
class TrainState:
    """The model and everything that moves it."""

    model: U2Model
    optimizer: torch.optim.Optimizer
    reducer: GradientReducer
    average: WeightAverage | None
    scale: LossScale | None
    autocast: torch.dtype | None
    position: Position
    names: dict[nn.Parameter, str]

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights."""
        return next(iter(self.names)).dtype


def build_state(model: U2Model, recipe: Recipe, world: World) -> TrainState:
    """Optimizer, gradient buckets and moving average around a fresh model on its device."""
    precision = resolve_precision(recipe.train.precision, world.device)
    model.to(device=world.device, dtype=torch.float64 if precision == "fp64" else torch.float32)
    names = {p: name for name, p in model.named_parameters() if p.requires_grad}
    parameters = list(names)
    optimizer = build_optimizer(model, recipe.optim)
    for parameter in parameters:  # here and not in the first step, so that loading has a place
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=world.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    decay = recipe.optim.ema_decay
    return TrainState(
        model=model,
        optimizer=optimizer,
        reducer=GradientReducer(parameters, world, NUM_EXTRAS),
        average=WeightAverage(parameters, decay) if decay else None,
        scale=LossScale(world.device) if precision == "fp16" else None,
        autocast={"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision),
        position=Position(),
        names=names,
    )


def resolve_precision(precision: str, device: torch.device) -> str:
    """What `auto` means on a device."""
    if precision != "auto":
        return precision
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def copy_to_host(state: TrainState) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of model.safetensors and optimizer.safetensors, copied so that training may go on.

    model.safetensors has the weights that are validated: the moving average where there is one;
    the raw ones are then in optimizer.safetensors as `weight.NAME`.
    """
    weights = {name: _copy(value) for name, value in state.model.state_dict().items()}
    optimizer: dict[str, Tensor] = {}
    for parameter, name in state.names.items():
        moments = state.optimizer.state[parameter]
        optimizer[f"exp_avg.{name}"] = _copy(moments["exp_avg"])
        optimizer[f"exp_avg_sq.{name}"] = _copy(moments["exp_avg_sq"])
        optimizer["updates"] = _copy(moments["step"])
    if state.average is not None:
        for (_, name), average in zip(state.names.items(), state.average.averages, strict=True):
            optimizer[f"weight.{name}"] = weights[name]
            weights[name] = _copy(average)
    if state.scale is not None:
        optimizer["scale"] = _copy(state.scale.value)
        optimizer["scale_growth"] = _copy(state.scale.growth)
    return weights, optimizer


def load_state(state: TrainState, checkpoint: Checkpoint | None, world: World) -> None:
    """Put a checkpoint that only rank 0 has into all workers; None: rank 0's fresh weights.

    Raises CheckpointError where it does not fit the model.
    """
    if checkpoint is not None and world.is_first:
        weights, optimizer = checkpoint.model(), checkpoint.optimizer()
        load_weights(state.model, weights, str(checkpoint.path))
        try:
            _load_optimizer(state, optimizer)
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"{checkpoint.path} does not fit the optimizer: {error}"
            ) from None
    moments = [
        state.optimizer.state[p][key]
        for p in state.names
        for key in ("step", "exp_avg", "exp_avg_sq")
    ]
    world.broadcast_(list(state.model.state_dict().values()))
    if state.average is not None:
        if checkpoint is None:
            torch._foreach_copy_(state.average.averages, [p.data for p in state.names])
        world.broadcast_(state.average.averages)
    if checkpoint is not None:
        world.broadcast_(moments)
        if state.scale is not None:
            world.broadcast_([state.scale.value, state.scale.growth])
    position = world.share(state.position if checkpoint is None else checkpoint.state["position"])
    if isinstance(position, dict):
        state.position = Position.from_json(position)


@torch.no_grad()
def _load_optimizer(state: TrainState, optimizer: dict[str, Tensor]) -> None:
    for index, (parameter, name) in enumerate(state.names.items()):
        moments = state.optimizer.state[parameter]
        moments["exp_avg"].copy_(optimizer[f"exp_avg.{name}"])
        moments["exp_avg_sq"].copy_(optimizer[f"exp_avg_sq.{name}"])
        moments["step"].copy_(optimizer["updates"])
        if state.average is not None:
            state.average.averages[index].copy_(parameter)
            parameter.copy_(optimizer[f"weight.{name}"])
    if state.scale is not None and "scale" in optimizer:
        state.scale.value.copy_(optimizer["scale"])
        state.scale.growth.copy_(optimizer["scale_growth"])


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
