"""ONNX files for sherpa-onnx (and ONNX Runtime) and for WeNet's ONNX runtime, compared before use.

    model.onnx, model-streaming.onnx      sherpa-onnx's two kinds of WeNet CTC model
    model.int8.onnx, …                    the same with int8 weights
    tokens.txt                            their units
    encoder.onnx, ctc.onnx, decoder.onnx  WeNet's runtime
    units.txt                             its units
    export.json                           what is there; written last

Everything is made in a folder of its own inside the export and moved once it is known to be right.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from rayasr import storage
from rayasr.checkpoint import LoadedModel, load_model
from rayasr.errors import ConfigError
from rayasr.export.compare import largest_difference, noise
from rayasr.export.front_end import mismatch
from rayasr.export.info import (
    INFO_FILE,
    ExportedModel,
    ExportReport,
    finish_export,
    read_info,
)
from rayasr.export.onnx_graphs import (
    CTC_FILE,
    DECODER_FILE,
    ENCODER_FILE,
    Graph,
    Sizes,
    full_graph,
    streaming_graph,
    trace,
    trio_graphs,
    trio_metadata,
)
from rayasr.export.onnx_models import prepare
from rayasr.export.onnx_networks import Trio, import_extra, open_network
from rayasr.export.onnx_quantize import quantize
from rayasr.export.onnx_runtimes import TOKENS_FILE
from rayasr.logs import note, progress
from rayasr.model.u2 import U2Model
from rayasr.tokenizer import UNITS_FILE

CHECK_FRAMES = (331, 90)
"""Lengths compared: one that files are traced with, and another; both end in a short chunk."""


def export_onnx(
    run: str | Path,
    out: str | Path,
    *,
    int8: bool = False,
    int8_skip: Sequence[str] = (),
    chunk_size: int = 16,
    left_chunks: int = 4,
    force: bool = False,
    notes: Callable[[str], None] = note,
) -> ExportReport:
    """Write the files for the runtime whose front end the model has; `force`: for both.

    `int8` adds int8 files beside sherpa-onnx's; layers whose names `int8_skip` begins stay float32.
    `chunk_size` encoder frames and `left_chunks` chunks of history (-1: all) are those of the
    streaming files; chunk_size -1: no streaming. What was written is loaded again and compared with
    the checkpoint. Raises CheckpointError, ConfigError, DataError, and then leaves nothing.
    """
    for package in ("onnx", "onnxruntime"):
        import_extra(package)
    if int8_skip and not int8:
        raise ConfigError("--int8-skip needs --int8")
    folder = Path(out)
    check_folder(folder)
    loaded = load_model(run)
    models = tuple(
        replace(item, int8_skip=tuple(int8_skip)) if item.precision == "int8" else item
        for item in plan_models(
            loaded, chunk_size, left_chunks, int8=int8, force=force, notes=notes
        )
    )
    with _staged(folder) as stage:
        loaded.tokenizer.save(stage)
        storage.write_atomic(stage / TOKENS_FILE, storage.read_bytes(stage / UNITS_FILE))
        differences = _write_models(stage, loaded, models)
    report = finish_export(folder, "onnx", loaded, models, differences)
    if any(model.kind == "wenet_ctc_streaming" for model in models):
        silence_s = chunk_size * loaded.model.subsampling_rate() * 0.01  # its frame shift
        notes(
            f"end what sherpa-onnx streams with {silence_s:.2f} s of silence: it computes whole "
            "chunks only, and leaves out the last words otherwise"
        )
    return report


def plan_models(
    loaded: LoadedModel,
    chunk_size: int,
    left_chunks: int,
    *,
    int8: bool,
    force: bool,
    notes: Callable[[str], None],
) -> tuple[ExportedModel, ...]:
    """What to write, and a note for what is left out.

    Raises ConfigError where neither runtime has the model's front end, or int8 is asked for and
    sherpa-onnx has not.
    """
    if chunk_size == 0 or chunk_size < -1 or left_chunks < -1:
        raise ConfigError(
            f"chunk size {chunk_size} with {left_chunks} left chunks is no way to stream; give a "
            "chunk size of 1 or more (-1: no streaming) and 0 or more left chunks (-1: all)"
        )
    if chunk_size < 0 or not loaded.recipe.model.encoder.can_stream:
        if chunk_size > 0:
            notes("this model cannot stream (dynamic_chunk, causal_convolution): full context only")
        chunk_size = left_chunks = -1
    features = loaded.recipe.features
    for_sherpa = "" if force else mismatch(features, "sherpa")
    for_wenet = "" if force else mismatch(features, "wenet")
    if for_sherpa and (for_wenet or int8):
        raise ConfigError(f"ONNX files for sherpa-onnx: {for_sherpa}")
    models: list[ExportedModel] = []
    if for_sherpa:
        notes(f"no files for sherpa-onnx: {for_sherpa}")
    else:
        models += _sherpa_models(chunk_size, left_chunks, int8)
        if chunk_size > 0 > left_chunks:
            notes("no model-streaming.onnx: sherpa-onnx needs a number of left chunks")
    if for_wenet:
        notes(f"no {ENCODER_FILE}, {CTC_FILE}, {DECODER_FILE}: {for_wenet}")
    else:
        files = (ENCODER_FILE, CTC_FILE, DECODER_FILE)
        models.append(
            ExportedModel(ENCODER_FILE, files, "wenet_trio", "float32", chunk_size, left_chunks)
        )
    return tuple(models)


def check_folder(folder: Path) -> None:
    """Raises ConfigError where a folder holds another format's export, which this would end."""
    if (folder / INFO_FILE).exists():
        found = read_info(folder).format
        if found != "onnx":
            raise ConfigError(f"{folder} holds a {found} export; give another --out")


def _sherpa_models(chunk_size: int, left_chunks: int, int8: bool) -> list[ExportedModel]:
    models = []
    for precision in ("float32", "int8") if int8 else ("float32",):
        end = ".onnx" if precision == "float32" else ".int8.onnx"
        whole, chunks = f"model{end}", f"model-streaming{end}"
        models.append(ExportedModel(whole, (whole,), "wenet_ctc", precision))
        if chunk_size > 0 and left_chunks >= 0:
            models.append(
                ExportedModel(
                    chunks, (chunks,), "wenet_ctc_streaming", precision, chunk_size, left_chunks
                )
            )
    return models


def _write_models(
    stage: Path, loaded: LoadedModel, models: Sequence[ExportedModel]
) -> dict[str, float]:
    """Write every model and compare it; the largest difference of a log-probability by model."""
    prepared, sizes = prepare(loaded.model, loaded.recipe.features), Sizes.of(loaded)
    weights = dict(loaded.model.named_parameters())
    differences = {}
    with progress("ONNX models", len(models)) as bar:
        for model in models:
            path = stage / model.files[0]
            if model.precision == "int8":
                source = path.with_name(path.name.replace(".int8", ""))
                quantize(source, path, weights, model.int8_skip)
            else:
                for name, graph in _graphs(model, loaded, prepared, sizes).items():
                    storage.write_atomic(stage / name, trace(graph))
            differences[model.name] = _compare(stage, model, loaded)
            bar.update(len(differences))
    return differences


def _graphs(
    model: ExportedModel, loaded: LoadedModel, prepared: U2Model, sizes: Sizes
) -> dict[str, Graph]:
    """What to trace for a float32 model, by file."""
    chunks = model.chunk_size, model.left_chunks
    if model.kind == "wenet_trio":
        return trio_graphs(prepared, sizes, *chunks, trio_metadata(loaded, sizes, *chunks))
    if model.kind == "wenet_ctc_streaming":
        return {model.name: streaming_graph(prepared, sizes, *chunks)}
    return {model.name: full_graph(prepared, sizes)}


@torch.no_grad()
def _compare(stage: Path, model: ExportedModel, loaded: LoadedModel) -> float:
    """Largest difference of a log-probability from the checkpoint's; raises CheckpointError.

    On noise of the corpus's mean and variance, by masks in the checkpoint and by chunks in the
    file.
    """
    network = open_network(stage, model)
    pairs: list[tuple[Tensor, Tensor]] = []
    for frames in CHECK_FRAMES:
        features = noise(loaded, frames)
        encoder_out, _ = loaded.model.encode(
            features[None], torch.tensor([frames]), model.chunk_size, model.left_chunks
        )
        wanted = loaded.model.ctc_log_probs(encoder_out)[0]
        pairs.append((wanted, network.encode(features).log_probs))
        if isinstance(network, Trio):
            pairs += _decoder_pairs(network, loaded, encoder_out)
    return largest_difference(model.name, loaded, pairs, model.precision)


def _decoder_pairs(
    network: Trio, loaded: LoadedModel, encoder_out: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Log-probabilities by the checkpoint's decoders and by the file's."""
    units = [[1, 0, 1], [1], []]
    sos = loaded.model.sos_symbol()
    hyps = torch.tensor([[sos, *row, *[sos] * (3 - len(row))] for row in units])
    lengths = torch.tensor([len(row) + 1 for row in units])
    wanted = loaded.model.forward_attention_decoder(hyps, lengths, encoder_out, 1.0)
    found = network.decoder_log_probs(units, encoder_out)
    return list(zip(wanted, found, strict=False))  # without a right decoder it has nothing to say


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """A folder to write into, whose files take their places once all is done; raises DataError."""
    storage.make_folder(folder)
    stage = folder / ".partial"
    shutil.rmtree(stage, ignore_errors=True)
    storage.make_folder(stage)
    try:
        yield stage
        _put_in_place(stage, folder)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _put_in_place(stage: Path, folder: Path) -> None:
    """Replace the files of an earlier export; without its export.json first it is not one."""
    try:
        if (folder / INFO_FILE).exists():
            before = [name for model in read_info(folder).models for name in model.files]
            for name in (INFO_FILE, *before):
                (folder / name).unlink(missing_ok=True)
        for path in stage.iterdir():
            path.replace(folder / path.name)
    except OSError as error:
        raise storage.output_error(folder, error) from error
