"""Runtimes on recordings that are hardly there, and those that are not tried."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rayasr.certify.runtime import open_runtimes, refused_runtimes
from rayasr.config import Mode
from rayasr.export.info import ExportedModel, read_info
from rayasr.feature_config import FeatureConfig


@pytest.mark.parametrize("mode", ["ctc_greedy_search", "attention_rescoring"])
def test_audio_shorter_than_seven_frames_is_empty(exports: Path, mode: Mode) -> None:
    noise = torch.randn(672, generator=torch.Generator().manual_seed(0)) * 0.1
    for name in ("torchscript", "wenet"):
        info = replace(read_info(exports / name), mode=mode)
        (runtime,) = open_runtimes(exports / name, info, info.models[0])
        for count in (0, 100, 671):  # no sample, less than a window, six frames
            assert runtime.transcribe(noise[:count]) == ""


def test_sherpa_is_refused_for_features_that_are_not_its_own(exports: Path) -> None:
    info = read_info(exports / "torchscript")
    assert refused_runtimes(info) == ()
    offline = ExportedModel("model.onnx", ("model.onnx",), "wenet_ctc")
    (reason,) = refused_runtimes(replace(info, models=(offline,)))
    assert reason.startswith("model.onnx: sherpa-onnx computes other features from audio than")
    features = FeatureConfig(contract="sherpa")
    assert refused_runtimes(replace(info, models=(offline,), features=features)) == ()
