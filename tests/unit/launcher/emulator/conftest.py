"""One emulator for the tests of a file."""

from collections.abc import Iterator

import pytest

from tests.rehearsal import Rehearsal, rehearse


@pytest.fixture(scope="module")
def rehearsal() -> Iterator[Rehearsal]:
    with rehearse() as rehearsal:
        yield rehearsal


@pytest.fixture(autouse=True)
def no_fault_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A fault that a test has injected must have struck."""
    yield
    if "rehearsal" in request.fixturenames:
        assert request.getfixturevalue("rehearsal").emulator.faults.pending() == ()
