"""Whether an export's files are those that it speaks of, and say what the checkpoint says."""

from pathlib import Path
from typing import Any

from rayasr import storage
from rayasr.checkpoint import LoadedModel
from rayasr.errors import CheckpointError
from rayasr.export.info import CERTIFICATE_FILE, ExportedModel, ExportInfo
from rayasr.export.onnx_networks import read_metadata
from rayasr.export.onnx_runtimes import TOKENS_FILE
from rayasr.tokenizer import UNITS_FILE, Tokenizer


def describe_files(folder: Path, info: ExportInfo) -> dict[str, dict[str, Any]]:
    """Bytes and sha256 of each file; raises CheckpointError where one of a model's is missing."""
    for model in info.models:
        for name in model.files:
            if not (folder / name).is_file():
                raise CheckpointError(
                    f"{folder} lacks {name} of its model {model.name}; export it again"
                )
    return {
        path.name: {"bytes": path.stat().st_size, "sha256": storage.sha256(path)}
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != CERTIFICATE_FILE and not path.name.startswith(".")
    }


def changed_files(folder: Path, certified: dict[str, dict[str, Any]]) -> list[str]:
    """Which files are not those that were certified, in words."""
    changes = []
    for name, known in certified.items():
        path = folder / name
        if not path.is_file():
            changes.append(f"{name} is gone")
        elif path.stat().st_size != known["bytes"] or storage.sha256(path) != known["sha256"]:
            changes.append(f"{name} has changed")
    return changes


def folder_faults(folder: Path, info: ExportInfo, loaded: LoadedModel) -> list[str]:
    """What units, features and metadata say that the checkpoint does not."""
    faults = []
    ours, theirs = info.features, loaded.recipe.features
    if ours.model_copy(update={"dither": theirs.dither, "backend": theirs.backend}) != theirs:
        faults.append("export.json has other features than the checkpoint was trained on")
    for name in (UNITS_FILE, TOKENS_FILE):
        if (folder / name).exists():
            faults += _unit_faults(folder / name, loaded.tokenizer)
    if (folder / UNITS_FILE).exists() and not faults and Tokenizer.load(folder) != loaded.tokenizer:
        faults.append("bpe.model is not the checkpoint's")
    for model in info.models:
        if model.kind in ("wenet_ctc_streaming", "wenet_trio"):
            faults += _metadata_faults(folder / model.files[0], model)
    return faults


def _unit_faults(path: Path, tokenizer: Tokenizer) -> list[str]:
    """The first unit that a list has at another number than the checkpoint; [] for none."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    found = [line.rsplit(" ", 1)[0] for line in lines if line.strip()]
    if len(found) != tokenizer.vocab_size:
        return [f"{path.name} has {len(found)} units, the checkpoint {tokenizer.vocab_size}"]
    for number, (line, unit) in enumerate(zip(lines, tokenizer.units, strict=False)):
        if line != f"{unit} {number}":
            return [f"{path.name} line {number + 1}: '{line}' where the checkpoint has '{unit}'"]
    return []


def _metadata_faults(path: Path, model: ExportedModel) -> list[str]:
    """Contexts that an ONNX file tells its runtime and export.json does not."""
    facts = read_metadata(path)
    return [
        f"{path.name} says {name} {facts.get(name)} where export.json says {wanted}"
        for name, wanted in (("chunk_size", model.chunk_size), ("left_chunks", model.left_chunks))
        if facts.get(name) != str(wanted)
    ]
