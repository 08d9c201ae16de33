"""Options that several verbs share."""

import pytest

from rayasr.cli.options import parse_workers
from rayasr.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "workers"), [(None, None), ("0", 0), ("4", 4), ("2:4", (2, 4)), ("3:3", (3, 3))]
)
def test_workers(text: str | None, workers: object) -> None:
    assert parse_workers(text) == workers


@pytest.mark.parametrize("text", ["", "-1", "two", "4:2", "0:4", "1:", ":2", "1:2:3", "²"])
def test_workers_that_are_no_number(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a number of workers; write 4, 2:4, or 0"):
        parse_workers(text)
