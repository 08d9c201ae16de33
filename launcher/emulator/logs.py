"""CloudWatch Logs as far as training jobs use it: one group, a stream per host, lines in order."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from launcher.aws.logs import LOG_GROUP
from launcher.emulator.wire import ApiError

_MAX_STREAMS = 50
_MAX_EVENTS = 10_000


@dataclass
class LogStream:
    """The lines of one host, with their times in ms since 1970."""

    name: str
    created_ms: int
    lines: list[tuple[int, str]] = field(default_factory=list)

    def append(self, line: str) -> None:
        """Add a line; empty ones are dropped, as CloudWatch refuses them."""
        if line:
            self.lines.append((_now_ms(), line))


class LogStore:
    """The streams of all regions; a region's group is there from its first stream on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: dict[str, dict[str, LogStream]] = {}

    def open(self, region: str, name: str) -> LogStream:
        """Make a stream."""
        with self._lock:
            stream = LogStream(name, _now_ms())
            self._streams.setdefault(region, {})[name] = stream
            return stream

    def describe_streams(self, region: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """DescribeLogStreams; raises ApiError."""
        prefix = request.get("logStreamNamePrefix", "")
        by_time = request.get("orderBy") == "LastEventTime"
        if prefix and by_time:
            raise ApiError(
                "InvalidParameterException",
                "Cannot order by LastEventTime with a logStreamNamePrefix.",
            )
        streams = [stream for stream in self._group(region) if stream.name.startswith(prefix)]
        streams.sort(key=_last_event if by_time else _name, reverse=bool(request.get("descending")))
        start = _position(request.get("nextToken"), "s")
        end = start + min(request.get("limit", _MAX_STREAMS), _MAX_STREAMS)
        answer: dict[str, Any] = {"logStreams": [_describe(s, region) for s in streams[start:end]]}
        if end < len(streams):
            answer["nextToken"] = f"s/{end}"
        return answer

    def get_events(self, region: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """GetLogEvents: pages by position; the token at the end is the one that was given."""
        name = request.get("logStreamName")
        stream = next((s for s in self._group(region) if s.name == name), None)
        if stream is None:
            raise ApiError("ResourceNotFoundException", "The specified log stream does not exist.")
        start, end = _page(request, len(stream.lines))
        since, until = request.get("startTime", 0), request.get("endTime", float("inf"))
        return {
            "events": [
                {"timestamp": at_ms, "message": line, "ingestionTime": at_ms}
                for at_ms, line in stream.lines[start:end]
                if since <= at_ms < until
            ],
            "nextForwardToken": f"f/{end:056d}/s",
            "nextBackwardToken": f"b/{start:056d}/s",
        }

    def _group(self, region: str) -> list[LogStream]:
        with self._lock:
            if region not in self._streams:
                raise ApiError(
                    "ResourceNotFoundException", "The specified log group does not exist."
                )
            return list(self._streams[region].values())


def _page(request: Mapping[str, Any], num_lines: int) -> tuple[int, int]:
    """First and one past the last line that a request asks for."""
    limit = min(request.get("limit", _MAX_EVENTS), _MAX_EVENTS)
    token = request.get("nextToken")
    if token is None:
        start = 0 if request.get("startFromHead") else max(0, num_lines - limit)
    elif token.startswith("b/"):
        end = min(_position(token, "b"), num_lines)
        return max(0, end - limit), end
    else:
        start = _position(token, "f")
    return start, max(start, min(start + limit, num_lines))


def _position(token: str | None, kind: str) -> int:
    """The position in a token such as f/00012/s; 0 without one."""
    if token is None:
        return 0
    parts = token.split("/")
    if parts[0] != kind or len(parts) < 2 or not parts[1].isdecimal():
        raise ApiError("InvalidParameterException", "The specified nextToken is invalid.")
    return int(parts[1])


def _name(stream: LogStream) -> str:
    return stream.name


def _last_event(stream: LogStream) -> int:
    return stream.lines[-1][0] if stream.lines else 0


def _describe(stream: LogStream, region: str) -> dict[str, Any]:
    described = {
        "logStreamName": stream.name,
        "creationTime": stream.created_ms,
        "arn": f"arn:aws:logs:{region}:123456789012:log-group:{LOG_GROUP}:log-stream:{stream.name}",
        "storedBytes": 0,
    }
    if stream.lines:
        described["firstEventTimestamp"] = stream.lines[0][0]
        described["lastEventTimestamp"] = described["lastIngestionTime"] = stream.lines[-1][0]
    return described


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
