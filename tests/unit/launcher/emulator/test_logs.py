"""Pages of log lines, as CloudWatch gives them."""

from typing import Any

import pytest

from launcher.emulator.logs import LogStore
from launcher.emulator.wire import ApiError

REGION = "eu-central-1"


@pytest.fixture
def store() -> LogStore:
    store = LogStore()
    stream = store.open(REGION, "job/algo-1-1")
    for number in range(10):
        stream.append(f"line {number}")
    return store


def page(store: LogStore, **request: Any) -> tuple[list[str], dict[str, Any]]:
    answer = store.get_events(REGION, {"logStreamName": "job/algo-1-1"} | request)
    return [event["message"] for event in answer["events"]], answer


def test_pages_from_the_head_end_with_the_token_that_was_given(store: LogStore) -> None:
    lines, answer = page(store, startFromHead=True, limit=4)
    assert lines == [f"line {n}" for n in range(4)]
    seen = list(lines)
    while True:
        lines, following = page(store, nextToken=answer["nextForwardToken"], limit=4)
        if following["nextForwardToken"] == answer["nextForwardToken"]:
            break
        seen, answer = seen + lines, following
    assert seen == [f"line {n}" for n in range(10)]
    assert lines == []


def test_a_stream_goes_on_after_its_end(store: LogStore) -> None:
    token = page(store, startFromHead=True)[1]["nextForwardToken"]
    stream = store.open(REGION, "job/algo-2-1")
    stream.append("other")
    assert page(store, nextToken=token)[0] == []
    new = store.open(REGION, "job/algo-1-2")
    new.append("first")
    token = page(store, logStreamName="job/algo-1-2", startFromHead=True)[1]["nextForwardToken"]
    new.append("语音")
    assert page(store, logStreamName="job/algo-1-2", nextToken=token)[0] == ["语音"]


def test_without_a_start_the_latest_come_and_lead_backwards(store: LogStore) -> None:
    lines, answer = page(store, limit=3)
    assert lines == ["line 7", "line 8", "line 9"]
    assert page(store, limit=3, nextToken=answer["nextBackwardToken"])[0] == [
        "line 4",
        "line 5",
        "line 6",
    ]


def test_times_select_lines(store: LogStore) -> None:
    at_ms = page(store, startFromHead=True)[1]["events"][0]["timestamp"]
    assert page(store, startTime=at_ms + 60_000)[0] == []
    assert page(store, endTime=at_ms)[0] == []
    assert len(page(store, startTime=at_ms, endTime=at_ms + 60_000)[0]) == 10


def test_empty_lines_are_dropped(store: LogStore) -> None:
    store.open(REGION, "job/algo-9-1").append("")
    assert page(store, logStreamName="job/algo-9-1")[0] == []


def test_streams_are_found_by_prefix_in_pages(store: LogStore) -> None:
    for number in range(60):
        store.open(REGION, f"other/algo-{number:02}-1")
    first = store.describe_streams(REGION, {"logStreamNamePrefix": "other/"})
    assert len(first["logStreams"]) == 50
    request = {"logStreamNamePrefix": "other/", "nextToken": first["nextToken"]}
    second = store.describe_streams(REGION, request)
    names = [s["logStreamName"] for s in first["logStreams"] + second["logStreams"]]
    assert names == [f"other/algo-{number:02}-1" for number in range(60)]
    assert "nextToken" not in second


def test_the_latest_stream_comes_first_where_asked(store: LogStore) -> None:
    store.open(REGION, "silent/algo-1-1")
    request = {"orderBy": "LastEventTime", "descending": True, "limit": 1}
    (stream,) = store.describe_streams(REGION, request)["logStreams"]
    assert stream["logStreamName"] == "job/algo-1-1"
    assert stream["firstEventTimestamp"] <= stream["lastEventTimestamp"]


@pytest.mark.parametrize(
    ("operation", "region", "request_", "code"),
    [
        ("describe_streams", "us-east-1", {}, "ResourceNotFoundException"),
        (
            "describe_streams",
            REGION,
            {"orderBy": "LastEventTime", "logStreamNamePrefix": "job"},
            "InvalidParameterException",
        ),
        ("get_events", REGION, {"logStreamName": "nobody"}, "ResourceNotFoundException"),
        (
            "get_events",
            REGION,
            {"logStreamName": "job/algo-1-1", "nextToken": "x"},
            "InvalidParameterException",
        ),
    ],
)
def test_what_is_not_there_is_refused(
    store: LogStore, operation: str, region: str, request_: dict[str, Any], code: str
) -> None:
    with pytest.raises(ApiError) as raised:
        getattr(store, operation)(region, request_)
    assert raised.value.code == code
