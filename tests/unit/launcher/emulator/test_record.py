"""What is told of a job's time and money."""

from typing import Any

import pytest

from launcher.emulator import record
from launcher.emulator.record import JobRecord
from rayasr.errors import ConfigError
from tests.rehearsal import request


class Clock:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(record, "time", clock)
    return clock


def after_two_attempts(clock: Clock, **fields: Any) -> dict[str, Any]:
    """A job that ran 100 s and 50.5 s, 1000 s apart."""
    job = JobRecord(request("job") | fields, "eu-central-1")
    for seconds in (100.0, 50.5):
        clock.now += 1000
        job.start_clock()
        clock.now += seconds
        job.stop_clock()
    job.enter("Completed")
    return job.describe()


def test_waiting_is_not_billed(clock: Clock) -> None:
    job = after_two_attempts(clock)
    assert job["TrainingTimeInSeconds"] == job["BillableTimeInSeconds"] == 151
    assert (job["TrainingStartTime"], job["TrainingEndTime"]) == (2000.0, 3150.5)


def test_spot_is_billed_at_a_share(clock: Clock) -> None:
    job = after_two_attempts(clock, EnableManagedSpotTraining=True)
    assert job["TrainingTimeInSeconds"] == 151
    assert job["BillableTimeInSeconds"] == 46


def test_a_running_job_has_no_end(clock: Clock) -> None:
    job = JobRecord(request("job"), "eu-central-1")
    job.start_clock()
    job.stop_clock()
    assert not {"TrainingEndTime", "TrainingTimeInSeconds"} & job.describe().keys()
    assert "TrainingEndTime" not in job.summary()
    job.enter("Training")
    clock.now += 1
    first, second = job.describe()["SecondaryStatusTransitions"]
    assert first["EndTime"] == second["StartTime"]
    assert "EndTime" not in second


def test_a_region_must_exist() -> None:
    with pytest.raises(ConfigError, match="no AWS region"):
        JobRecord(request("job"), "nowhere-1")
