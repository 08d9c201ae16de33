"""A few services of AWS on loopback: scripted answers, and a record of what was asked."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

DROPPED = "the connection is closed without an answer"


@dataclass(frozen=True)
class Refusal:
    """An error as AWS sends it."""

    code: str
    message: str = "no"
    status: int = 400


class FakeAws(ThreadingHTTPServer):
    """Answers `{operation: answer}`: a value, a list of values (the last one stays), a function.

    Objects of S3 are taken as they come.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.forget()

    def forget(self) -> None:
        """Begin again."""
        self.answers: dict[str, Any] = {}
        self.calls: list[tuple[str, Any]] = []
        self.objects: dict[str, bytes] = {}

    def asked(self, operation: str) -> list[Any]:
        """The bodies of all calls of an operation."""
        return [body for name, body in self.calls if name == operation]

    def answer(self, operation: str, body: Any) -> Any:
        """What to send back."""
        answer = self.answers.get(operation, Refusal("UnknownOperationException", operation))
        if isinstance(answer, Callable):  # type: ignore[arg-type]
            return answer(body)
        if isinstance(answer, list):
            return answer.pop(0) if len(answer) > 1 else answer[0]
        return answer


class _Handler(BaseHTTPRequestHandler):
    server: FakeAws

    def do_POST(self) -> None:
        operation = self.headers["X-Amz-Target"].partition(".")[2]
        body = json.loads(self._body())
        self.server.calls.append((operation, body))
        answer = self.server.answer(operation, body)
        if answer == DROPPED:
            return
        if isinstance(answer, Refusal):
            answer, status = {"__type": answer.code, "message": answer.message}, answer.status
        else:
            status = 200
        self._send(status, json.dumps(answer).encode())

    def do_PUT(self) -> None:
        self.send_response_only(100)  # boto3 waits a second for it
        self.end_headers()
        self.server.objects[self.path] = self._body()
        self._send(200, b"")

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Tests stay quiet."""


class FakeLogs:
    """CloudWatch's log streams, a few events a page; installs itself as a server's answers."""

    def __init__(self, server: FakeAws, page: int = 2) -> None:
        self.streams: dict[str, list[tuple[int, str]]] = {}
        self.page = page
        server.answers |= {"DescribeLogStreams": self.describe, "GetLogEvents": self.get}

    def write(self, stream: str, *events: tuple[int, str]) -> None:
        """Add events, a time in milliseconds and a text each."""
        self.streams.setdefault(stream, []).extend(events)

    def describe(self, body: dict[str, Any]) -> Any:
        """The streams with a prefix; there is no group before its first stream."""
        if not self.streams:
            return Refusal("ResourceNotFoundException", "The specified log group does not exist.")
        names = [name for name in self.streams if name.startswith(body["logStreamNamePrefix"])]
        start = int(body.get("nextToken", 0))
        end = start + self.page
        more = {"nextToken": str(end)} if end < len(names) else {}
        return {"logStreams": [{"logStreamName": name} for name in names[start:end]]} | more

    def get(self, body: dict[str, Any]) -> Any:
        """The next events; at the end the caller's own token comes back."""
        assert body["startFromHead"] is True
        start = int(body.get("nextToken", "f/0").removeprefix("f/"))
        found = self.streams[body["logStreamName"]][start : start + self.page]
        events = [{"timestamp": time, "message": text, "ingestionTime": 0} for time, text in found]
        return {"events": events, "nextForwardToken": f"f/{start + len(found)}"}


@contextmanager
def fake_aws() -> Iterator[FakeAws]:
    """A server that is there inside the block."""
    server = FakeAws()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def forget_aws(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Let a test find no account of this machine's user, and no service of a cloud machine."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # boto3's own second tries would wait


def described_job(status: str = "InProgress", **fields: Any) -> dict[str, Any]:
    """What DescribeTrainingJob answers, as it comes over the wire."""
    return {
        "TrainingJobName": "job",
        "TrainingJobArn": "arn:aws:sagemaker:us-east-1:111122223333:training-job/job",
        "TrainingJobStatus": status,
        "SecondaryStatus": "Training" if status == "InProgress" else status,
        "ResourceConfig": {
            "InstanceType": "ml.g5.12xlarge",
            "InstanceCount": 2,
            "VolumeSizeInGB": 50,
        },
        "CreationTime": 1_700_000_000,
        "SecondaryStatusTransitions": [],
    } | fields


def stage(status: str, start: int, end: int | None = None, message: str = "") -> dict[str, Any]:
    """A stage of a job, in seconds after it was made."""
    over = {} if end is None else {"EndTime": 1_700_000_000 + end}
    began = {"Status": status, "StartTime": 1_700_000_000 + start, "StatusMessage": message}
    return began | over
