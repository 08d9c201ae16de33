"""Log lines of several hosts: their order, and that none is lost or comes twice."""

from datetime import UTC, datetime

import pytest

from launcher.aws.logs import LogLine, LogReader
from launcher.aws.session import Aws, UnreachableError
from rayasr.errors import LaunchError
from tests.fake_aws import DROPPED, FakeAws, FakeLogs, Refusal


@pytest.fixture
def reader(aws: Aws) -> LogReader:
    return LogReader(aws, "job")


def texts(reader: LogReader) -> list[str]:
    return [f"{line.host} {line.text}" for line in reader.lines()]


def test_lines_of_all_hosts_come_in_the_order_of_time(logs: FakeLogs, reader: LogReader) -> None:
    logs.write("job/algo-1-17", (1000, "a"), (3000, "c"), (5000, "e"), (7000, "g"), (9000, "i"))
    logs.write("job/algo-2-17", (2000, "b"), (8000, "h"))
    logs.write("job/algo-10-18", (4000, "语音"), (6000, "f\n"))
    assert texts(reader) == [
        "algo-1 a",
        "algo-2 b",
        "algo-1 c",
        "algo-10 语音",
        "algo-1 e",
        "algo-10 f",
        "algo-1 g",
        "algo-2 h",
        "algo-1 i",
    ]
    assert reader.num_streams == 3


def test_a_line_knows_its_time(logs: FakeLogs, reader: LogReader) -> None:
    logs.write("job/algo-1-17", (1_700_000_000_500, "text"))
    time = datetime(2023, 11, 14, 22, 13, 20, 500_000, UTC)
    assert list(reader.lines()) == [LogLine("algo-1", time, "text")]


def test_group_that_is_not_there_yet(logs: FakeLogs, reader: LogReader) -> None:
    assert texts(reader) == []
    logs.write("job/algo-1-17", (1, "first"))
    assert texts(reader) == ["algo-1 first"]


def test_next_look_gives_only_what_is_new(logs: FakeLogs, reader: LogReader) -> None:
    logs.write("job/algo-1-17", (1, "a"), (2, "b"))
    assert texts(reader) == ["algo-1 a", "algo-1 b"]
    assert texts(reader) == []
    logs.write("job/algo-1-17", (3, "c"))
    logs.write("job/algo-1-99", (4, "after a spot restart"))
    assert texts(reader) == ["algo-1 c", "algo-1 after a spot restart"]


def test_other_jobs_with_the_same_beginning_stay_out(logs: FakeLogs, reader: LogReader) -> None:
    logs.write("job-2/algo-1-17", (1, "foreign"))
    assert texts(reader) == []


def test_same_token_twice_is_the_end(server: FakeAws, logs: FakeLogs, reader: LogReader) -> None:
    """An empty page in the middle is none: CloudWatch sends such pages."""
    logs.write("job/algo-1-17", (1, "a"))
    pages = [
        {"events": [], "nextForwardToken": "one"},
        {"events": [{"timestamp": 5, "message": "late"}], "nextForwardToken": "two"},
        {"events": [], "nextForwardToken": "three"},
        {"events": [], "nextForwardToken": "three"},
    ]
    server.answers["GetLogEvents"] = pages
    assert texts(reader) == ["algo-1 late"]
    tokens = [body.get("nextToken") for body in server.asked("GetLogEvents")]
    assert tokens == [None, "one", "two", "three"]


def test_lost_connection_loses_and_repeats_nothing(
    server: FakeAws, logs: FakeLogs, reader: LogReader
) -> None:
    logs.write("job/algo-1-17", (1, "a"), (4, "d"), (5, "e"))
    logs.write("job/algo-2-17", (2, "b"), (3, "c"), (6, "f"))
    calls = iter(range(100))
    server.answers["GetLogEvents"] = lambda body: (
        DROPPED if next(calls) in (1, 3, 4) else logs.get(body)
    )
    found: list[str] = []
    losses = 0
    while len(found) < 6:
        try:
            for line in reader.lines():
                found.append(line.text)  # noqa: PERF401 - an error may end it
        except UnreachableError:
            losses += 1
    assert sorted(found) == list("abcdef")
    assert losses == 3
    assert texts(reader) == []


def test_missing_right_is_said(server: FakeAws, reader: LogReader) -> None:
    server.answers["DescribeLogStreams"] = Refusal("AccessDeniedException", "not authorized")
    with pytest.raises(LaunchError, match=r"cannot look for the job's logs: not authorized"):
        texts(reader)
