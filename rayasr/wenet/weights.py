"""WeNet's final.pt: a plain state dict under our names, beside it the position tables."""

import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rayasr.errors import CheckpointError, first_line
from rayasr.model.subsampling import TABLE_FRAMES, sinusoids

POSITION_TABLE = ".pe"
TABLE_TOLERANCE = 1e-6
_UNUSED = re.compile(r"\.concat_linear\d?\.(weight|bias)$")
"""Layers that WeNet kept until 2022 and never called, for `concat_after` was false."""


def read_weights(path: Path, notes: Callable[[str], None]) -> dict[str, Tensor]:
    """Weights by name without position tables, which must be the sinusoids that we compute.

    Nothing in the file is run. Raises CheckpointError for what is no plain state dict.
    """
    content = _load(path)
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds no state dict but {type(content).__name__}")
    nested = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if nested:
        raise CheckpointError(
            f"{path} holds more than weights ({', '.join(nested[:4])}), as deepspeed's checkpoints "
            "do; take the final.pt that WeNet's average_model.py writes, or save the model's state "
            "dict alone"
        )
    weights: dict[str, Tensor] = dict(content)
    for name in [name for name in weights if name.endswith(POSITION_TABLE)]:
        _check_table(weights.pop(name), f"{path}: {name}")
    unused = [name for name in weights if _UNUSED.search(name)]
    if unused:
        notes(f"{path}: {len(unused)} tensors of concat_linear are left out, the model has no use")
    return {name: value for name, value in weights.items() if name not in unused}


def with_position_tables(weights: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    """The state dict as WeNet writes it: a table (1, 5000, D) after each embedding."""
    table = sinusoids(0, TABLE_FRAMES, size)[None]  # one memory for all, as in WeNet's files
    complete: dict[str, Tensor] = {}
    last = "encoder.embed.out.0.bias" if "encoder.embed.out.0.bias" in weights else ""
    last = last or "encoder.embed.linear.bias"
    for name, value in weights.items():
        complete[name] = value
        if name == last:
            complete[f"encoder.embed.pos_enc{POSITION_TABLE}"] = table
        if name.endswith("embed.0.weight"):
            complete[name.replace("0.weight", f"1{POSITION_TABLE}")] = table
    return complete


def weights_file(weights: Mapping[str, Tensor]) -> bytes:
    """A state dict in the bytes of its file."""
    buffer = BytesIO()
    torch.save(dict(weights), buffer)
    return buffer.getvalue()


def _load(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of archives of torch.jit and of newer pickles
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; it holds WeNet's weights") from None
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S*\w)", str(error))
        raise CheckpointError(
            f"{path} holds more than weights{f' ({found[1]})' if found else ''}: loading that "
            "could run code, so nothing of it was run; ask for a file of the state dict alone"
        ) from None
    except Exception as error:  # what is no such file fails in any way inside torch
        raise CheckpointError(
            f"{path} is damaged or no file of weights ({first_line(error).partition('. ')[0]}); "
            "take WeNet's final.pt, not an export"
        ) from None


def _check_table(table: Tensor, source: str) -> None:
    rows, size = table.shape[-2:] if table.dim() >= 2 else (0, 0)
    fits = table.numel() == rows * size > 0
    if not fits or not _is_near(table.reshape(rows, size), sinusoids(0, rows, size)):
        raise CheckpointError(
            f"{source} is no table of sinusoids; rayasr computes positions and cannot keep others"
        )


def _is_near(table: Tensor, expected: Tensor) -> bool:
    return float((table - expected).abs().max()) <= TABLE_TOLERANCE
