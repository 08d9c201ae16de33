"""Our model against WeNet's own numbers (../shared/parity)."""

from pathlib import Path

import pytest
import torch

from tests import parity_checks as parity


@pytest.fixture(scope="module", params=parity.FIXTURES)
def fixture(request: pytest.FixtureRequest, shared: Path) -> parity.Fixture:
    return parity.load_fixture(shared / "parity", request.param)


def check(checks: list[parity.Check]) -> None:
    assert checks
    assert [c for c in checks if not c.difference <= c.tolerance] == []


def test_encoder_frames_and_ctc_log_probabilities(fixture: parity.Fixture) -> None:
    check(list(parity.encoder_checks(fixture)))


def test_losses_and_decoder_inputs(fixture: parity.Fixture) -> None:
    check(list(parity.loss_checks(fixture)) + list(parity.ctc_checks(fixture)))


def test_decoder_scores(fixture: parity.Fixture) -> None:
    check(list(parity.decoder_checks(fixture)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients(fixture: parity.Fixture, dtype: torch.dtype) -> None:
    check(list(parity.gradient_checks(fixture, dtype)))


def test_streaming_frames_and_caches(shared: Path) -> None:
    fixture = parity.load_fixture(shared / "parity", "u2pp_trained")
    check(list(parity.streaming_checks(fixture)))


def test_batch_norm_statistics_in_training(shared: Path) -> None:
    fixture = parity.load_fixture(shared / "parity", "u2_conformer/batchnorm_noncausal")
    check(list(parity.batch_norm_checks(fixture)))


def test_a_hundred_training_steps(shared: Path) -> None:
    check(list(parity.trajectory_checks(shared / "parity", steps_of_four=24)))
