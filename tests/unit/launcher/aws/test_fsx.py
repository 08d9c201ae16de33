"""File systems from their making to their end: moto's, and answers that moto does not have."""

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from moto import mock_aws

from launcher.aws.file_system import FileSystemOptions, Volume
from launcher.aws.fsx import FileSystems
from rayasr.errors import LaunchError

ID = "fs-01234567"
DRA = "dra-0123456789abcdef0"
TASK = "task-0123456789abcdef0"
ALL = ["NEW", "CHANGED", "DELETED"]
OPTIONS = FileSystemOptions(
    "asr", "subnet-01234567", ("sg-01234567",), Volume("PERSISTENT_2", 1200, 125)
)


class Stubbed:
    """File systems whose answers are queued; time passes without waiting."""

    def __init__(self) -> None:
        self.client = boto3.client(
            "fsx", "eu-west-1", aws_access_key_id="x", aws_secret_access_key="x"
        )
        self.stubber = Stubber(self.client)
        self.notes: list[str] = []
        self.slept: list[float] = []
        self.systems = FileSystems(self.client, self.notes.append, self.slept.append)

    def answer(self, operation: str, response: dict[str, Any], request: Any = None) -> None:
        self.stubber.add_response(operation, response, request)

    def states(self, *states: str, **fields: Any) -> None:
        """What DescribeFileSystems tells, one look after the other."""
        for state in states:
            found = {"FileSystemId": ID, "Lifecycle": state} | fields
            self.answer("describe_file_systems", {"FileSystems": [found]}, {"FileSystemIds": [ID]})

    def links(self, *links: dict[str, Any]) -> None:
        request = {"Filters": [{"Name": "file-system-id", "Values": [ID]}]}
        self.answer("describe_data_repository_associations", {"Associations": list(links)}, request)

    def link_is(self, **fields: Any) -> None:
        request = {"AssociationIds": [DRA]}
        answer = {"Associations": [link(**fields)]}
        self.answer("describe_data_repository_associations", answer, request)

    def auto_export(self, events: list[str]) -> None:
        """That automatic export is set, and in force at the next look."""
        policies = {"AutoImportPolicy": {"Events": ALL}, "AutoExportPolicy": {"Events": events}}
        request = {"AssociationId": DRA, "S3": policies}
        self.answer("update_data_repository_association", {"Association": link()}, request)
        self.link_is()

    def task_is(self, state: str, **fields: Any) -> None:
        answer = {"DataRepositoryTasks": [task(state, **fields)]}
        self.answer("describe_data_repository_tasks", answer, {"TaskIds": [TASK]})

    def running_tasks(self, *tasks: dict[str, Any]) -> None:
        filters = [
            {"Name": "file-system-id", "Values": [ID]},
            {"Name": "task-lifecycle", "Values": ["PENDING", "EXECUTING"]},
        ]
        answer = {"DataRepositoryTasks": list(tasks)}
        self.answer("describe_data_repository_tasks", answer, {"Filters": filters})

    def task_made(self, **request: Any) -> None:
        report = {
            "Enabled": True,
            "Path": "s3://bucket/data/.fsx-export-reports",
            "Format": "REPORT_CSV_20191124",
            "Scope": "FAILED_FILES_ONLY",
        }
        wanted = {"Type": "EXPORT_TO_REPOSITORY", "FileSystemId": ID, "Report": report} | request
        answer = {"DataRepositoryTask": task("PENDING")}
        self.answer("create_data_repository_task", answer, wanted)


def link(path: str = "/", state: str = "AVAILABLE", export: list[str] = ALL) -> dict[str, Any]:
    return {
        "AssociationId": DRA,
        "FileSystemPath": path,
        "DataRepositoryPath": "s3://bucket/data",
        "Lifecycle": state,
        "S3": {"AutoImportPolicy": {"Events": ALL}, "AutoExportPolicy": {"Events": export}},
    }


def task(state: str, **fields: Any) -> dict[str, Any]:
    return {
        "TaskId": TASK,
        "Lifecycle": state,
        "Type": "EXPORT_TO_REPOSITORY",
        "CreationTime": 0,
    } | fields


@pytest.fixture
def aws() -> Iterator[Stubbed]:
    stubbed = Stubbed()
    with stubbed.stubber:
        yield stubbed
    stubbed.stubber.assert_no_pending_responses()


@pytest.fixture
def moto(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileSystems]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield FileSystems(boto3.client("fsx", "eu-west-1"), lambda _: None, lambda _: None)


def test_made_found_and_deleted(moto: FileSystems) -> None:
    assert moto.find("asr") is None
    made = moto.create(OPTIONS)
    found = moto.find("asr")
    assert found is not None
    assert (found.id, found.name, found.volume) == (made.id, "asr", OPTIONS.volume)
    assert moto.find("as") is None
    moto.delete(made.id)
    assert moto.find("asr") is None


def test_waiting_tells_every_change_and_minute(aws: Stubbed) -> None:
    lustre = {"DeploymentType": "SCRATCH_2", "MountName": "abcd1234"}
    aws.states(*["CREATING"] * 6, "AVAILABLE")
    aws.states("AVAILABLE", LustreConfiguration=lustre, DNSName="fs.fsx.example.com")
    assert aws.systems.wait(ID).source == "fs.fsx.example.com@tcp:/abcd1234"
    assert aws.notes == [
        f"{ID}: CREATING, 0 min",
        f"{ID}: CREATING, 1 min",
        f"{ID}: AVAILABLE",
    ]
    assert sum(aws.slept) == 90


@pytest.mark.parametrize("state", ["FAILED", "MISCONFIGURED", "DELETING"])
def test_one_that_fails_says_why(aws: Stubbed, state: str) -> None:
    aws.states("CREATING")
    aws.states(state, FailureDetails={"Message": "no address is left"})
    with pytest.raises(LaunchError, match=f"{ID} is {state}: no address is left"):
        aws.systems.wait(ID)


def test_one_that_never_comes(aws: Stubbed) -> None:
    aws.states(*["CREATING"] * 241)
    with pytest.raises(LaunchError, match="still CREATING after 60 minutes; give the same command"):
        aws.systems.wait(ID)


def test_a_lost_connection_is_no_end(aws: Stubbed) -> None:
    for _ in range(9):
        aws.stubber.add_client_error("describe_file_systems", "InternalServerError", "oh", 500)
    aws.states("AVAILABLE", "AVAILABLE")
    aws.systems.wait(ID)
    assert "no answer (cannot find the file system" in aws.notes[0]


def test_no_answer_at_all(aws: Stubbed) -> None:
    for _ in range(10):
        aws.stubber.add_client_error("describe_file_systems", "InternalServerError", "oh", 500)
    with pytest.raises(LaunchError, match=f"cannot find the file system {ID}: oh"):
        aws.systems.wait(ID)


def test_the_link_goes_both_ways(aws: Stubbed) -> None:
    aws.links()
    request = {
        "FileSystemId": ID,
        "FileSystemPath": "/",
        "DataRepositoryPath": "s3://bucket/data",
        "BatchImportMetaDataOnCreate": True,
        "S3": {"AutoImportPolicy": {"Events": ALL}, "AutoExportPolicy": {"Events": ALL}},
    }
    answer = {"Association": link(state="CREATING")}
    aws.answer("create_data_repository_association", answer, request)
    aws.link_is(state="CREATING")
    aws.link_is()
    assert aws.systems.link(ID, "s3://bucket/data", "/").lifecycle == "AVAILABLE"


def test_a_link_that_is_there_is_taken(aws: Stubbed) -> None:
    aws.links(link(path="/data"), link())
    aws.link_is()
    assert aws.systems.link(ID, "s3://bucket/data/", "/").id == DRA


def test_a_link_without_automatic_export_gets_it(aws: Stubbed) -> None:
    aws.links(link(export=[]))
    aws.auto_export(ALL)
    aws.link_is()
    aws.systems.link(ID, "s3://bucket/data", "/")


def test_a_link_that_fails_says_why(aws: Stubbed) -> None:
    aws.links(link(state="CREATING"))
    failed = link(state="MISCONFIGURED") | {"FailureDetails": {"Message": "no right to read"}}
    answer = {"Associations": [failed]}
    aws.answer("describe_data_repository_associations", answer, {"AssociationIds": [DRA]})
    with pytest.raises(LaunchError, match="s3://bucket/data is MISCONFIGURED: no right to read"):
        aws.systems.link(ID, "s3://bucket/data", "/")


def test_export_pauses_automatic_export(aws: Stubbed) -> None:
    aws.links(link())
    aws.auto_export([])
    aws.running_tasks()
    aws.task_made()
    aws.task_is("EXECUTING", Status={"TotalCount": 10, "SucceededCount": 4})
    aws.task_is("SUCCEEDED", Status={"TotalCount": 10, "SucceededCount": 10, "FailedCount": 0})
    aws.auto_export(ALL)
    aws.systems.export(ID)
    assert "export: EXECUTING, 4 of 10 files, 0 min" in aws.notes
    assert "export: SUCCEEDED, 10 of 10 files" in aws.notes


def test_export_of_a_folder(aws: Stubbed) -> None:
    aws.links(link(path="/data", export=[]))
    aws.running_tasks()
    aws.task_made(Paths=["data"])
    aws.task_is("SUCCEEDED")
    aws.systems.export(ID)


def test_export_that_runs_already_is_waited_for(aws: Stubbed) -> None:
    aws.links(link(export=[]))
    aws.running_tasks(task("EXECUTING", Type="RELEASE_DATA_FROM_FILESYSTEM"), task("EXECUTING"))
    aws.task_is("SUCCEEDED")
    aws.systems.export(ID)


@pytest.mark.parametrize(
    ("state", "fields", "reason"),
    [
        ("SUCCEEDED", {"Status": {"FailedCount": 3, "TotalCount": 9}}, "3 files failed"),
        ("FAILED", {"FailureDetails": {"Message": "the bucket is gone"}}, "the bucket is gone"),
    ],
)
def test_export_that_fails_says_why(
    aws: Stubbed, state: str, fields: dict[str, Any], reason: str
) -> None:
    report = {"Enabled": True, "Path": "s3://bucket/data/reports"}
    aws.links(link())
    aws.auto_export([])
    aws.running_tasks()
    aws.task_made()
    aws.task_is(state, Report=report, **fields)
    aws.auto_export(ALL)
    told = f"{TASK} is {state}: {reason}; which files, is told under s3://bucket/data/reports"
    with pytest.raises(LaunchError, match=told):
        aws.systems.export(ID)


def test_export_broken_off_goes_on(aws: Stubbed) -> None:
    aws.links(link())
    aws.auto_export([])
    aws.running_tasks()
    aws.task_made()
    aws.task_is("EXECUTING")

    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    aws.systems.sleep = interrupt
    with pytest.raises(KeyboardInterrupt):
        aws.systems.export(ID)
    assert "the export goes on; `rayasr fsx export fs-01234567` waits for it" in aws.notes[-1]


def test_export_without_a_link(aws: Stubbed) -> None:
    aws.links()
    with pytest.raises(LaunchError, match=f"{ID} has no link to S3, so there is nowhere to export"):
        aws.systems.export(ID)


def test_deleting_waits_until_it_is_gone(aws: Stubbed) -> None:
    aws.answer("delete_file_system", {"FileSystemId": ID}, {"FileSystemId": ID})
    aws.states("DELETING")
    aws.stubber.add_client_error("describe_file_systems", "FileSystemNotFound")
    aws.systems.delete(ID)
    assert aws.notes == [f"{ID}: DELETING, 0 min", f"{ID}: gone"]


def test_no_right_to_delete(aws: Stubbed) -> None:
    aws.stubber.add_client_error("delete_file_system", "AccessDeniedException", "no")
    with pytest.raises(LaunchError, match=f"cannot delete the file system {ID}: no "):
        aws.systems.delete(ID)
