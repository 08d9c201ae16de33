"""CMVN sums, against numpy and WeNet."""

import json

import numpy as np
import pytest

from rayasr.data.cmvn import CmvnStats
from rayasr.errors import DataError


def test_mean_and_deviation():
    rng = np.random.default_rng(0)
    parts = [rng.normal(5, 2, (n, 4)).astype(np.float16) for n in (3, 50, 1, 7)]
    stats = CmvnStats.zeros(4)
    for part in parts:
        stats = stats.add(part)
    frames = np.concatenate(parts).astype(np.float64)
    mean, istd = stats.mean_istd()
    np.testing.assert_allclose(mean, frames.mean(0), rtol=1e-6)
    np.testing.assert_allclose(istd, 1 / frames.std(0), rtol=1e-6)
    assert mean.dtype == istd.dtype == np.float32
    merged = CmvnStats.zeros(4).add(parts[0]).merge(CmvnStats.zeros(4).add(frames[3:]))
    assert merged.frames == stats.frames == 61
    np.testing.assert_allclose(merged.squares, stats.squares, rtol=1e-14)


def test_json_is_exact_and_wenets(shared):
    value = json.loads((shared / "parity" / "u2pp_trained" / "global_cmvn").read_text())
    stats = CmvnStats.from_json(value)
    again = CmvnStats.from_json(json.loads(json.dumps(stats.to_json())))
    assert (again.sums == stats.sums).all()
    assert (again.squares == stats.squares).all()
    assert again.frames == stats.frames


def test_wenets_mean_and_istd(shared):
    parity = shared / "parity"
    value = json.loads((parity / "features.json").read_text())
    arrays = np.load(parity / "features.npz")
    mean, istd = CmvnStats.from_json(value["cmvn_stats"]).mean_istd()
    np.testing.assert_allclose(mean, arrays["cmvn_mean"], rtol=1e-5)
    np.testing.assert_allclose(istd, arrays["cmvn_istd"], rtol=1e-5)


def test_constant_bins_do_not_divide_by_zero():
    _, istd = CmvnStats.zeros(2).add(np.ones((5, 2))).mean_istd()
    assert np.isfinite(istd).all()


@pytest.mark.parametrize(
    "value", [{}, None, {"mean_stat": [1], "var_stat": [1, 2], "frame_num": 3}, []]
)
def test_bad_json(value):
    with pytest.raises(DataError, match="make them again"):
        CmvnStats.from_json(value)


def test_no_frames():
    with pytest.raises(DataError, match="no frames"):
        CmvnStats.zeros(3).mean_istd()
