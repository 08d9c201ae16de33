"""export.json: what lies in an export folder, what it was made from, and for which front end."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rayasr import storage
from rayasr.checkpoint import LoadedModel
from rayasr.config import Mode
from rayasr.errors import CheckpointError, RayasrError
from rayasr.feature_config import FeatureConfig, parse_features

INFO_FILE = "export.json"
CERTIFICATE_FILE = "certificate.json"
"""What `rayasr.certify` writes beside it; an export that is written again loses it."""

Format = Literal["torchscript", "onnx", "wenet"]
Precision = Literal["float32", "int8"]


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """One of an export's models: the unit that is decoded, compared and certified."""

    name: str
    """Unique in the export, such as `final.zip` or `model-streaming.int8.onnx`."""
    files: tuple[str, ...]
    """What it consists of; the first names it. WeNet's ONNX trio has three."""
    kind: str
    """What can run it: `torchscript`, `wenet_ctc` (sherpa-onnx's offline model),
    `wenet_ctc_streaming`, `wenet_trio`, `wenet_checkpoint`."""
    precision: Precision = "float32"
    chunk_size: int = -1
    """Encoder frames per chunk that the file fixes; -1: none, full context is possible."""
    left_chunks: int = -1
    """Chunks of history that the file fixes; -1: all."""
    int8_skip: tuple[str, ...] = ()
    """Modules that an int8 model keeps in float32."""


@dataclass(frozen=True, slots=True)
class ExportInfo:
    """What export.json says."""

    format: Format
    source: str
    """The model folder it was made from."""
    models: tuple[ExportedModel, ...]
    features: FeatureConfig
    """The front end that the model was trained on."""
    mode: Mode
    """Decoding mode of the model folder; runtimes with CTC alone use the best they have."""
    decoding: dict[str, Any] = field(default_factory=dict)
    """The model folder's decoding.json."""

    def model(self, name: str) -> ExportedModel:
        """The model of that name; raises CheckpointError."""
        for item in self.models:
            if item.name == name:
                return item
        names = ", ".join(item.name for item in self.models)
        raise CheckpointError(f"the export has no model '{name}'; it has {names}")


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export wrote, and how near it is to the checkpoint."""

    folder: str
    sizes: dict[str, int]
    """Bytes by file."""
    max_difference: dict[str, float]
    """Largest difference of a log-probability from the checkpoint, by model."""
    dev: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Error rates on a store's dev split by model; {} where no store was given."""

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def begin_export(folder: str | Path) -> None:
    """Make the folder; what said that an earlier export in it is finished goes.

    Raises DataError where the folder cannot be written.
    """
    storage.make_folder(folder)
    storage.remove(storage.join(folder, INFO_FILE))


def finish_export(
    folder: Path,
    export_format: Format,
    loaded: LoadedModel,
    models: Sequence[ExportedModel],
    max_difference: dict[str, float],
    dev: dict[str, dict[str, Any]] | None = None,
) -> ExportReport:
    """Write export.json of a model's files, which are all there; raises DataError."""
    info = ExportInfo(
        format=export_format,
        source=str(loaded.path),
        models=tuple(models),
        features=loaded.recipe.features,
        mode=loaded.decoding["default_mode"],
        decoding=loaded.decoding,
    )
    write_info(folder, info)
    names = [name for model in models for name in model.files]
    return ExportReport(str(folder), file_sizes(folder, names), max_difference, dev or {})


def write_info(folder: str | Path, info: ExportInfo) -> None:
    """Write export.json, the last file of an export; raises DataError.

    A certificate of what was in the folder before goes.
    """
    storage.remove(storage.join(folder, CERTIFICATE_FILE))
    values = asdict(info) | {
        "source": str(Path(info.source).resolve()),  # whoever certifies may stand elsewhere
        "features": info.features.model_dump(mode="json"),
    }
    storage.write_json(Path(folder) / INFO_FILE, values)


def read_info(folder: str | Path) -> ExportInfo:
    """What `write_info` wrote; raises CheckpointError where it is missing or damaged."""
    path = Path(folder) / INFO_FILE
    if not path.exists():
        raise CheckpointError(
            f"{folder} is not a finished export (no {INFO_FILE}); make it by `rayasr export`"
        )
    try:
        values = storage.read_json(path)
        models = tuple(_read_model(item) for item in values["models"])
        features = parse_features(values["features"])
        return ExportInfo(**(values | {"models": models, "features": features}))
    except (RayasrError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); export again") from error


def file_sizes(folder: str | Path, names: Sequence[str]) -> dict[str, int]:
    """Bytes of some of a folder's files."""
    return {name: (Path(folder) / name).stat().st_size for name in names}


def _read_model(values: dict[str, Any]) -> ExportedModel:
    lists: dict[str, Any] = {
        name: tuple(values[name]) for name in ("files", "int8_skip") if name in values
    }
    return ExportedModel(**(values | lists))
