"""A tiny model, its recordings and its exports, made once."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rayasr.certify.certificate import Certificate
from rayasr.certify.certify import certify
from rayasr.config import parse_recipe
from rayasr.tokenizer import Tokenizer
from tests.export_defects import EXPORTERS
from tests.factories import DIGITS, make_model, make_tone_corpus, tiny_training_recipe


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tone_corpus(tmp_path_factory.mktemp("tones"), train=1, dev=1, test=5)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = Tokenizer(["<blank>", "<unk>", "<sos/eos>", *DIGITS])
    values = tiny_training_recipe().model_dump(mode="json")
    values["model"]["encoder"]["subsampling_channels"] = 16  # as many as WeNet has
    return make_model(tmp_path_factory.mktemp("model"), parse_recipe(values), tokenizer)


@pytest.fixture(scope="session")
def exports(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good export of each format, by its name."""
    folder = tmp_path_factory.mktemp("exports")
    for name, exporter in EXPORTERS.items():
        exporter(model, folder / name)
    return folder


@pytest.fixture(params=EXPORTERS)
def export(request: pytest.FixtureRequest, exports: Path, tmp_path: Path) -> Path:
    """A copy of an export, once for each format."""
    return Path(shutil.copytree(exports / request.param, tmp_path / request.param))


@pytest.fixture
def torchscript(exports: Path, tmp_path: Path) -> Path:
    """A copy of the TorchScript export."""
    return Path(shutil.copytree(exports / "torchscript", tmp_path / "torchscript"))


@pytest.fixture
def certified(corpus: Path) -> Callable[[Path], Certificate]:
    """Certifies an export on the recordings; int8 of random weights may lose a few points."""
    return lambda folder: certify(folder, corpus, max_loss=10.0)
