"""`train` on one host and on several: real processes, small programs for Ray and rayasr."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.host.main import MAX_FAILURE
from tests.container_hosts import LINK, TOKEN, Hosts, is_alive

Start = Callable[..., Hosts]


@pytest.fixture
def make_hosts(tmp_path: Path) -> Iterator[Start]:
    """Makes hosts with their contract files; they are ended with the test."""
    made: list[Hosts] = []

    def make(
        count: int, *command: str, settings: dict[str, Any] | None = None, **job: Any
    ) -> Hosts:
        hosts = Hosts(tmp_path, count, **(settings or {}))
        made.append(hosts)
        hosts.write(*command, **job)
        return hosts

    yield make
    for hosts in made:
        hosts.end()


def test_command_runs_once_on_a_cluster_of_all_hosts(make_hosts: Start) -> None:
    odd = ["$(touch x)", "`id`", "it's", '"', "a\nb", "语音", "", "x" * 2500, "{run}/{job}"]
    run = "/nowhere/run"
    hosts = make_hosts(
        3, "pass", *odd, run=run, environment={"X": "two\nlines", "A_TOKEN": "se" * 9}
    )
    hosts.start(AWS_SECRET_ACCESS_KEY="wJalrXUtnFEMI")
    assert hosts.codes() == [0, 0, 0]
    found = hosts.command()
    job_folder = hosts.root("algo-1") / "input/data/rayasr-job"
    assert found["arguments"] == [*odd[:-1], f"{run}/{job_folder}"]
    environment = found["environment"]
    assert environment["RAY_ADDRESS"] == f"{hosts.addresses['algo-1']}:6379"
    assert environment["RAYASR_NUM_NODES"] == "3"
    assert environment["X"] == "two\nlines"
    assert environment["GLOO_SOCKET_IFNAME"] == "lo"
    for name in hosts.names:
        pid, arguments, ray_environment = hosts.ray(name)
        assert not is_alive(pid)
        assert f"--node-ip-address={hosts.addresses[name]}" in arguments
        assert ("--head" in arguments) == (name == "algo-1")
        assert ray_environment["X"] == "two\nlines"  # training runs in Ray's workers
        assert (ray_environment["RAY_AUTH_MODE"], ray_environment["RAY_AUTH_TOKEN"]) == (
            "token",
            TOKEN,
        )
        log = hosts.log(name)
        assert all(line.startswith(f"{name} | ") for line in log.splitlines())
        assert "the job is done" in log
        for secret in (TOKEN, "wJalrXUtnFEMI", "se" * 9):
            assert secret not in log
        assert not (hosts.root(name) / "output").exists()
        if name != "algo-1":
            assert not (hosts.root(name) / "command.json").exists()
    assert hosts.leftovers() == []


def test_failure_is_the_same_on_every_host(make_hosts: Start) -> None:
    sentence = f"rayasr: the store is empty ({TOKEN}); run `rayasr data prepare` first"
    hosts = make_hosts(2, "fail", "3", sentence)
    hosts.start()
    assert hosts.codes() == [3, 3]
    for name in hosts.names:
        assert hosts.failure(name) == (
            "algo-1: `rayasr fail` failed (3): the store is empty (***); run `rayasr data prepare` "
            "first"
        )


def test_host_that_never_comes_is_named(make_hosts: Start) -> None:
    hosts = make_hosts(3, "pass", settings={"boot_s": 4.0})
    hosts.start("algo-1", "algo-2")
    assert hosts.codes() == [6, 6]
    for name in ("algo-1", "algo-2"):
        assert "not complete within 4 s: algo-3 never called; look at" in hosts.failure(name)


def test_head_that_never_comes_is_named(make_hosts: Start) -> None:
    hosts = make_hosts(2, "pass", settings={"boot_s": 1.0})
    hosts.start("algo-2")
    assert hosts.codes() == [6]
    assert hosts.failure("algo-2").startswith("algo-2: the head algo-1 did not answer at 127.")


def test_ray_that_does_not_start_is_named(make_hosts: Start) -> None:
    hosts = make_hosts(2, "pass")
    (hosts.root("algo-2") / "broken").touch()
    hosts.start()
    assert hosts.codes() == [6, 6]
    for name in hosts.names:
        assert hosts.failure(name).startswith(
            "algo-1: algo-2 was lost before the command began: Ray ended there (RuntimeError: "
            "Failed to connect to GCS.)"
        )
    assert "algo-2 | Ray: RuntimeError: Failed to connect" in hosts.log("algo-2")


def test_host_with_another_token_is_named_at_once(make_hosts: Start) -> None:
    hosts = make_hosts(2, "pass")
    job = hosts.read_job("algo-2").model_copy(update={"token": "f" * 64})
    hosts.write_job("algo-2", job)
    hosts.start()
    assert hosts.codes() == [6, 6]
    assert "algo-1: algo-2 was refused at 127." in hosts.failure("algo-1")
    assert "the head refused algo-2: it holds another token" in hosts.failure("algo-2")


@pytest.mark.parametrize(
    ("number", "silence_s", "reason"),
    [(signal.SIGKILL, 20.0, "its connection"), (signal.SIGSTOP, 2.0, "nothing heard for 2 s")],
)
def test_lost_host_ends_the_job(
    make_hosts: Start, number: signal.Signals, silence_s: float, reason: str
) -> None:
    hosts = make_hosts(3, "deaf", settings={"link": LINK | {"silence_s": silence_s}})
    hosts.start()
    hosts.wait_for_command()
    hosts.send(number, "algo-3")
    lost = hosts.processes.pop("algo-3")
    assert hosts.codes() == [6, 6]
    hosts.processes["algo-3"] = lost
    for name in ("algo-1", "algo-2"):
        assert hosts.failure(name).startswith(f"algo-1: algo-3 was lost: {reason}")
    assert "on_lost_host: continue" in hosts.failure("algo-2")


def test_job_may_go_on_without_a_lost_host(make_hosts: Start) -> None:
    hosts = make_hosts(3, "train", on_lost_host="continue")
    hosts.start()
    hosts.wait_for_command()
    hosts.send(signal.SIGKILL, "algo-3")
    hosts.send_ray(signal.SIGUSR1, "algo-2")  # a host without Ray still waits for the outcome
    hosts.wait_for_log("algo-1", "algo-3 is lost: its connection")
    hosts.wait_for_log(
        "algo-1", "algo-2 is lost: Ray ended there (Ray's raylet ended with SIGKILL)"
    )
    (hosts.root("algo-1") / "enough").touch()
    assert hosts.codes() == [0, 0, -signal.SIGKILL]
    assert "the job goes on without it" in hosts.log("algo-1")


def test_lost_head_ends_every_host(make_hosts: Start) -> None:
    hosts = make_hosts(3, "train")
    hosts.start()
    hosts.wait_for_command()
    hosts.send(signal.SIGKILL, "algo-1")
    assert hosts.codes() == [-signal.SIGKILL, 6, 6]
    assert hosts.failure("algo-3").startswith("algo-3: the head algo-1 was lost: its connection")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("algo-1", "algo-1: Ray ended on the head (Ray's raylet ended with SIGKILL)"),
        ("algo-2", "algo-1: algo-2 was lost: Ray ended there (Ray's raylet ended with SIGKILL)"),
    ],
)
def test_ray_that_dies_is_noticed(make_hosts: Start, name: str, text: str) -> None:
    hosts = make_hosts(2, "train")
    hosts.start()
    hosts.wait_for_command()
    hosts.send_ray(signal.SIGUSR1, name)
    assert hosts.codes() == [6, 6]
    assert [hosts.failure(each).startswith(text) for each in hosts.names] == [True, True]


def test_stop_lets_the_command_save_on_a_whole_cluster(make_hosts: Start) -> None:
    hosts = make_hosts(3, "train")
    hosts.start()
    hosts.wait_for_command()
    hosts.send(signal.SIGTERM)
    assert hosts.codes() == [143, 143, 143]
    assert hosts.command() == {"saved_with": 3}
    assert "the job was stopped from outside and `rayasr train` left with 143" in (
        hosts.failure("algo-2")
    )


def test_stop_of_one_host_stops_the_job(make_hosts: Start) -> None:
    hosts = make_hosts(2, "train")
    hosts.start()
    hosts.wait_for_command()
    hosts.send(signal.SIGTERM, "algo-2")
    assert hosts.codes() == [143, 143]
    assert "algo-1 | algo-2 is asked to stop, so the command is" in hosts.log("algo-1")


def test_stop_kills_a_command_that_does_not_leave(make_hosts: Start) -> None:
    hosts = make_hosts(2, "deaf", settings={"stop_s": 0.3})
    hosts.start()
    hosts.wait_for_command()
    hosts.send(signal.SIGTERM)
    assert hosts.codes() == [137, 137]
    assert "has not left in time and is killed" in hosts.log("algo-1")


def test_stop_is_bounded_where_the_head_does_not_answer(make_hosts: Start) -> None:
    hosts = make_hosts(2, "deaf", settings={"stop_s": 60.0, "leave_s": 0.3})
    hosts.start()
    hosts.wait_for_command()
    hosts.send(signal.SIGTERM, "algo-2")
    assert hosts.processes.pop("algo-2").wait(30) == 143
    assert "the head did not say within 0.3 s how the job ended" in hosts.failure("algo-2")


def test_stop_while_hosts_are_missing(make_hosts: Start) -> None:
    hosts = make_hosts(3, "pass")
    hosts.start("algo-1", "algo-2")
    hosts.wait_for_log("algo-1", "algo-2 is up")
    hosts.send(signal.SIGTERM)
    assert hosts.codes() == [143, 143]
    assert hosts.failure("algo-1") == "algo-1: the job was stopped before its command began"


def test_model_and_exports_are_kept(make_hosts: Start, tmp_path: Path) -> None:
    run = tmp_path / "runs/a"
    for path in (run / "model/units.txt", run / "export/final.zip"):
        path.parent.mkdir(parents=True)
        path.write_text(path.name)
    hosts = make_hosts(1, "pass", run=str(run))
    model = hosts.root("algo-1") / "model"
    model.mkdir()  # as the service does
    hosts.start()
    assert hosts.codes() == [0]
    assert sorted(str(path.relative_to(model)) for path in model.rglob("*")) == [
        "export",
        "export/final.zip",
        "units.txt",
    ]


def test_model_that_cannot_be_kept(make_hosts: Start, tmp_path: Path) -> None:
    (tmp_path / "run/model").mkdir(parents=True)
    hosts = make_hosts(1, "pass", run=str(tmp_path / "run"))
    (hosts.root("algo-1") / "model").write_text("a file in the way")
    hosts.start()
    assert hosts.codes() == [6]
    assert "the run itself is complete in" in hosts.failure("algo-1")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("rayasr: " + "错" * 5000, "`rayasr fail` failed (1): 错错"),
        ("KeyError: '你好 said somebody'", "failed with exit code 1 by KeyError; the log says"),
        ("你好 said somebody", "`rayasr fail` failed with exit code 1; the log says more"),
    ],
)
def test_failure_file_is_short_and_quotes_no_transcript(
    make_hosts: Start, line: str, text: str
) -> None:
    hosts = make_hosts(1, "fail", "1", line)
    hosts.start()
    assert hosts.codes() == [1]
    failure = hosts.failure("algo-1")
    assert text in failure
    assert "你好" not in failure
    assert len(failure) <= MAX_FAILURE


def test_code_of_the_job_comes_first(make_hosts: Start) -> None:
    """The process begins anew with the job's packages, which alone are run."""
    stub = "import os, sys\nprint('mine', sys.argv[1:], os.getpid(), flush=True)\nsys.exit(5)"
    hosts = make_hosts(1, "pass", code={"launcher/host/main.py": stub, "launcher/__init__.py": ""})
    hosts.start()
    assert hosts.codes() == [5]
    assert f"mine ['train'] {hosts.processes['algo-1'].pid}" in hosts.log("algo-1")


def test_code_that_reaches_outside_is_refused(make_hosts: Start) -> None:
    hosts = make_hosts(1, "pass", code={"../../outside.py": ""})
    hosts.start()
    assert hosts.codes() == [6]
    assert "cannot unpack" in hosts.failure("algo-1")
    assert hosts.leftovers() == []


@pytest.mark.parametrize(
    ("job", "text"),
    [
        ({"channels": {"corpus": "read"}}, "channel 'corpus' is not there: "),
        ({"num_hosts": 2}, "the job was planned for 2 hosts, but there are 1 (algo-1)"),
        ({"head_group": "gpu"}, "head_group 'gpu' has no machine here"),
    ],
)
def test_contract_that_does_not_fit(make_hosts: Start, job: dict[str, Any], text: str) -> None:
    hosts = make_hosts(1, "pass", **job)
    hosts.start()
    assert hosts.codes() == [6]
    assert hosts.failure("algo-1").startswith(f"algo-1: {text}")


def test_job_file_that_was_changed(make_hosts: Start) -> None:
    hosts = make_hosts(1, "pass")
    hosts.start(RAYASR_JOB_DIGEST="0" * 64)
    assert hosts.codes() == [6]
    assert "algo-1: job.json is not the one that was submitted" in hosts.failure("algo-1")


def test_no_contract_at_all(make_hosts: Start) -> None:
    hosts = make_hosts(1, "pass")
    (hosts.root("algo-1") / "input/config/resourceconfig.json").unlink()
    hosts.start()
    assert hosts.codes() == [6]
    assert "start jobs with `rayasr launch`" in hosts.failure("algo-1")


def test_folder_that_cannot_be_made(make_hosts: Start) -> None:
    hosts = make_hosts(1, "pass")
    hosts.start(RAYASR_TMP="/nowhere")
    assert hosts.codes() == [6]
    assert "cannot make a folder in /nowhere (No such file" in hosts.failure("algo-1")


def test_failure_file_that_cannot_be_written(make_hosts: Start) -> None:
    hosts = make_hosts(1, "fail", "4", "rayasr: training diverged")
    (hosts.root("algo-1") / "output").write_text("a file in the way")
    hosts.start()
    assert hosts.codes() == [4]
    assert "output/failure: " in hosts.log("algo-1")
