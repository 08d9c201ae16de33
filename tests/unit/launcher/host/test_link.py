"""The link between hosts, over real sockets on loopback addresses."""

import hmac
import itertools
import json
import os
import queue
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from launcher.host.events import Event, Outcome
from launcher.host.link import LINK_PORT, HeadLink, LinkTimes, WorkerLink
from rayasr.errors import LaunchError

TOKEN = "5" * 64
PATIENT = LinkTimes(heartbeat_s=0.05, silence_s=20.0, farewell_s=20.0)
_numbers = itertools.count(1)


class Inbox:
    """Events in order of arrival; waiting for one that does not come is a failure."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.put = self._events.put

    def next(self, timeout_s: float = 20.0) -> Event:
        return self._events.get(timeout=timeout_s)

    def is_quiet_for(self, seconds: float) -> bool:
        try:
            self._events.get(timeout=seconds)
        except queue.Empty:
            return True
        return False


class Job:
    """A head that listens at an address of its own, and hosts that call it."""

    def __init__(self) -> None:
        self.address = f"127.{os.getpid() % 200 + 10}.{next(_numbers)}.1"
        self.inbox = Inbox()
        self.head: HeadLink | None = None
        self.workers: list[WorkerLink] = []

    def open(
        self, *hosts: str, times: LinkTimes = PATIENT, known: dict[str, str] | None = None
    ) -> HeadLink:
        self.head = HeadLink(TOKEN, hosts, self.inbox.put, times, (known or {}).get)
        self.head.open(self.address)
        return self.head

    def call(
        self, host: str, token: str = TOKEN, times: LinkTimes = PATIENT, patience_s: float = 20.0
    ) -> tuple[WorkerLink, Inbox]:
        inbox = Inbox()
        link = WorkerLink(token, host, inbox.put, times)
        self.workers.append(link)
        deadline = time.monotonic() + patience_s
        link.connect("algo-1", self.address, "127.0.0.1", deadline, time.sleep)
        return link, inbox

    def dial(self) -> socket.socket:
        return socket.create_connection((self.address, LINK_PORT), timeout=20)


@pytest.fixture
def job() -> Iterator[Job]:
    job = Job()
    yield job
    for worker in job.workers:
        worker.close()
    if job.head is not None:
        job.head.close()


def test_what_is_said_arrives(job: Job) -> None:
    head = job.open("algo-2", "algo-3")
    second, heard_by_second = job.call("algo-2")
    assert job.inbox.next() == Event("hello", "algo-2")
    head.tell("algo-2", "join")
    assert heard_by_second.next() == Event("join")
    second.tell("up")
    assert job.inbox.next() == Event("up", "algo-2")
    third, _ = job.call("algo-3")
    assert job.inbox.next() == Event("hello", "algo-3")
    third.tell("down", "语音\n'")
    assert job.inbox.next() == Event("down", "algo-3", "语音\n'")
    second.tell("stopping")
    assert job.inbox.next() == Event("stopping", "algo-2")


def test_every_host_hears_the_outcome(job: Job) -> None:
    head = job.open("algo-2", "algo-3")
    calls = [job.call(host) for host in ("algo-2", "algo-3")]
    leavers = [threading.Thread(target=leave, args=call) for call in calls]
    for leaver in leavers:
        leaver.start()
    began = time.monotonic()
    head.finish(Outcome(3, "algo-1: 出错了"))
    assert time.monotonic() - began < PATIENT.farewell_s / 2  # nobody was waited for in vain
    for leaver in leavers:
        leaver.join(20)
    kinds = [job.inbox.next().kind for _ in range(2)]
    assert kinds == ["hello", "hello"]
    assert job.inbox.is_quiet_for(0.1)  # who said good-bye is not lost


def leave(link: WorkerLink, inbox: Inbox) -> None:
    assert inbox.next() == Event("outcome", "", "algo-1: 出错了", 3)
    link.tell("bye")
    link.close()


def test_a_host_that_comes_late_hears_the_outcome_too(job: Job) -> None:
    head = job.open("algo-2")
    ending = threading.Thread(target=head.finish, args=(Outcome(6, "algo-1: no space"),))
    ending.start()
    link, inbox = job.call("algo-2")
    assert inbox.next() == Event("outcome", "", "algo-1: no space", 6)
    link.tell("bye")
    ending.join(20)
    assert not ending.is_alive()


def test_farewell_is_bounded(job: Job) -> None:
    head = job.open("algo-2", times=LinkTimes(farewell_s=0.1))
    began = time.monotonic()
    head.finish(Outcome(0))
    assert 0.1 <= time.monotonic() - began < 5


def test_a_long_text_is_cut(job: Job) -> None:
    job.open("algo-2")
    link, _ = job.call("algo-2")
    link.tell("down", "\x00" * 100_000)
    assert job.inbox.next().kind == "hello"
    assert job.inbox.next() == Event("down", "algo-2", "\x00" * 2000)


def test_wrong_token_of_one_of_the_hosts(job: Job) -> None:
    job.open("algo-2", known={"algo-2": "127.0.0.1"})
    with pytest.raises(LaunchError, match="the head refused algo-2: it holds another token"):
        job.call("algo-2", token="6" * 64)
    event = job.inbox.next()
    assert (event.kind, event.host) == ("refused", "algo-2")
    assert event.text == "127.0.0.1 ('algo-2'): it holds another token"


def test_wrong_token_of_somebody_else(job: Job) -> None:
    """Only from that host's own address it counts as the host's."""
    job.open("algo-2", known={"algo-2": "10.0.0.2"})
    with pytest.raises(LaunchError, match="it holds another token"):
        job.call("algo-2", token="6" * 64)
    assert job.inbox.next().kind == "stranger"


def test_unknown_and_doubled_hosts(job: Job) -> None:
    job.open("algo-2")
    with pytest.raises(LaunchError, match="this job knows no such host"):
        job.call("algo-7")
    assert job.inbox.next().kind == "stranger"
    job.call("algo-2")
    assert job.inbox.next().kind == "hello"
    with pytest.raises(LaunchError, match="that host is connected already"):
        job.call("algo-2")
    assert job.inbox.next().kind == "stranger"


def test_broken_connection_is_a_lost_host_at_once(job: Job) -> None:
    job.open("algo-2")
    link, _ = job.call("algo-2")
    assert job.inbox.next().kind == "hello"
    link.close()
    assert job.inbox.next() == Event("lost", "algo-2", "its connection ended")


def test_broken_connection_is_a_lost_head_at_once(job: Job) -> None:
    head = job.open("algo-2")
    _, inbox = job.call("algo-2")
    assert job.inbox.next().kind == "hello"
    head.close()
    assert inbox.next().kind == "lost"


def test_silent_host_is_lost(job: Job) -> None:
    job.open("algo-2", times=LinkTimes(heartbeat_s=0.05, silence_s=0.3))
    job.call("algo-2", times=LinkTimes(heartbeat_s=60, silence_s=20))
    assert job.inbox.next().kind == "hello"
    assert job.inbox.next() == Event("lost", "algo-2", "nothing heard for 0.3 s")


def test_silent_head_is_lost(job: Job) -> None:
    job.open("algo-2", times=LinkTimes(heartbeat_s=60, silence_s=20))
    _, inbox = job.call("algo-2", times=LinkTimes(heartbeat_s=0.05, silence_s=0.3))
    assert inbox.next() == Event("lost", "", "nothing heard for 0.3 s")


def test_heartbeats_keep_a_quiet_line(job: Job) -> None:
    times = LinkTimes(heartbeat_s=0.02, silence_s=0.4)
    job.open("algo-2", times=times)
    _, inbox = job.call("algo-2", times=times)
    assert job.inbox.next().kind == "hello"
    assert job.inbox.is_quiet_for(0.8)
    assert inbox.is_quiet_for(0.01)


def test_garbage_harms_nobody(job: Job) -> None:
    job.open("algo-2")
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\xff\x00\n", b"x" * 20_000, b"[1]\n", b"{}\n{}\n"):
        with job.dial() as connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            assert job.inbox.next().kind == "stranger"
    job.call("algo-2")
    assert job.inbox.next() == Event("hello", "algo-2")


def sign(key: bytes, number: int, kind: str) -> bytes:
    payload = json.dumps({"kind": kind, "text": "", "code": 0}).encode()
    signature = hmac.new(key, f"worker {number} ".encode() + payload, "sha256").hexdigest()
    return signature.encode() + b" " + payload + b"\n"


def test_a_line_counts_once(job: Job) -> None:
    """Somebody who listens cannot say again what a host has said."""
    job.open("algo-2")
    with job.dial() as connection, connection.makefile("rb") as reader:
        nonce = json.loads(reader.readline())["nonce"]
        connection.sendall(b'{"host": "algo-2", "nonce": "abc"}\n')
        text = f"rayasr host link 1 {nonce} abc algo-2".encode()
        key = hmac.digest(TOKEN.encode(), text, "sha256")
        connection.sendall(sign(key, 0, "hello") + sign(key, 1, "up") + sign(key, 1, "up"))
        assert job.inbox.next() == Event("hello", "algo-2")
        assert job.inbox.next() == Event("up", "algo-2")
        assert job.inbox.next() == Event("lost", "algo-2", "it holds another token")


def test_nothing_secret_is_said(job: Job) -> None:
    job.open("algo-2")
    with job.dial() as connection, connection.makefile("rb") as reader:
        assert TOKEN.encode() not in reader.readline()


def test_head_that_is_not_there(job: Job) -> None:
    with pytest.raises(LaunchError, match=r"the head algo-1 did not answer at 127.*refused"):
        job.call("algo-2", patience_s=0.6)


def test_head_that_does_not_greet(job: Job) -> None:
    """Something listens, but never says a word."""
    with (
        socket.create_server((job.address, LINK_PORT)),
        pytest.raises(LaunchError, match=r"did not answer at .*nothing heard for 0\.2 s"),
    ):
        job.call("algo-2", times=LinkTimes(silence_s=0.2), patience_s=0.3)


def test_port_that_is_taken(job: Job) -> None:
    with (
        socket.create_server((job.address, LINK_PORT)),
        pytest.raises(LaunchError, match=r"cannot listen at .*does another job run here"),
    ):
        job.open("algo-2")
