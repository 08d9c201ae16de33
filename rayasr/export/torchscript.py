"""TorchScript for WeNet's C++ runtime: one file with the model, CMVN inside, and units.txt.

The model itself has the runtime's interface (see the end of `rayasr.model.u2`), so exporting is
scripting, and a scripted model decodes like any other: the error rates below come from the files.
"""

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from rayasr import storage
from rayasr.checkpoint import LoadedModel, load_model
from rayasr.config import Mode
from rayasr.data.store import Store
from rayasr.decode.chunk_encoder import ChunkEncoder
from rayasr.decode.recognizer import Recognizer
from rayasr.decode.split import decode_material, from_store
from rayasr.errors import CheckpointError, ConfigError, DataError, first_line
from rayasr.export.compare import largest_difference, noise
from rayasr.export.front_end import mismatch
from rayasr.export.info import (
    ExportedModel,
    ExportReport,
    Precision,
    begin_export,
    finish_export,
)
from rayasr.logs import note
from rayasr.model.subsampling import Positions
from rayasr.model.u2 import U2Model
from rayasr.score import RATE_NAMES, Score, score_texts

FLOAT_FILE = "final.zip"
INT8_FILE = "final_quant.zip"
CHECK_CHUNK = 16
CHECK_FRAMES = 331
"""Some chunks and a shorter last one."""


def export_torchscript(
    run: str | Path,
    out: str | Path,
    *,
    int8: bool = False,
    int8_skip: Sequence[str] = (),
    store: str | Path | None = None,
    force: bool = False,
    notes: Callable[[str], None] = note,
) -> ExportReport:
    """Write final.zip and units.txt, with `int8` also final_quant.zip; `run`: a run or its model.

    `int8_skip` names modules whose layers stay float32. What was written is loaded again and
    compared with the checkpoint. With a store the files' error rates on its dev split are told.
    A model whose features are not those of WeNet's runtime needs `force`. Raises CheckpointError,
    ConfigError, DataError.
    """
    loaded = load_model(run)
    _check_front_end(loaded, force, notes)
    _share_tables(loaded.model)
    dev = None if store is None else _open_dev(store, loaded)
    models = [(ExportedModel(FLOAT_FILE, (FLOAT_FILE,), "torchscript"), loaded.model)]
    if int8:
        entry = ExportedModel(
            INT8_FILE, (INT8_FILE,), "torchscript", precision="int8", int8_skip=tuple(int8_skip)
        )
        models.append((entry, quantized(loaded.model, int8_skip)))
    folder = Path(out)
    begin_export(folder)
    loaded.tokenizer.save(folder)
    differences = {}
    for entry, module in models:
        _write(folder / entry.name, module)
        differences[entry.name] = _check(folder / entry.name, loaded, entry.precision)
    rates: dict[str, dict[str, Any]] = {}
    for entry, _ in models if dev is not None else ():
        score = _score(folder / entry.name, loaded, cast(Store, dev), entry.name)
        rates[entry.name] = score.to_json()
        notes(f"{entry.name} on dev, {_mode(loaded)}: {_rate(score)}")
    entries = tuple(entry for entry, _ in models)
    return finish_export(folder, "torchscript", loaded, entries, differences, rates)


def script(model: nn.Module) -> bytes:
    """A model as TorchScript, in the bytes of its file."""
    buffer = io.BytesIO()
    with _quiet():
        torch.jit.save(torch.jit.script(model), buffer)
    return buffer.getvalue()


def quantized(model: U2Model, skip: Sequence[str] = ()) -> U2Model:
    """A copy whose linear layers have int8 weights, scaled by channel; activations as they come.

    Those inside the modules of `skip` stay as they are, and always the one behind the subsampling:
    alone it would double the error of the encoder (its inputs, outputs of a ReLU, span too much for
    7 bits), for 3 % of the weights. Raises ConfigError for a name without such layers.
    """
    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

    chosen = dict.fromkeys(int8_layers(model, skip), per_channel_dynamic_qconfig)
    if not chosen:
        raise ConfigError("--int8-skip leaves no layer for int8; export without --int8")
    with int8_kernels():
        converted: U2Model = quantize_dynamic(  # type: ignore[no-untyped-call]
            deepcopy(model).eval(), chosen, dtype=torch.qint8
        )
    return converted


def int8_layers(model: U2Model, skip: Sequence[str] = ()) -> list[str]:
    """Names of the linear layers that int8 changes, without those inside the modules of `skip`.

    Raises ConfigError where a module of `skip` has none.
    """
    linears = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith("encoder.embed.")
    ]
    inside = {
        part: [name for name in linears if f"{name}.".startswith(f"{part}.")] for part in skip
    }
    for part, names in inside.items():
        if not names:
            raise ConfigError(
                f"--int8-skip {part}: no layer of that name becomes int8; a name is that of a "
                f"module such as {linears[0].rpartition('.')[0]}"
            )
    left_out = {name for names in inside.values() for name in names}
    return [name for name in linears if name not in left_out]


def load_script(path: str | Path) -> Any:
    """An exported model; raises CheckpointError where it cannot be loaded."""
    with _quiet():
        try:
            module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
            return module.eval()
        except (RuntimeError, ValueError, OSError) as error:
            raise CheckpointError(
                f"{path} cannot be loaded ({first_line(error)}); export it again"
            ) from error


@contextmanager
def int8_kernels() -> Iterator[None]:
    """This machine's int8 kernels: x86 (fbgemm or onednn, as fits), else qnnpack (ARM).

    Raises DataError where this torch has none.
    """
    engines: Any = torch.backends.quantized
    before = engines.engine
    known = [name for name in ("x86", "fbgemm", "qnnpack") if name in engines.supported_engines]
    if before == "none" and not known:
        raise DataError("this torch has no int8 kernels; export without --int8")
    engines.engine = known[0] if known else before
    try:
        with _quiet():
            # torch announces the end of these tensors once: here, not from C++ while a file loads
            torch.quantize_per_tensor(torch.zeros(1), 1.0, 0, torch.qint8)
            yield
    finally:
        engines.engine = before


def run_chunks(module: Any, features: Tensor, chunk_size: int) -> Tensor:
    """Encoder frames (1, T', D) of raw fbank (T, F), chunk after chunk as the runtime calls it.

    `chunk_size` <= 0: everything at once.
    """
    encoder = ChunkEncoder(module, chunk_size, -1)
    encoder.push(features)
    outputs: list[Tensor] = []
    while chunk_size > 0 and (out := encoder.chunk()) is not None:
        outputs.append(out)
    if (out := encoder.rest()) is not None:
        outputs.append(out)
    return torch.cat(outputs)[None]


def _check_front_end(loaded: LoadedModel, force: bool, notes: Callable[[str], None]) -> None:
    """Raises ConfigError where WeNet's runtime would feed the model with other features."""
    reason = mismatch(loaded.recipe.features, "wenet")
    if reason and not force:
        raise ConfigError(f"TorchScript files: {reason}")
    if reason:
        notes(f"the export is for torch.jit on features of your own: {reason}")


def _share_tables(model: U2Model) -> None:
    """One position table for encoder and decoders: it is written into the file once, not thrice."""
    tables: dict[int, Tensor] = {}
    for module in model.modules():
        if isinstance(module, Positions):
            module.table = tables.setdefault(module.size, module.table)


def _write(path: Path, model: nn.Module) -> None:
    """Script a model into a file; raises CheckpointError, DataError."""
    try:
        content = script(model)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path.name}: the model cannot be scripted: {first_line(error)}"
        ) from error
    storage.write_atomic(path, content)


def _check(path: Path, loaded: LoadedModel, precision: Precision) -> float:
    """Largest difference between an exported file and the checkpoint; a wrong file is removed.

    Compared are log-probabilities of CTC and of the decoders on noise of the corpus's mean and
    variance, in chunks where the model streams. Raises as `largest_difference` does.
    """
    module, features = load_script(path), noise(loaded, CHECK_FRAMES)
    pairs: list[tuple[Tensor, Tensor]] = []
    for chunk_size in (CHECK_CHUNK, -1) if loaded.recipe.model.encoder.can_stream else (-1,):
        expected = _log_probs(loaded.model, features, chunk_size, whole=True)
        found = _log_probs(module, features, chunk_size, whole=False)
        pairs += zip(expected, found, strict=True)
    try:
        return largest_difference(path.name, loaded, pairs, precision)
    except CheckpointError:
        path.unlink(missing_ok=True)
        raise


@torch.no_grad()
def _log_probs(
    module: Any, features: Tensor, chunk_size: int, *, whole: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """CTC (1, T', V) and both decoders (2, L, V) on features (T, F): by mask or by chunks."""
    if whole:
        length = torch.tensor([len(features)])
        encoder_out = module.encode(features[None], length, chunk_size, -1)[0]
    else:
        encoder_out = run_chunks(module, features, chunk_size)
    sos = module.sos_symbol()
    hyps = torch.tensor([[sos, 1, 0, 1], [sos, 1, sos, sos]])
    weight = 0.5 if module.is_bidirectional_decoder() else 0.0
    left, right = module.forward_attention_decoder(hyps, torch.tensor([4, 2]), encoder_out, weight)
    return module.ctc_activation(encoder_out), left, right


def _open_dev(path: str | Path, loaded: LoadedModel) -> Store:
    """The store, if it has a dev split and this model's features; raises DataError."""
    store = Store.open(path)
    store.check_recipe(loaded.recipe)
    if not len(store.split("dev")):
        raise DataError(f"store {path} has no utterances in its dev split to compare with")
    return store


def _score(path: Path, loaded: LoadedModel, store: Store, title: str) -> Score:
    """Errors of an exported file on the dev split, in the model's default mode, full context."""
    # A scripted model has the methods that the recognizer calls.
    scripted = replace(loaded, model=cast(U2Model, load_script(path)))
    recognizer, mode = Recognizer(scripted), _mode(loaded)
    config = loaded.recipe.decode
    material = replace(from_store(store, "dev", config.max_padded_frames), name=title)
    with int8_kernels():
        hypotheses = decode_material(recognizer, material, [mode]).hypotheses[mode]
    texts = dict(zip(material.keys, map(recognizer.text, hypotheses), strict=True))
    return score_texts(material.references, texts, config.unit)


def _mode(loaded: LoadedModel) -> Mode:
    return cast(Mode, loaded.decoding["default_mode"])


def _rate(score: Score) -> str:
    counts = score.counts
    name = RATE_NAMES[score.unit].upper()
    return f"{name} {counts.rate:.2f} % ({counts.errors} of {counts.reference_units})"


@contextmanager
def _quiet() -> Iterator[None]:
    """torch 2.13 announces the end of TorchScript and of eager quantisation; both still work."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "torch.quantize_per_", UserWarning)
        warnings.filterwarnings("ignore", "Currently, qnnpack", UserWarning)
        yield
