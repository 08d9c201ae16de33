"""What the hosts of a training job have logged, read from CloudWatch in the order of time."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from launcher.aws.session import Aws, aws_errors

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
"""Where SageMaker puts the logs of all training jobs; a stream is `JOB/algo-N-EPOCH`."""


@dataclass(frozen=True)
class LogLine:
    """A line that a host wrote."""

    host: str
    time: datetime
    text: str


class LogReader:
    """Reads on where it stopped, also after an error: no line comes twice and none is lost."""

    def __init__(self, aws: Aws, job: str) -> None:
        self._client = aws.client("logs")
        self._prefix = f"{job}/"
        self._streams: dict[str, _Stream] = {}

    @property
    def num_streams(self) -> int:
        """How many streams have been seen: one for each start of each host."""
        return len(self._streams)

    def lines(self) -> Iterator[LogLine]:
        """All lines that are there by now, those of all hosts in order of time.

        Raises LaunchError, or UnreachableError where asking again may help.
        """
        self._find_streams()
        waiting = [stream for stream in self._streams.values() if self._fill(stream)]
        while waiting:
            stream = min(waiting, key=_Stream.next_time)
            event = stream.events.popleft()
            time = datetime.fromtimestamp(event["timestamp"] / 1000, UTC)
            yield LogLine(stream.host, time, event["message"].rstrip("\n"))
            if not self._fill(stream):
                waiting.remove(stream)

    def _find_streams(self) -> None:
        """Add the streams that are new: hosts that came later, or start a second time."""
        query = {"logGroupName": LOG_GROUP, "logStreamNamePrefix": self._prefix}
        with aws_errors("look for the job's logs"):
            pages = self._client.get_paginator("describe_log_streams").paginate(**query)
            try:
                names = [stream["logStreamName"] for page in pages for stream in page["logStreams"]]
            except self._client.exceptions.ResourceNotFoundException:
                return  # the very first job of an account makes the group when it starts
        for name in names:
            host = name.removeprefix(self._prefix).rpartition("-")[0]
            self._streams.setdefault(name, _Stream(name, host))

    def _fill(self, stream: "_Stream") -> bool:
        """See that the stream's next event is here; False at the end of what there is."""
        while not stream.events:
            query = {"nextToken": stream.token} if stream.token else {}
            with aws_errors("read the job's logs"):
                page = self._client.get_log_events(
                    logGroupName=LOG_GROUP,
                    logStreamName=stream.name,
                    startFromHead=True,  # else a page's token leads backwards
                    **query,
                )
            stream.events.extend(page["events"])
            # Pages may be empty on the way; only a token that stays is the end.
            at_end = page["nextForwardToken"] == stream.token
            stream.token = page["nextForwardToken"]
            if at_end:
                break
        return bool(stream.events)


@dataclass
class _Stream:
    name: str
    host: str
    token: str | None = None
    events: deque[dict[str, Any]] = field(default_factory=deque)

    def next_time(self) -> int:
        """Milliseconds since 1970 of the event that comes next."""
        return int(self.events[0]["timestamp"])
