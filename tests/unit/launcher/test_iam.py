"""The rights in configs/iam: enough for every call of the code, each one explained."""

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from botocore import xform_name
from botocore.loaders import Loader

ROOT = Path(__file__).parents[3]
IAM = ROOT / "configs" / "iam"
SERVICES = ("sagemaker", "logs", "s3", "ec2", "iam", "ecr", "fsx", "efs", "kms", "sts")
PREFIXES = {"efs": "elasticfilesystem"}
"""IAM's name of a service, where it is another than boto3's."""
S3_ACTIONS = {
    "HeadBucket": "s3:ListBucket",
    "ListObjectsV2": "s3:ListBucket",
    "HeadObject": "s3:GetObject",
}
FREE = {"sts:GetCallerIdentity"}
"""Calls that need no right."""
BEYOND_CALLS = {
    "iam:PassRole": "CreateTrainingJob",
    "sagemaker:AddTags": "CreateTrainingJob with tags",
    "s3:GetObject": "the user fetches the model",
    "ecr:BatchCheckLayerAvailability": "docker push",
    "ecr:InitiateLayerUpload": "docker push",
    "ecr:UploadLayerPart": "docker push",
    "ecr:CompleteLayerUpload": "docker push",
    "ecr:PutImage": "docker push",
    "fsx:TagResource": "CreateFileSystem with tags",
    "iam:CreateServiceLinkedRole": "CreateFileSystem",
    "iam:AttachRolePolicy": "CreateDataRepositoryAssociation",
    "iam:PutRolePolicy": "CreateDataRepositoryAssociation",
}
"""Rights of the submitter that another call needs, by what needs it."""
MAX_POLICY = 6144
"""Characters of a managed policy that AWS takes, white space not counted."""


@cache
def operations(service: str) -> dict[str, str]:
    """boto3's method → the API's operation."""
    model = Loader().load_service_model(service, "service-2")
    return {xform_name(name): name for name in model["operations"]}


def calls_of(path: Path) -> Iterator[tuple[str, str]]:
    """(service, operation) of every call of boto3 in a file; by name too, as paginators get it."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    words = {node.value for node in nodes if isinstance(node, ast.Constant)}
    words |= {node.arg for node in nodes if isinstance(node, ast.arg)} | {path.stem}
    of_file = [service for service in SERVICES if service in words]
    for node in nodes:
        if isinstance(node, ast.Attribute):
            method, receiver = node.attr, ast.unparse(node.value).rpartition(".")[2]
        elif isinstance(node, ast.Constant):
            method, receiver = node.value, ""
        else:
            continue
        for service in [receiver] if receiver in SERVICES else of_file:
            if method in operations(service):
                yield service, operations(service)[method]


def action(service: str, operation: str) -> str:
    if service == "s3":
        return S3_ACTIONS.get(operation, f"s3:{operation}")
    return f"{PREFIXES.get(service, service)}:{operation}"


def allowed_by(document: str) -> set[str]:
    statements = json.loads((IAM / document).read_text(encoding="utf-8"))["Statement"]
    listed = [statement["Action"] for statement in statements]
    return {name for names in listed for name in ([names] if isinstance(names, str) else names)}


def explained_under(title: str) -> set[str]:
    """The actions in the table of a section of the README."""
    page = (IAM / "README.md").read_text(encoding="utf-8")
    section = page.partition(f"## {title}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(\w+:\w+)` \| \S", section, re.MULTILINE))


@pytest.fixture(scope="module")
def made_by_code() -> dict[str, str]:
    """Action → a file that makes the call."""
    files = sorted((ROOT / "launcher").rglob("*.py"))
    files = [path for path in files if path.parent.name != "emulator"]  # which asks nobody
    return {action(*call): path.name for path in files for call in calls_of(path)}


def test_the_scan_sees_calls_of_every_kind(made_by_code: dict[str, str]) -> None:
    assert made_by_code["sagemaker:CreateTrainingJob"] == "sagemaker.py"
    assert made_by_code["logs:DescribeLogStreams"] == "logs.py"  # by a paginator
    assert made_by_code["fsx:CreateFileSystem"] == "fsx.py"  # by self.client
    assert made_by_code["s3:ListBucket"] == "gather.py"
    assert len(made_by_code) > 25


def test_every_call_is_allowed(made_by_code: dict[str, str]) -> None:
    missing = set(made_by_code) - allowed_by("submitter.json") - FREE
    assert not missing, {name: made_by_code[name] for name in missing}


def test_nothing_more_is_allowed(made_by_code: dict[str, str]) -> None:
    assert allowed_by("submitter.json") == (set(made_by_code) - FREE) | set(BEYOND_CALLS)


@pytest.mark.parametrize(
    ("document", "title"), [("submitter.json", "Submitter"), ("job-role.json", "Job role")]
)
def test_every_action_is_explained(document: str, title: str) -> None:
    assert explained_under(title) == allowed_by(document)


@pytest.mark.parametrize("document", sorted(IAM.glob("*.json")), ids=lambda path: path.stem)
def test_documents_are_ones_that_aws_takes(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    policy = json.loads(text)
    assert policy["Version"] == "2012-10-17"
    assert len("".join(text.split())) <= MAX_POLICY
    assert all("*" not in str(statement["Action"]) for statement in policy["Statement"])


def test_a_role_goes_to_sagemaker_only() -> None:
    statements = json.loads((IAM / "submitter.json").read_text())["Statement"]
    (passing,) = [s for s in statements if s["Action"] == "iam:PassRole"]
    assert passing["Resource"] != "*"
    assert passing["Condition"] == {
        "StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}
    }
