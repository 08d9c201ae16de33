import numpy as np

from rayasr.data import keyed


def test_draws_are_uniform() -> None:
    draws = keyed.uniform(7, "test", 3, np.arange(200_000))
    counts, _ = np.histogram(draws, 50, (0, 1))
    expected = len(draws) / 50
    assert ((counts - expected) ** 2 / expected).sum() < 90  # chi squared, 49 degrees: p < 0.0003
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.01


def test_neighbouring_counters_seeds_and_purposes_share_nothing() -> None:
    at = np.arange(20_000)
    columns = [
        keyed.uniform(1, "a", 0, at),
        keyed.uniform(1, "a", 1, at),
        keyed.uniform(2, "a", 0, at),
        keyed.uniform(1, "b", 0, at),
        keyed.uniform(1, "a", at, 0),
        keyed.uniform(1, "a", 0, at + 1),
    ]
    correlations = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlations).max() < 0.03


def test_values_are_frozen() -> None:
    # Runs are resumed by other versions: a changed hash would silently change their data order.
    assert keyed.bits(777, "speed", 3, 5).tolist() == [14061397029293964476]
    assert keyed.torch_seed(777, "speed", 3, 5) == 7030698514646982238


def test_a_column_equals_its_rows() -> None:
    column = keyed.uniform(5, "x", 2, np.arange(10), np.arange(10) * 3)
    rows = [keyed.uniform(5, "x", 2, i, 3 * i)[0] for i in range(10)]
    assert column.tolist() == rows


def test_integers_have_both_ends() -> None:
    draws = keyed.integers(2, 5, 1, "x", np.arange(1000))
    assert sorted(set(draws.tolist())) == [2, 3, 4, 5]
    assert set(keyed.integers(3, 1, 1, "x", np.arange(10)).tolist()) == {3}


def test_large_seeds_and_no_rows() -> None:
    assert keyed.uniform(2**70 + 1, "x", np.arange(0)).shape == (0,)
    assert keyed.torch_seed(2**63, "x") >= 0
