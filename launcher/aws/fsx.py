"""FSx for Lustre file systems: made with a link to S3, watched, exported, deleted."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from launcher.aws.file_system import ALL_EVENTS, DEAD, USABLE, FileSystem, FileSystemOptions, S3Link
from launcher.aws.session import UnreachableError, aws_errors
from rayasr.errors import LaunchError

POLL_S = 15.0
HOUR_S = 3600.0
TRIES = 10
"""Looks in a row that may fail before nobody waits any longer."""


@dataclass
class FileSystems:
    """The file systems of an account in a region."""

    client: Any  # boto3's, of fsx
    notes: Callable[[str], None]
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    def get(self, file_system: str) -> FileSystem:
        """One by its id; raises LaunchError."""
        with aws_errors(f"find the file system {file_system}"):
            found = self.client.describe_file_systems(FileSystemIds=[file_system])
        return FileSystem.from_answer(found["FileSystems"][0])

    def find(self, name: str) -> FileSystem | None:
        """The one of that name which is there or on its way."""
        with aws_errors("look for file systems"):
            pages = self.client.get_paginator("describe_file_systems").paginate()
            found = [FileSystem.from_answer(one) for page in pages for one in page["FileSystems"]]
        alive = [one for one in found if one.lifecycle not in DEAD]
        return next((one for one in alive if one.name == name), None)

    def create(self, options: FileSystemOptions) -> FileSystem:
        """Ask for a new one; it is not ready yet; raises LaunchError."""
        with aws_errors(f"make the file system {options.name}"):
            made = self.client.create_file_system(**options.request)
        return FileSystem.from_answer(made["FileSystem"])

    def wait(self, file_system: str) -> FileSystem:
        """Wait until it can be mounted; raises LaunchError where it fails."""

        def look() -> tuple[bool, str]:
            now = self.get(file_system)
            if now.lifecycle not in (*USABLE, "CREATING"):
                raise LaunchError(f"{now.id} is {now.lifecycle}: {now.failure}")
            return now.lifecycle in USABLE, now.lifecycle

        self._poll(file_system, look, limit_s=HOUR_S)
        return self.get(file_system)

    def links(self, file_system: str) -> list[S3Link]:
        """Its links to S3; there are 8 at most, so one answer holds them all."""
        with aws_errors(f"look for the S3 links of {file_system}"):
            found = self.client.describe_data_repository_associations(
                Filters=[{"Name": "file-system-id", "Values": [file_system]}]
            )
        links = [S3Link.from_answer(one) for one in found["Associations"]]
        return [link for link in links if link.lifecycle not in DEAD]

    def link(self, file_system: str, s3: str, path: str) -> S3Link:
        """Mirror an S3 prefix in a folder, both ways, unless it is so already."""
        for link in self.links(file_system):
            if link.path.rstrip("/") == path.rstrip("/") and link.s3 == s3.rstrip("/"):
                if link.auto_export != ALL_EVENTS:
                    self._set_auto_export(link, ALL_EVENTS)
                return self._wait_for_link(link)
        with aws_errors(f"link {file_system} with {s3}"):
            made = self.client.create_data_repository_association(
                FileSystemId=file_system,
                FileSystemPath=path,
                DataRepositoryPath=s3,
                BatchImportMetaDataOnCreate=True,
                S3={
                    "AutoImportPolicy": {"Events": list(ALL_EVENTS)},
                    "AutoExportPolicy": {"Events": list(ALL_EVENTS)},
                },
            )
        return self._wait_for_link(S3Link.from_answer(made["Association"]))

    def export(self, file_system: str) -> None:
        """Write what is new to S3, and wait for it; raises LaunchError where a file fails."""
        links = self.links(file_system)
        if not links:
            raise LaunchError(f"{file_system} has no link to S3, so there is nowhere to export to")
        with self._no_automatic_export(file_system, links):
            self._wait_for_task(self._export_task(file_system, links))

    def delete(self, file_system: str) -> None:
        """Delete it with all that is in it, and wait until it is gone; raises LaunchError."""
        with aws_errors(f"delete the file system {file_system}"):
            self.client.delete_file_system(FileSystemId=file_system)

        def look() -> tuple[bool, str]:
            with aws_errors(f"look after the file system {file_system}"):
                try:
                    found = self.client.describe_file_systems(FileSystemIds=[file_system])
                except self.client.exceptions.FileSystemNotFound:
                    return True, "gone"
            return not found["FileSystems"], "DELETING"

        self._poll(file_system, look, limit_s=HOUR_S)

    @contextmanager
    def _no_automatic_export(self, file_system: str, links: Sequence[S3Link]) -> Iterator[None]:
        """Switch it off for the while of an export task: AWS does not run both."""
        paused = [link for link in links if link.auto_export]
        for link in paused:
            self._set_auto_export(link, ())
        try:
            yield
        except KeyboardInterrupt:
            self.notes(
                f"the export goes on; `rayasr fsx export {file_system}` waits for it again. "
                "Automatic export stays off: `rayasr fsx create` with the same options switches "
                "it on"
            )
            raise
        except LaunchError:
            for link in paused:
                self._set_auto_export(link, link.auto_export)
            raise
        for link in paused:
            self._set_auto_export(link, link.auto_export)

    def _set_auto_export(self, link: S3Link, events: Sequence[str]) -> None:
        with aws_errors(f"change the link {link.id}"):
            self.client.update_data_repository_association(
                AssociationId=link.id,
                S3={
                    "AutoImportPolicy": {"Events": list(link.auto_import)},
                    "AutoExportPolicy": {"Events": list(events)},
                },
            )
        self._wait_for_link(link)

    def _wait_for_link(self, link: S3Link) -> S3Link:
        now = link

        def look() -> tuple[bool, str]:
            nonlocal now
            with aws_errors(f"look at the link {link.id}"):
                found = self.client.describe_data_repository_associations(AssociationIds=[link.id])
            now = S3Link.from_answer(found["Associations"][0])
            if now.lifecycle in (*DEAD, "MISCONFIGURED"):
                raise LaunchError(f"the link with {now.s3} is {now.lifecycle}: {now.failure}")
            return now.lifecycle == "AVAILABLE", now.lifecycle

        self._poll(f"link with {link.s3}", look, limit_s=6 * HOUR_S)
        return now

    def _export_task(self, file_system: str, links: Sequence[S3Link]) -> str:
        """The task that exports: one that runs already, or a new one."""
        with aws_errors(f"export {file_system}"):
            running = self.client.describe_data_repository_tasks(
                Filters=[
                    {"Name": "file-system-id", "Values": [file_system]},
                    {"Name": "task-lifecycle", "Values": ["PENDING", "EXECUTING"]},
                ]
            )["DataRepositoryTasks"]
            for task in running:
                if task["Type"] == "EXPORT_TO_REPOSITORY":
                    return str(task["TaskId"])
            paths = [link.path.strip("/") for link in links]
            made = self.client.create_data_repository_task(
                Type="EXPORT_TO_REPOSITORY",
                FileSystemId=file_system,
                Report={
                    "Enabled": True,
                    "Path": f"{links[0].s3}/.fsx-export-reports",
                    "Format": "REPORT_CSV_20191124",
                    "Scope": "FAILED_FILES_ONLY",
                },
                **({"Paths": paths} if all(paths) else {}),  # default: the whole file system
            )
        return str(made["DataRepositoryTask"]["TaskId"])

    def _wait_for_task(self, task_id: str) -> None:
        def look() -> tuple[bool, str]:
            with aws_errors(f"look at the task {task_id}"):
                found = self.client.describe_data_repository_tasks(TaskIds=[task_id])
            task = found["DataRepositoryTasks"][0]
            state, counts = task["Lifecycle"], task.get("Status", {})
            failed = counts.get("FailedCount", 0)
            if state in ("FAILED", "CANCELED") or (state == "SUCCEEDED" and failed):
                why = task.get("FailureDetails", {}).get("Message") or f"{failed} files failed"
                raise LaunchError(
                    f"the export {task_id} is {state}: {why}; which files, is told under "
                    f"{task.get('Report', {}).get('Path', 'the link in S3')}"
                )
            progress = f"{counts.get('SucceededCount', 0)} of {counts.get('TotalCount', 0)} files"
            return state == "SUCCEEDED", f"{state}, {progress}"

        self._poll("export", look, limit_s=24 * HOUR_S)

    def _poll(self, what: str, look: Callable[[], tuple[bool, str]], limit_s: float) -> None:
        """Look until it is done, telling what changes, at least each minute."""
        told, waited_s, failures = "", 0.0, 0
        while True:
            try:
                done, state = look()
                failures = 0
            except UnreachableError as error:
                done, state = False, f"no answer ({error})"
                failures += 1
                if failures == TRIES:
                    raise
            line = f"{what}: {state}" + ("" if done else f", {waited_s // 60:.0f} min")
            if line != told:
                self.notes(line)
                told = line
            if done:
                return
            if waited_s >= limit_s:
                raise LaunchError(
                    f"{what} is still {state} after {waited_s / 60:.0f} minutes; give the same "
                    "command again to go on waiting"
                )
            self.sleep(POLL_S)
            waited_s += POLL_S
