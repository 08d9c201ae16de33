"""Fixtures of all tests."""

import os
import signal
from pathlib import Path

import pytest

# Spinning OpenMP threads cost four times the CPU on shared cores; set before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# A shell's background jobs ignore SIGINT and children inherit that: tests of Ctrl-C would wait.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real recordings and parity fixtures beside the checkout; skips without it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "parity").is_dir():
        pytest.skip("no ../shared beside this checkout")
    return folder
