"""Tries every model of an export in every runtime that has it, and compares with the checkpoint."""

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from rayasr import storage
from rayasr.certify.certificate import Certificate, Row, write_certificate
from rayasr.certify.folder import describe_files, folder_faults
from rayasr.certify.recordings import Recordings
from rayasr.certify.runtime import refused_runtimes
from rayasr.certify.trial import Trial
from rayasr.checkpoint import LoadedModel, load_model
from rayasr.config import with_corpora
from rayasr.decode.split import text_rule
from rayasr.errors import CheckpointError, DataError
from rayasr.export.info import CERTIFICATE_FILE, ExportInfo, read_info

MAX_LOSS = 0.3
"""Points of CER or WER that an export may lose, unless told otherwise."""


def certify(
    folder: str | Path,
    corpus: str | Path,
    split: str = "test",
    *,
    max_loss: float = MAX_LOSS,
    model: str | Path | None = None,
    force: bool = False,
) -> Certificate:
    """Decode a split of a corpus from audio with all that an export holds; writes certificate.json.

    Compared with is the checkpoint that the export was made from, or `model`, a run or a model
    folder. `force` tries sherpa-onnx although its features are not those that the model knows. A
    certificate that is not `passed` says why. Raises CheckpointError, ConfigError, DataError.
    """
    folder = Path(folder)
    info = read_info(folder)
    loaded = _load_checkpoint(info, model)
    files = describe_files(folder, info)
    _check_writable(folder)
    recordings = Recordings(with_corpora(loaded.recipe, [corpus]), split)
    with _one_thread():
        trial = Trial(folder, info, loaded, recordings, max_loss)
        rows = tuple(trial.rows(force))
        checkpoint = trial.references()
        faults = tuple(folder_faults(folder, info, loaded))
        advice = _advice(trial, info, loaded.path, faults, rows)
    certificate = Certificate(
        folder=str(folder),
        source=str(loaded.path),
        default_mode=info.mode,
        corpus=recordings.corpus,
        split=split,
        utterances=len(recordings.references),
        unit=loaded.recipe.decode.unit,
        text_rule=text_rule(loaded.recipe),
        max_loss=max_loss,
        checkpoint=checkpoint,
        rows=rows,
        refused=() if force else refused_runtimes(info),
        faults=faults,
        advice=advice,
        files=files,
        versions={
            **{name: version(name) for name in ("rayasr", "torch")},
            "python": platform.python_version(),
            "platform": platform.platform(),
        },
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_certificate(folder, certificate)
    return certificate


def _advice(
    trial: Trial, info: ExportInfo, source: Path, faults: Sequence[str], rows: Sequence[Row]
) -> str:
    """What to do about a failure, where there is one."""
    failed = [row for row in rows if row.faults]
    ours = [row for row in failed if row.front_end == "rayasr"]
    if not faults and not failed:
        return ""
    if not faults and not ours and refused_runtimes(info):
        return "train with features.contract: sherpa, which is what sherpa-onnx computes"
    only_int8 = not faults and all(row.precision == "int8" for row in ours)
    again = f"export {source} again; if that fails too, please report it"
    return (trial.int8_advice() if only_int8 else "") or again


def _load_checkpoint(info: ExportInfo, model: str | Path | None) -> LoadedModel:
    """What the export is held against, decoding as the export does; raises CheckpointError."""
    path = Path(model if model is not None else info.source)
    if not path.exists():
        what = "" if model is not None else ", which the export was made from,"
        raise CheckpointError(
            f"the model folder {path}{what} is not there; name it, or a copy, by --model"
        )
    loaded = load_model(path)
    return replace(loaded, decoding=loaded.decoding | info.decoding)


def _check_writable(folder: Path) -> None:
    """Raises DataError, before hours of decoding, where no certificate can be kept."""
    trace = folder / f".{CERTIFICATE_FILE}.try"
    try:
        storage.write_atomic(trace, "")
        storage.remove(trace)
    except DataError as error:
        reason = str(error).partition(";")[0]
        raise DataError(
            f"{folder} cannot keep a certificate: {reason}; copy it to where it can"
        ) from error


@contextmanager
def _one_thread() -> Iterator[None]:
    """Real-time factors are those of one thread, whatever machine this is."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
