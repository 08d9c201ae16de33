"""The control link between the hosts of a job: who is there, who is lost, how the job ended.

The head listens; every other host connects and keeps its line until it has heard the outcome. Both
greet each other with a random number. From these and the job's token comes the line's key; with it
each further line (JSON) is signed, together with its direction and number, so that nobody without
the token can speak and nothing can be said twice. Nothing secret is said, so nothing is encrypted.
A host that is silent, or whose connection ends without a "bye", is lost.
"""

import hmac
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from launcher.host.events import Event, Kind, Outcome
from rayasr.errors import LaunchError

LINK_PORT = 6380
"""Below Ray's worker ports (10002-19999), beside its own 6379."""

_MAX_TEXT = 2000
_MAX_LINE = 16384  # the longest text, its control characters escaped, and the rest
_OTHER_TOKEN = "it holds another token"
_FROM_WORKER = ("up", "down", "stopping")


@dataclass(frozen=True)
class LinkTimes:
    heartbeat_s: float = 1.0
    silence_s: float = 10.0
    """A host that says nothing for so long is lost."""
    farewell_s: float = 5.0
    """How long the head waits until every host has heard the outcome."""


class HeadLink:
    """The head's side; what the other hosts say arrives as events."""

    def __init__(
        self,
        token: str,
        hosts: Collection[str],
        notify: Callable[[Event], None],
        times: LinkTimes,
        address_of: Callable[[str], str | None],
    ) -> None:
        self._token = token
        self._notify = notify
        self._times = times
        self._address_of = address_of  # tells a host with another token from a stranger
        self._waiting_for = set(hosts)  # until they have said good-bye or are lost
        self._lines: dict[str, _Line] = {}
        self._outcome: Outcome | None = None
        self._changed = threading.Condition()
        self._server: socket.socket | None = None

    def open(self, address: str) -> None:
        """Listen at this host's own address; raises LaunchError."""
        try:
            self._server = socket.create_server((address, LINK_PORT), backlog=128)
        except OSError as error:
            raise LaunchError(
                f"cannot listen at {address}:{LINK_PORT} ({error.strerror}); does another job run "
                "here?"
            ) from error
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def tell(self, host: str, kind: str) -> None:
        """Say something to one host; that it cannot be reached will be an event of its own."""
        with self._changed:
            line = self._lines.get(host)
        if line is not None:
            line.say(kind)

    def finish(self, outcome: Outcome) -> None:
        """Tell every host how the job ended, those too that come now; returns within seconds."""
        with self._changed:
            self._outcome = outcome
            lines = list(self._lines.values())
        for line in lines:
            line.say("outcome", outcome.text, outcome.code)
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting_for, self._times.farewell_s)
        self.close()

    def close(self) -> None:
        """Hang up on everybody."""
        if self._server is not None:
            with suppress(OSError):
                self._server.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            self._server.close()
        with self._changed:
            lines = list(self._lines.values())
        for line in lines:
            line.hang_up()

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                connection, (address, _) = server.accept()
            except ConnectionAbortedError:  # the caller has given up already
                continue
            except OSError:  # closed by ourselves
                return
            threading.Thread(target=self._serve, args=(connection, address), daemon=True).start()

    def _serve(self, connection: socket.socket, address: str) -> None:
        """One connection, from the greeting to its end."""
        line = _Line(connection, self._times)
        try:
            host = line.greet_worker(self._token)
            self._enter(host, line)
        except (_LineError, OSError) as error:
            self._refuse(line, address, str(error))
        else:
            self._listen(host, line)
        line.close()

    def _refuse(self, line: "_Line", address: str, reason: str) -> None:
        line.refuse(reason)
        # A stranger may call itself anything; the address tells whether it is one of the hosts.
        ours = reason == _OTHER_TOKEN and self._address_of(line.other) == address
        kind: Kind = "refused" if ours else "stranger"
        self._notify(Event(kind, line.other, f"{address} ('{line.other}'): {reason}"))

    def _enter(self, host: str, line: "_Line") -> None:
        """Take a host's line; raises _LineError."""
        with self._changed:
            if host not in self._waiting_for:
                raise _LineError("this job knows no such host")
            if host in self._lines:
                raise _LineError("that host is connected already")
            self._lines[host] = line
            line.say("welcome")  # before anything else is said
            outcome = self._outcome
        line.start_heartbeat()
        self._notify(Event("hello", host))
        if outcome is not None:
            line.say("outcome", outcome.text, outcome.code)

    def _listen(self, host: str, line: "_Line") -> None:
        try:
            while (heard := line.hear())["kind"] != "bye":
                if heard["kind"] in _FROM_WORKER:
                    self._notify(Event(heard["kind"], host, heard["text"]))
        except _LineError as error:
            self._notify(Event("lost", host, str(error)))
        with self._changed:
            self._waiting_for.discard(host)
            self._changed.notify_all()


class WorkerLink:
    """Any other host's side; what the head says arrives as events."""

    def __init__(
        self, token: str, host: str, notify: Callable[[Event], None], times: LinkTimes
    ) -> None:
        self._token = token
        self._host = host
        self._notify = notify
        self._times = times
        self._line: _Line | None = None

    def connect(
        self, head: str, address: str, source: str, deadline: float, pause: Callable[[float], None]
    ) -> None:
        """Reach the head from this host's address `source`, trying until `deadline` (monotonic).

        `pause` sleeps, and may raise. Raises LaunchError.
        """
        while True:
            try:
                self._line = self._call(address, source)
                break
            except (_LineError, OSError) as error:
                reason = getattr(error, "strerror", None) or str(error)
            if time.monotonic() + 0.5 > deadline:
                raise LaunchError(
                    f"the head {head} did not answer at {address}:{LINK_PORT} ({reason}); look at "
                    f"{head}'s log, and whether the security group admits its own members"
                )
            pause(0.5)
        self._line.start_heartbeat()
        threading.Thread(target=self._listen, args=(self._line,), daemon=True).start()

    def tell(self, kind: str, text: str = "") -> None:
        """Say something to the head; that it cannot be reached will be an event of its own."""
        if self._line is not None:
            self._line.say(kind, text)

    def close(self) -> None:
        """Hang up; to the head this host is lost, unless it has said "bye"."""
        if self._line is not None:
            self._line.hang_up()

    def _call(self, address: str, source: str) -> "_Line":
        """One try; raises _LineError and OSError, and LaunchError where trying again is no use."""
        connection = socket.create_connection(
            (address, LINK_PORT), timeout=self._times.silence_s, source_address=(source, 0)
        )
        line = _Line(connection, self._times)
        try:
            line.greet_head(self._token, self._host)
        except BaseException:
            line.close()
            raise
        return line

    def _listen(self, line: "_Line") -> None:
        try:
            while True:  # until one of the sides hangs up
                heard = line.hear()
                if heard["kind"] == "join":
                    self._notify(Event("join"))
                elif heard["kind"] == "outcome":
                    self._notify(Event("outcome", "", heard["text"], heard["code"]))
        except _LineError as error:
            self._notify(Event("lost", "", str(error)))
        line.close()


class _LineError(Exception):
    """The other side cannot be heard, or not believed; the message says why."""


class _Line:
    """One connection: greeting, then signed lines, with a heartbeat between them."""

    def __init__(self, connection: socket.socket, times: LinkTimes) -> None:
        connection.settimeout(times.silence_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._buffer = b""  # what has come after the last line
        self._times = times
        self._key = b""
        self._said = self._heard = 0
        self._direction = ("", "")  # of what is said, of what is heard
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.other = "?"  # as it calls itself

    def greet_worker(self, token: str) -> str:
        """The head's part of the greeting; the host's name; raises _LineError."""
        mine = secrets.token_hex(16)
        self._write(json.dumps({"rayasr": 1, "nonce": mine}).encode())
        greeting = self._read_object()
        self.other = str(greeting.get("host"))[:64]
        self._secure(token, mine, str(greeting.get("nonce")), ("head", "worker"))
        self.hear()  # "hello"
        return self.other

    def greet_head(self, token: str, host: str) -> None:
        """The worker's part; raises _LineError, and LaunchError where the head refuses."""
        greeting = self._read_object()
        if greeting.get("rayasr") != 1:
            raise _LineError("something else than the head listens there")
        mine = secrets.token_hex(16)
        self._write(json.dumps({"host": host, "nonce": mine}).encode())
        self.other = host
        self._secure(token, str(greeting.get("nonce")), mine, ("worker", "head"))
        self.say("hello")
        answer = self._read()
        if answer.startswith(b"{"):  # an unsigned line after the greeting can only be a refusal
            raise LaunchError(
                f"the head refused {host}: {_parse(answer).get('refused')}; all hosts must have "
                "the files of one submission, submit the job again"
            )
        self._verify(answer)  # "welcome"

    def say(self, kind: str, text: str = "", code: int = 0) -> None:
        """Send a signed line; where that fails, the side that reads will notice."""
        said = {"kind": kind, "text": text[:_MAX_TEXT], "code": code}
        payload = json.dumps(said, ensure_ascii=False).encode("utf-8", "replace")
        with self._lock, suppress(OSError):
            signature = self._sign(self._direction[0], self._said, payload)
            self._said += 1
            self._write(signature + b" " + payload)

    def hear(self) -> dict[str, Any]:
        """The next line that is no heartbeat; raises _LineError."""
        while True:
            heard = self._verify(self._read())
            if heard["kind"] != "beat":
                return heard

    def refuse(self, reason: str) -> None:
        """Answer a greeting with a reason in the clear."""
        with suppress(OSError):
            self._write(json.dumps({"refused": reason}).encode())

    def start_heartbeat(self) -> None:
        """Be heard, from a thread, until the line is closed."""
        threading.Thread(target=self._beat, daemon=True).start()

    def hang_up(self) -> None:
        """End the connection, from any thread; the one that reads is woken."""
        self._ended.set()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection from the thread that reads, so that nobody reads it any more."""
        self.hang_up()
        self._socket.close()

    def _beat(self) -> None:
        while not self._ended.wait(self._times.heartbeat_s):
            self.say("beat")

    def _secure(self, token: str, head: str, worker: str, direction: tuple[str, str]) -> None:
        text = f"rayasr host link 1 {head} {worker} {self.other}"
        self._key = hmac.digest(token.encode(), text.encode(), "sha256")
        self._direction = direction

    def _sign(self, direction: str, number: int, payload: bytes) -> bytes:
        signed = f"{direction} {number} ".encode() + payload
        return hmac.new(self._key, signed, "sha256").hexdigest().encode()

    def _verify(self, line: bytes) -> dict[str, Any]:
        signature, _, payload = line.partition(b" ")
        expected = self._sign(self._direction[1], self._heard, payload)
        if not hmac.compare_digest(signature, expected):
            raise _LineError(_OTHER_TOKEN)
        self._heard += 1
        return _parse(payload)

    def _read_object(self) -> dict[str, Any]:
        return _parse(self._read())

    def _read(self) -> bytes:
        """One line without its end; raises _LineError."""
        while b"\n" not in self._buffer:
            if len(self._buffer) > _MAX_LINE:
                raise _LineError("it sent a line without an end")
            try:
                received = self._socket.recv(_MAX_LINE)
            except TimeoutError:
                text = f"nothing heard for {self._times.silence_s:g} s"
                raise _LineError(text) from None
            except OSError:
                raise _LineError("its connection broke") from None
            if not received:
                raise _LineError("its connection ended")
            self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _write(self, line: bytes) -> None:
        self._socket.sendall(line + b"\n")


def _parse(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise _LineError("it does not speak the language of this link")
    return value
