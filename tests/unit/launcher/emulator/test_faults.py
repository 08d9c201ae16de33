"""How faults are written, and which job they strike."""

import pytest

from launcher.emulator.faults import Fault, Faults, parse_fault
from rayasr.errors import ConfigError

HOSTS = ("algo-1", "algo-2")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("spot@12s", Fault("spot", after_s=12.0)),
        ("stop@log:step 40", Fault("stop", at_log="step 40")),
        ("kill-host:algo-2@1.5s", Fault("kill-host", "algo-2", after_s=1.5)),
        ("silent-host:algo-12@log:a@b", Fault("silent-host", "algo-12", at_log="a@b")),
        (
            "kill-process:algo-1:ray::(Train|Data):x@0s",
            Fault("kill-process", "algo-1", "ray::(Train|Data):x", after_s=0.0),
        ),
        ("full-disk:/mnt/small@3s", Fault("full-disk", detail="/mnt/small", after_s=3.0)),
        ("slow-names@20s", Fault("slow-names", after_s=20.0)),
        ("no-show:algo-3", Fault("no-show", "algo-3")),
        ("capacity", Fault("capacity")),
    ],
)
def test_faults_are_read(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "there are spot@WHEN"),
        ("fire@1s", "there are spot@WHEN"),
        ("spot", "write spot@WHEN"),
        ("spot@soon", "there are spot@WHEN"),
        ("spot:algo-1@1s", "write spot@WHEN"),
        ("kill-host@1s", "write kill-host:algo-N@WHEN"),
        ("kill-host:algo-0@1s", "write kill-host:algo-N@WHEN"),
        ("kill-host:algo-1:x@1s", "write kill-host:algo-N@WHEN"),
        ("kill-process:algo-1@1s", "write kill-process:algo-N:PATTERN@WHEN"),
        ("kill-process:algo-1:(@1s", "no regular expression"),
        ("slow-names@log:x", "write slow-names@SECONDSs"),
        ("no-show:algo-1@3s", "write no-show:algo-N"),
        ("capacity@3s", "write capacity"),
        ("full-disk@3s", "write full-disk:DIR@WHEN"),
    ],
)
def test_other_texts_are_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_fault(text)
    assert says in str(raised.value)
    assert f"--inject {text}" in str(raised.value)


def test_a_fault_strikes_once_when_its_time_has_come() -> None:
    faults = Faults([parse_fault("stop@5s"), parse_fault("kill-host:algo-1@2s")])
    assert faults.next_s(HOSTS, spot=False) == 2.0
    assert faults.due(1.9, HOSTS, spot=False) == []
    assert [fault.kind for fault in faults.due(2.0, HOSTS, spot=False)] == ["kill-host"]
    assert faults.due(2.0, HOSTS, spot=False) == []
    assert faults.next_s(HOSTS, spot=False) == 5.0


def test_a_fault_strikes_at_its_line() -> None:
    faults = Faults([parse_fault("stop@log:step 4")])
    assert faults.next_s(HOSTS, spot=False) == float("inf")
    assert faults.at_line("step 3", HOSTS, spot=False) == []
    assert len(faults.at_line("INFO step 4/9", HOSTS, spot=False)) == 1
    assert faults.at_line("step 4", HOSTS, spot=False) == []


def test_a_fault_waits_for_a_job_that_can_meet_it() -> None:
    faults = Faults([parse_fault("spot@0s"), parse_fault("kill-host:algo-3@0s")])
    assert faults.due(1.0, HOSTS, spot=False) == []
    assert [str(fault) for fault in faults.due(1.0, HOSTS, spot=True)] == ["spot"]
    three = (*HOSTS, "algo-3")
    assert [str(fault) for fault in faults.due(1.0, three, spot=False)] == ["kill-host:algo-3"]
