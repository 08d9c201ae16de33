"""Child processes of a process of its own, as the functions wait for every child there is."""

import json
import subprocess
import sys
import textwrap
from typing import Any

BEGINNING = """
import json, os, signal, sys, time
from launcher.host.children import Children, adopt_orphans
lines = []
children = Children()
def start(name, script, *arguments):
    command = [sys.executable, "-S", "-c", script, *arguments]
    children.start(name, command, {"PATH": "/bin:/usr/bin", "X": "two\\nlines"}, lines.append)
def wait(name):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for ended in children.reap():
            if ended.name == name:
                return ended.code
        time.sleep(0.01)
def wait_for_lines(count):
    deadline = time.monotonic() + 20
    while len(lines) < count and time.monotonic() < deadline:
        time.sleep(0.01)
def alive(pid):
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return True
"""


def run(script: str) -> Any:
    """What a script prints as JSON."""
    program = BEGINNING + textwrap.dedent(script)
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    return json.loads(answer.stdout)


def test_lines_code_arguments_and_environment() -> None:
    found = run("""
        script = "import os, sys; print(*sys.argv[1:], os.environ['X'], sep='|'); print('err', file=sys.stderr); sys.exit(3)"
        start("a", script, "$(id)", "`id`", "a b", '"', "语音", "")
        print(json.dumps([wait("a"), sorted(lines), children.is_running("a")]))
    """)  # noqa: E501
    assert found == [3, ['$(id)|`id`|a b|"|语音||two', "err", "lines"], False]


def test_carriage_returns_and_long_lines_become_lines() -> None:
    found = run("""
        start("a", "print('1%\\\\r2%\\\\r' + 'x' * 70000)")
        print(json.dumps([wait("a"), [line if len(line) < 9 else len(line) for line in lines]]))
    """)
    assert found == [0, ["1%", "2%", 65536, 70000 - 65536]]


def test_death_by_signal() -> None:
    assert run('start("a", "import os; os.kill(os.getpid(), 9)"); print(wait("a"))') == -9


def test_the_rest_of_a_group_ends_with_its_leader() -> None:
    found = run("""
        start("a", "import os, signal\\nprint(os.fork() or signal.pause(), flush=True)")
        code = wait("a")
        adopted = alive(lines[0])
        print(json.dumps([code, len(lines), adopted]))
    """)
    # The grandchild is dead, though its zombie may still wait for the machine's own PID 1.
    assert found[:2] == [0, 1]


def test_stop_asks_first() -> None:
    found = run("""
        polite = "import signal, sys; signal.signal(15, lambda *_: sys.exit(7)); print(1, flush=True); signal.pause()"
        start("a", polite)
        wait_for_lines(1)
        children.stop("a", 20)
        print(json.dumps(children.is_running("a")))
    """)  # noqa: E501
    assert found is False


def test_stop_kills_who_does_not_hear() -> None:
    found = run("""
        deaf = "import os, signal; signal.signal(15, signal.SIG_IGN); print(os.getpid(), flush=True); signal.pause()"
        start("a", deaf)
        wait_for_lines(1)
        children.stop("a", 0.1)
        print(json.dumps([children.is_running("a"), alive(lines[0])]))
    """)  # noqa: E501
    assert found == [False, False]


def test_orphans_are_adopted_and_reaped() -> None:
    """A grandchild in a session of its own, whose parent ends, becomes ours: no zombie stays."""
    found = run("""
        adopt_orphans()
        script = "import os\\nif os.fork() == 0:\\n os.setsid()\\n print(os.getpid(), flush=True)\\n os.read(0, 1)"
        start("a", script)
        wait("a")
        wait_for_lines(1)
        deadline = time.monotonic() + 20
        while alive(lines[0]) and time.monotonic() < deadline:
            children.reap()
            time.sleep(0.01)
        print(json.dumps(alive(lines[0])))
    """)  # noqa: E501
    assert found is False


def test_kill_all_finds_orphans_in_other_groups() -> None:
    found = run("""
        adopt_orphans()
        script = "import os, signal\\nif os.fork() == 0: os.setsid()\\nprint(os.getpid(), flush=True)\\nsignal.pause()"
        start("a", script)
        wait_for_lines(2)
        children.kill_all()
        print(json.dumps([len(lines), any(alive(pid) for pid in lines)]))
    """)  # noqa: E501
    assert found == [2, False]


def test_program_that_is_not_there() -> None:
    found = run("""
        from rayasr.errors import LaunchError
        try:
            children.start("the command", ["/nowhere/x"], {}, print)
        except LaunchError as error:
            print(json.dumps(str(error)))
    """)
    assert found == "cannot start the command: /nowhere/x: No such file or directory"
