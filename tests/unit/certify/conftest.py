"""A tiny model, its recordings and its exports, made once."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from rayasr.certify.certificate import Certificate
from rayasr.certify.certify import certify
from rayasr.certify.checkpoint_runtime import CheckpointRuntime
from rayasr.certify.recordings import Recordings
from rayasr.checkpoint import load_model, save_model
from rayasr.config import parse_recipe, with_corpora
from rayasr.tokenizer import Tokenizer
from tests.export_defects import EXPORTERS, FULL_EXPORTERS
from tests.factories import DIGITS, make_model, make_tone_corpus, tiny_training_recipe, write_lines


@pytest.fixture(autouse=True)
def _interpreted() -> Iterator[None]:
    """TorchScript as it stands: compiling for a second costs these tests more than it gives."""
    with torch.jit.optimized_execution(False):
        yield


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tone_corpus(tmp_path_factory.mktemp("tones"), train=1, dev=1, test=5)


@pytest.fixture(scope="session")
def model(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights that hears every digit somewhere in the tones."""
    folder = tmp_path_factory.mktemp("model")
    values = tiny_training_recipe().model_dump(mode="json")
    values["model"]["encoder"]["subsampling_channels"] = 16  # as many as WeNet has
    recipe = parse_recipe(values)
    loaded = load_model(
        make_model(folder, recipe, Tokenizer(["<blank>", "<unk>", "<sos/eos>", *DIGITS]))
    )
    probe = Recordings(with_corpora(recipe, [tones]), "test").strung(3.0)
    weights = loaded.model.state_dict()
    weights["ctc.ctc_lo.bias"] -= _checkpoint(folder).log_probs(probe, ())[0].mean(0)
    weights["ctc.ctc_lo.bias"][1:3] = -50.0  # no digits
    return save_model(folder, weights, recipe, loaded.tokenizer, loaded.cmvn)


@pytest.fixture(scope="session")
def corpus(tones: Path, model: Path) -> Path:
    """The tones under what the model hears in them: whatever else hears makes errors."""
    recordings = Recordings(with_corpora(load_model(model).recipe, [tones]), "test")
    runtime = _checkpoint(model)
    texts = recordings.references | {key: runtime.transcribe(wave) for key, wave in recordings}
    write_lines(
        tones / "data_aishell" / "transcript" / "aishell_transcript_v0.8.txt",
        [f"{key} {text}" for key, text in texts.items()],
    )
    return tones


def _checkpoint(model: Path) -> CheckpointRuntime:
    return CheckpointRuntime(load_model(model), "ctc_greedy_search", -1, -1)


@pytest.fixture(scope="session")
def exports(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good export of each format, and full ones that have int8."""
    folder = tmp_path_factory.mktemp("exports")
    for name, exporter in EXPORTERS.items():
        exporter(model, folder / name)
    for name in ("torchscript", "onnx"):
        FULL_EXPORTERS[name](model, folder / f"full-{name}")
    return folder


@pytest.fixture(params=EXPORTERS)
def export(request: pytest.FixtureRequest, exports: Path, tmp_path: Path) -> Path:
    """A copy of an export, once for each format."""
    return Path(shutil.copytree(exports / request.param, tmp_path / request.param))


@pytest.fixture(params=["torchscript", "onnx"])
def full(request: pytest.FixtureRequest, exports: Path, tmp_path: Path) -> Path:
    """A copy of an export with all the files that its format has, once for each."""
    return Path(shutil.copytree(exports / f"full-{request.param}", tmp_path / request.param))


@pytest.fixture
def int8(exports: Path, tmp_path: Path) -> Path:
    """A copy of the TorchScript export with int8."""
    return Path(shutil.copytree(exports / "full-torchscript", tmp_path / "int8"))


@pytest.fixture
def wenet(exports: Path, tmp_path: Path) -> Path:
    """A copy of the WeNet folder, which is certified soonest."""
    return Path(shutil.copytree(exports / "wenet", tmp_path / "wenet"))


@pytest.fixture
def certified(corpus: Path) -> Callable[[Path], Certificate]:
    """Certifies an export on the recordings; int8 of random weights loses much."""
    return lambda folder: certify(folder, corpus, max_loss=20.0)
