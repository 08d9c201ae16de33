"""final.pt: a state dict alone is read, and nothing in a file is ever run."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from rayasr.errors import CheckpointError
from rayasr.wenet.importing import import_wenet
from tests.wenet_models import random_weights, write_wenet


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_code_in_a_file_of_weights_is_not_run(tmp_path: Path, kind: str) -> None:
    source, target = write_wenet(tmp_path / "wenet"), tmp_path / "was_run"
    content = {"encoder.after_norm.weight": torch.ones(2), "x": Bomb(target)}
    if kind == "pickle":
        (source / "final.pt").write_bytes(pickle.dumps(Bomb(target)))
    else:
        torch.save(content, source / "final.pt", _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(CheckpointError, match="nothing of it was run"):
        import_wenet(source, tmp_path / "model")
    assert not target.exists()
    assert not (tmp_path / "model").exists()
    if kind == "pickle":
        pickle.loads((source / "final.pt").read_bytes())
    else:
        torch.load(source / "final.pt", weights_only=False)
    assert target.exists()  # so the file would have done it


def test_files_that_hold_no_weights(tmp_path: Path) -> None:
    source = write_wenet(tmp_path / "wenet")
    whole = (source / "final.pt").read_bytes()
    for content in (b"", b"abc", whole[: len(whole) // 2]):
        (source / "final.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged or no file of weights"):
            import_wenet(source, tmp_path / "model")
    values: tuple[tuple[Any, str], ...] = (
        ([1, 2], "holds no state dict but list"),
        ({}, "holds no state dict"),
        ({"model0": random_weights(), "step": 3}, r"\(model0, step\), as deepspeed's"),
        ({"encoder.weight": torch.ones(2)}, r"has no matrix ctc\.ctc_lo\.weight"),
        ({"ctc.ctc_lo.weight": torch.ones(())}, r"has no matrix ctc\.ctc_lo\.weight"),
    )
    for value, message in values:
        torch.save(value, source / "final.pt")
        with pytest.raises(CheckpointError, match=message):
            import_wenet(source, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_other_positions_are_refused(tmp_path: Path) -> None:
    weights = random_weights()
    for table in (torch.ones(1, 5000, 16), torch.ones(5), torch.ones(7, 9, 16)):
        weights["decoder.left_decoder.embed.1.pe"] = table
        source = write_wenet(tmp_path / "wenet", weights=weights)
        with pytest.raises(CheckpointError, match=r"embed\.1\.pe is no table of sinusoids"):
            import_wenet(source, tmp_path / "model")


def test_layers_that_old_wenet_never_called_are_left_out(tmp_path: Path) -> None:
    weights = random_weights()
    weights["encoder.encoders.0.concat_linear.weight"] = torch.ones(16, 32)
    weights["decoder.left_decoder.decoders.0.concat_linear2.bias"] = torch.ones(16)
    notes: list[str] = []
    source = write_wenet(tmp_path / "wenet", weights=weights)
    import_wenet(source, tmp_path / "model", notes=notes.append)
    assert any("2 tensors of concat_linear are left out" in note for note in notes)
