"""Scripts that mount a file system: on any EC2 machine, and whenever a notebook starts."""

import base64
import shlex
from typing import Any

from launcher.aws.file_system import USABLE, FileSystem
from launcher.aws.session import aws_errors, error_code
from rayasr.errors import LaunchError

MAX_NOTEBOOK_SCRIPT = 16384
"""Characters of a lifecycle script, in base64."""
NOTEBOOK_FOLDER = "/home/ec2-user/SageMaker"

_MOUNT = """\
#!/bin/bash
# Mounts {id} at {folder}; run as root. Its security group must admit this machine
# on TCP 988 and 1018-1023.
set -euo pipefail
if ! command -v mount.lustre >/dev/null; then
  if command -v amazon-linux-extras >/dev/null; then
    amazon-linux-extras install -y lustre
  elif command -v dnf >/dev/null; then
    dnf install -y lustre-client
  else
    echo "install a Lustre client of version {version} first" >&2
    exit 1
  fi
fi
mkdir -p {folder}
mountpoint -q {folder} || mount -t lustre -o relatime,flock {source} {folder}
"""
_NOTEBOOK = """\
#!/bin/bash
# Mounts {id} whenever the notebook starts. A start may take 5 minutes and fails where
# this script does, so what goes wrong is left as a note instead.
cat >/tmp/mount-fsx.sh <<'END_OF_MOUNT'
{mount}END_OF_MOUNT
note={notebook}/FSX_IS_NOT_MOUNTED.txt
if timeout 240 bash /tmp/mount-fsx.sh >/tmp/mount-fsx.log 2>&1; then
  rm -f "$note"
  ln -sfn {folder} {notebook}/fsx
else
  cp /tmp/mount-fsx.log "$note"
fi
exit 0
"""


def mount_script(file_system: FileSystem, folder: str) -> str:
    """A script that mounts it; raises LaunchError where that is not possible yet."""
    if file_system.lifecycle not in USABLE or not file_system.mount_name:
        raise LaunchError(
            f"{file_system.id} is {file_system.lifecycle} and cannot be mounted yet; look with "
            f"`rayasr fsx status {file_system.id}`"
        )
    return _MOUNT.format(
        id=file_system.id,
        folder=shlex.quote(folder),
        version=file_system.version or "2.12 or newer",
        source=shlex.quote(file_system.source),
    )


def notebook_script(file_system: FileSystem, folder: str) -> str:
    """The script of a notebook's start; raises LaunchError where it is longer than allowed."""
    script = _NOTEBOOK.format(
        id=file_system.id,
        mount=mount_script(file_system, folder),
        folder=shlex.quote(folder),
        notebook=NOTEBOOK_FOLDER,
    )
    if len(_encoded(script)) > MAX_NOTEBOOK_SCRIPT:
        raise LaunchError(
            f"the notebook's script has {len(_encoded(script))} characters in base64, but only "
            f"{MAX_NOTEBOOK_SCRIPT} are allowed; give a shorter --at"
        )
    return script


def put_notebook_config(sagemaker: Any, name: str, script: str) -> None:
    """Make the lifecycle configuration of that name, or change it; raises LaunchError."""
    content = {
        "NotebookInstanceLifecycleConfigName": name,
        "OnStart": [{"Content": _encoded(script)}],
    }
    with aws_errors(f"write the lifecycle configuration {name}"):
        if _is_there(sagemaker, name):
            sagemaker.update_notebook_instance_lifecycle_config(**content)
        else:
            sagemaker.create_notebook_instance_lifecycle_config(**content)


def _is_there(sagemaker: Any, name: str) -> bool:
    from botocore.exceptions import ClientError

    try:
        sagemaker.describe_notebook_instance_lifecycle_config(
            NotebookInstanceLifecycleConfigName=name
        )
    except ClientError as error:
        if error_code(error) not in ("ValidationException", "ResourceNotFound"):
            raise
        return False
    return True


def _encoded(script: str) -> str:
    return base64.b64encode(script.encode()).decode()
