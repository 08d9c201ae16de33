"""The training jobs of an emulator, by region and name."""

import threading
from collections.abc import Mapping
from typing import Any

from launcher.contract import TransferError
from launcher.emulator.job import Job, Site
from launcher.emulator.record import JobRecord
from launcher.emulator.rules import request_conflicts
from launcher.emulator.wire import ApiError


class Jobs:
    """Makes jobs, finds them, and ends them all."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._lock = threading.Lock()
        self._jobs: dict[tuple[str, str], Job] = {}

    def create(self, region: str, request: Mapping[str, Any]) -> Job:
        """Start a job of a request that is valid by itself; raises ApiError."""
        if problems := request_conflicts(request, self._site.file_systems):
            raise ApiError("ValidationException", "; ".join(problems))
        self._check_data(region, request)
        with self._lock:
            key = (region, request["TrainingJobName"])
            if key in self._jobs:
                raise ApiError(
                    "ResourceInUse",
                    "Job name must be unique within an AWS account and region, and a training job "
                    f"with this name already exists ({self._jobs[key].record.arn})",
                )
            job = Job(JobRecord(request, region), self._site, len(self._jobs) + 1)
            self._jobs[key] = job
        job.start()
        return job

    def find(self, region: str, name: str) -> Job:
        """A job; raises ApiError, with the code that the service really uses."""
        with self._lock:
            job = self._jobs.get((region, name))
        if job is None:
            raise ApiError("ValidationException", "Requested resource not found.")
        return job

    def of_region(self, region: str) -> list[Job]:
        """All jobs of a region."""
        with self._lock:
            return [job for (place, _), job in self._jobs.items() if place == region]

    def close(self) -> None:
        """End every job's hosts."""
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            job.abandon()

    def _check_data(self, region: str, request: Mapping[str, Any]) -> None:
        """The service looks for the inputs before it takes a job."""
        objects = self._site.objects(region)
        for channel in request.get("InputDataConfig", ()):
            source = channel["DataSource"].get("S3DataSource")
            if source is None:
                continue
            try:
                found = objects.find(source["S3Uri"])
            except TransferError as error:
                raise ApiError("ValidationException", str(error)) from error
            if not found:
                raise ApiError(
                    "ValidationException",
                    f'No S3 objects found under S3 URL "{source["S3Uri"]}" given in input data '
                    "source. Please ensure that the bucket exists in the selected region "
                    f"({region}), and that objects exist under that S3 prefix.",
                )
