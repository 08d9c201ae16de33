"""The operations of SageMaker and CloudWatch Logs that training jobs need."""

from collections.abc import Callable, Mapping
from typing import Any

from launcher.aws.logs import LOG_GROUP
from launcher.aws.request_check import request_problems
from launcher.contract import FileSystem
from launcher.emulator.job import Job
from launcher.emulator.jobs import Jobs
from launcher.emulator.logs import LogStore
from launcher.emulator.wire import ApiError

_LIST_LIMIT = 10
_MODELS = {
    "SageMaker": "sagemaker",
    "Logs_20140328": "logs",
    "AWSSimbaAPIService_v20180301": "fsx",
}
"""How a service calls itself on the wire → botocore's name."""
_SORT_FIELDS = {
    None: "CreationTime",
    "CreationTime": "CreationTime",
    "Name": "TrainingJobName",
    "Status": "TrainingJobStatus",
}


class Api:
    """Answers what is about training jobs and their logs; all else is for moto."""

    def __init__(self, jobs: Jobs, logs: LogStore, file_systems: Mapping[str, FileSystem]) -> None:
        self._jobs = jobs
        self._file_systems = file_systems
        self._operations: dict[str, Callable[[str, Mapping[str, Any]], dict[str, Any]]] = {
            "SageMaker.CreateTrainingJob": self._create,
            "SageMaker.DescribeTrainingJob": self._describe,
            "SageMaker.ListTrainingJobs": self._list,
            "SageMaker.StopTrainingJob": self._stop,
            "SageMaker.AddTags": self._add_tags,
            "SageMaker.ListTags": self._list_tags,
            "Logs_20140328.DescribeLogStreams": logs.describe_streams,
            "Logs_20140328.GetLogEvents": logs.get_events,
            "AWSSimbaAPIService_v20180301.DescribeFileSystems": self._describe_file_systems,
        }

    def knows(self, target: str) -> bool:
        """Whether a request may be about training jobs."""
        return target in self._operations

    def answer(self, target: str, region: str, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """The answer to a request, None where it is not about training jobs; raises ApiError."""
        if not self._is_ours(target, request):
            return None
        service, _, name = target.partition(".")
        if problems := request_problems(request, name, _MODELS[service]):
            raise ApiError("ValidationException", "; ".join(problems))
        return self._operations[target](region, request)

    def _create(self, region: str, request: Mapping[str, Any]) -> dict[str, Any]:
        return {"TrainingJobArn": self._jobs.create(region, request).record.arn}

    def _describe(self, region: str, request: Mapping[str, Any]) -> dict[str, Any]:
        return self._find(region, request).record.describe()

    def _stop(self, region: str, request: Mapping[str, Any]) -> dict[str, Any]:
        job = self._find(region, request)
        try:
            job.record.ask_to_stop()
        except ValueError as error:
            raise ApiError(
                "ValidationException",
                f"The request was rejected because the training job is in status {error}.",
            ) from error
        job.stop()
        return {}

    def _list(self, region: str, request: Mapping[str, Any]) -> dict[str, Any]:
        jobs = [job.record.summary() for job in self._jobs.of_region(region)]
        jobs = [job for job in jobs if _is_wanted(job, request)]
        field = _SORT_FIELDS[request.get("SortBy")]
        jobs.sort(key=lambda job: job[field], reverse=request.get("SortOrder") == "Descending")
        token = request.get("NextToken", "0")
        if not token.isdecimal():
            raise ApiError("ValidationException", "NextToken is invalid")
        start = int(token)
        end = start + request.get("MaxResults", _LIST_LIMIT)
        answer: dict[str, Any] = {"TrainingJobSummaries": jobs[start:end]}
        if end < len(jobs):
            answer["NextToken"] = str(end)
        return answer

    def _add_tags(self, region: str, request: Mapping[str, Any]) -> dict[str, Any]:
        record = self._of_arn(region, request).record
        record.tags |= {tag["Key"]: tag["Value"] for tag in request["Tags"]}
        return {"Tags": _tags(record.tags)}

    def _list_tags(self, region: str, request: Mapping[str, Any]) -> dict[str, Any]:
        return {"Tags": _tags(self._of_arn(region, request).record.tags)}

    def _describe_file_systems(self, _: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """FSx file systems that are served here, with what moto leaves out of its answers."""
        return {
            "FileSystems": [
                {
                    "FileSystemId": identity,
                    "FileSystemType": "LUSTRE",
                    "Lifecycle": "AVAILABLE",
                    "SubnetIds": [],
                    "LustreConfiguration": {"MountName": self._file_systems[identity].mount_name},
                }
                for identity in request["FileSystemIds"]
            ]
        }

    def _is_ours(self, target: str, request: Mapping[str, Any]) -> bool:
        """Whether an operation that other things have too is about training jobs."""
        if target.startswith("Logs_"):
            return request.get("logGroupName") == LOG_GROUP
        if target.endswith(".DescribeFileSystems"):
            wanted = request.get("FileSystemIds") or ["all of them"]
            return set(wanted) <= self._file_systems.keys()
        return "Tags" not in target or ":training-job/" in str(request.get("ResourceArn"))

    def _find(self, region: str, request: Mapping[str, Any]) -> Job:
        return self._jobs.find(region, request["TrainingJobName"])

    def _of_arn(self, region: str, request: Mapping[str, Any]) -> Job:
        return self._jobs.find(region, request["ResourceArn"].rpartition("/")[2])


def _is_wanted(job: Mapping[str, Any], request: Mapping[str, Any]) -> bool:
    """Whether a job passes the filters of ListTrainingJobs."""
    infinite = float("inf")
    return (
        request.get("NameContains", "") in job["TrainingJobName"]
        and request.get("StatusEquals", job["TrainingJobStatus"]) == job["TrainingJobStatus"]
        and request.get("CreationTimeAfter", 0) <= job["CreationTime"]
        and job["CreationTime"] <= request.get("CreationTimeBefore", infinite)
        and request.get("LastModifiedTimeAfter", 0) <= job["LastModifiedTime"]
        and job["LastModifiedTime"] <= request.get("LastModifiedTimeBefore", infinite)
    )


def _tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]
