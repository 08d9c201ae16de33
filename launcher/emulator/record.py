"""What Describe and List say of a training job, and how its states follow each other."""

import math
import threading
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

import botocore.session

from launcher.partition import partition_of

ACCOUNT = "123456789012"
SPOT_SHARE = 0.3
"""What spot machines are billed at, as a share of the full time."""

_MESSAGES = {
    "Starting": "Preparing the instances for training",
    "Downloading": "Downloading input data",
    "Training": "Training image download completed. Training in progress.",
    "Uploading": "Uploading generated training model",
    "Interrupted": "The spot instances were taken away; the job starts again",
    "Stopping": "Stopping the training job",
    "Completed": "Training job completed",
    "Failed": "Training job failed",
    "Stopped": "Training job stopped",
    "MaxRuntimeExceeded": "Training job runtime exceeded MaxRuntimeInSeconds",
    "MaxWaitTimeExceeded": "Training job wait time exceeded MaxWaitTimeInSeconds",
}
_FLAGS = (
    "EnableManagedSpotTraining",
    "EnableNetworkIsolation",
    "EnableInterContainerTrafficEncryption",
)
_FINAL = {
    "Completed": "Completed",
    "Failed": "Failed",
    "Stopped": "Stopped",
    "MaxRuntimeExceeded": "Stopped",
    "MaxWaitTimeExceeded": "Stopped",
}
"""Secondary status → status, of jobs that have ended."""


class JobRecord:
    """A job as clients see it; any thread may read it, one thread moves it on."""

    def __init__(self, request: Mapping[str, Any], region: str) -> None:
        self.request = request
        self.region = region
        self.name: str = request["TrainingJobName"]
        self.arn = job_arn(region, self.name)
        self.tags = {tag["Key"]: tag["Value"] for tag in request.get("Tags", ())}
        self.created = time.time()
        self._lock = threading.RLock()
        self._status = "InProgress"
        self._transitions: list[dict[str, Any]] = []
        self._changed = self.created
        self._reason: str | None = None
        self._model: str | None = None
        self._started: float | None = None
        self._ended: float | None = None
        self._attempt_start = 0.0
        self._training_s = 0.0
        self.enter("Starting")

    @property
    def spot(self) -> bool:
        """Whether it runs on machines that may be taken away."""
        return bool(self.request.get("EnableManagedSpotTraining"))

    @property
    def status(self) -> str:
        """InProgress, Stopping, Completed, Failed or Stopped."""
        return self._status

    @property
    def secondary(self) -> str:
        """What it does at the moment."""
        status: str = self._transitions[-1]["Status"]
        return status

    @property
    def has_ended(self) -> bool:
        """Whether nothing will change any more."""
        return self._status in _FINAL.values()

    def enter(self, secondary: str, reason: str | None = None) -> None:
        """Move to the next secondary status; `reason` says why a job failed."""
        with self._lock:
            now = time.time()
            if self._transitions:
                self._transitions[-1]["EndTime"] = now
            entered = {"Status": secondary, "StartTime": now, "StatusMessage": _MESSAGES[secondary]}
            if secondary in _FINAL:
                entered["EndTime"] = now
                self._status = _FINAL[secondary]
                self._reason = reason
            elif secondary == "Stopping":
                self._status = "Stopping"
            self._transitions.append(entered)
            self._changed = now

    def ask_to_stop(self) -> None:
        """Show from now on that a stop was asked for; raises ValueError after the end."""
        with self._lock:
            if self.has_ended:
                raise ValueError(self._status)
            self._status = "Stopping"

    def start_clock(self) -> None:
        """From here on the job has machines, which are billed."""
        with self._lock:
            self._attempt_start = time.time()
            if self._started is None:
                self._started = self._attempt_start

    def stop_clock(self) -> None:
        """Up to here the machines are billed."""
        with self._lock:
            self._ended = time.time()
            self._training_s += self._ended - self._attempt_start

    @property
    def training_s(self) -> float:
        """Seconds on machines in attempts that have ended."""
        return self._training_s

    def set_model(self, url: str) -> None:
        """Where the model archive was put."""
        with self._lock:
            self._model = url

    def summary(self) -> dict[str, Any]:
        """The job's line in ListTrainingJobs."""
        with self._lock:
            return self._always()

    def describe(self) -> dict[str, Any]:
        """DescribeTrainingJob."""
        with self._lock:
            answer: dict[str, Any] = dict.fromkeys(_FLAGS, False)
            answer |= {key: self.request[key] for key in _echoed() if key in self.request}
            answer |= self._always()
            answer["SecondaryStatusTransitions"] = [dict(step) for step in self._transitions]
            if self._model is not None:
                answer["ModelArtifacts"] = {"S3ModelArtifacts": self._model}
            if self._reason is not None:
                answer["FailureReason"] = self._reason
            if self._started is not None:
                answer["TrainingStartTime"] = self._started
                if self.has_ended:
                    answer |= self._bill()
            return answer

    def _always(self) -> dict[str, Any]:
        common = {
            "TrainingJobName": self.name,
            "TrainingJobArn": self.arn,
            "TrainingJobStatus": self._status,
            "SecondaryStatus": self.secondary,
            "CreationTime": self.created,
            "LastModifiedTime": self._changed,
        }
        if self.has_ended and self._ended is not None:
            common["TrainingEndTime"] = self._ended
        return common

    def _bill(self) -> dict[str, int]:
        share = SPOT_SHARE if self.spot else 1.0
        return {
            "TrainingTimeInSeconds": math.ceil(self._training_s),
            "BillableTimeInSeconds": math.ceil(self._training_s * share),
        }


def job_arn(region: str, name: str) -> str:
    """The ARN of a training job."""
    return f"arn:{partition_of(region).name}:sagemaker:{region}:{ACCOUNT}:training-job/{name}"


@cache
def _echoed() -> tuple[str, ...]:
    """The fields that Describe gives back as Create got them."""
    model = botocore.session.get_session().get_service_model("sagemaker")
    asked = model.operation_model("CreateTrainingJob").input_shape.members
    answered = model.operation_model("DescribeTrainingJob").output_shape.members
    return tuple(key for key in asked if key in answered)
