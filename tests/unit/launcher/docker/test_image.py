"""The image: how it is built, looked at and brought to ECR (moto's)."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from launcher.docker.commands import DockerCli
from launcher.docker.image import BuildOptions, build_image, check_image, image_layers, push_image
from rayasr.errors import ConfigError, LaunchError
from tests.unit.launcher.fake_docker import FakeDocker

FACTS = json.dumps({"torch": "2.13.0+cu126", "cuda": "12.6", "arch_list": "sm_70 sm_80"})
ADDRESS = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/asr"
DIGEST = f"{ADDRESS}@sha256:{'0' * 64}"
PUSHES = {
    "images": "print('sha256:0')",
    "inspect": f"print({json.dumps(['other@sha256:1', DIGEST])!r})",
}


@pytest.fixture
def ecr(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield boto3.client("ecr", "eu-west-1")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "docker").mkdir(parents=True)
    (folder / "docker/Dockerfile").write_text("FROM x\n")
    (folder / "pyproject.toml").write_text('[project]\nname = "rayasr"\nversion = "1.2"\n')
    return folder


def test_labels_say_what_torch_was_built_for(tmp_path: Path, checkout: Path) -> None:
    fake = FakeDocker(tmp_path, {"run": f"print({FACTS!r})"})
    options = BuildOptions("asr:1", "debian", ("PIP_NO_INDEX=1",), network="host")
    build_image(DockerCli(fake.environment), checkout, options)
    dependencies, facts, image = fake.calls
    common = ["build", "--file", "docker/Dockerfile", "--platform", "linux/amd64"]
    common += ["--network", "host", "--build-arg", "BASE=debian", "--build-arg", "PIP_NO_INDEX=1"]
    assert dependencies == [*common, "--target", "build", "--tag", "rayasr-dependencies", "."]
    assert facts[-2:] == ["rayasr-dependencies", "/opt/rayasr/torch.json"]
    labels = ["TORCH=2.13.0+cu126", "CUDA=12.6", "ARCH_LIST=sm_70 sm_80", "VERSION=1.2"]
    flags = [part for label in labels for part in ("--build-arg", label)]
    assert image == [*common, *flags, "--tag", "asr:1", "."]


def test_the_dockerfile_has_what_the_build_names() -> None:
    text = Path("docker/Dockerfile").read_text(encoding="utf-8")
    for name in ("BASE", "TORCH", "CUDA", "ARCH_LIST", "VERSION", "LOCAL", "PIP_NO_INDEX"):
        assert f"\nARG {name}" in text
    for label in ("torch", "cuda", "arch_list", "version"):
        assert f'rayasr.{label}="${{{label.upper()}}}"' in text
    assert "AS build\n" in text
    assert '\nENTRYPOINT ["train"]\n' in text


def test_the_engine_is_sent_what_the_dockerfile_copies() -> None:
    lines = Path("docker/Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--" not in line]
    names = {name.replace("${LOCAL}/", "docker/local") for names in copied for name in names}
    sent = Path(".dockerignore").read_text(encoding="utf-8").splitlines()
    assert names == {line.removeprefix("!") for line in sent if line.startswith("!")}
    assert all(Path(name).exists() for name in names)


def test_a_build_outside_of_a_checkout(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no docker/Dockerfile in .*; run this in a"):
        build_image(DockerCli({}), tmp_path, BuildOptions())


def test_layers_are_sorted_by_size(tmp_path: Path) -> None:
    lines = [
        {"Size": "10", "CreatedBy": "COPY code", "ID": "1"},
        {"Size": "0", "CreatedBy": "ENTRYPOINT", "ID": "2"},
        {"Size": "3000000000", "CreatedBy": "COPY torch", "ID": "3"},
    ]
    fake = FakeDocker(tmp_path, {"history": f"[print(x) for x in {list(map(json.dumps, lines))}]"})
    layers = image_layers(DockerCli(fake.environment), "rayasr")
    assert [(layer.size, layer.created_by) for layer in layers] == [
        (3000000000, "COPY torch"),
        (10, "COPY code"),
    ]


def test_check_runs_the_self_test_without_a_network(tmp_path: Path) -> None:
    answers = {"images": "print('sha256:0')", "info": "print('{\"runc\": {}}')"}
    fake = FakeDocker(tmp_path, answers)
    check_image(DockerCli(fake.environment), "asr:1")
    command = ["run", "--rm", "--network", "none", "--entrypoint", "python"]
    assert fake.calls[-1] == [*command, "asr:1", "-m", "launcher.docker.image_check"]


def test_check_gives_the_image_the_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.docker.image.num_gpus", lambda _docker: 4)
    fake = FakeDocker(tmp_path, {"images": "print('sha256:0')"})
    check_image(DockerCli(fake.environment), "asr")
    assert fake.calls[-1][6:8] == ["--gpus", "all"]


def test_a_failed_self_test(tmp_path: Path) -> None:
    answers = {"images": "print('sha256:0')", "info": "print('{}')", "run": "sys.exit(1)"}
    with pytest.raises(LaunchError, match="docker run ended with 1"):
        check_image(DockerCli(FakeDocker(tmp_path, answers).environment), "asr")


def test_push_gives_the_digest(tmp_path: Path, ecr: Any) -> None:
    fake = FakeDocker(tmp_path, PUSHES)
    found = push_image(DockerCli(fake.environment), ecr, "asr:1", "asr", "v1", create=True)
    assert found == DIGEST
    assert ["tag", "asr:1", f"{ADDRESS}:v1"] in fake.calls
    assert ["push", f"{ADDRESS}:v1"] in fake.calls
    login = next(call for call in fake.calls if call[0] == "login")
    assert login == ["login", "--username", "AWS", "--password-stdin", ADDRESS.partition("/")[0]]
    token = ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    assert fake.given == [base64.b64decode(token).decode().removeprefix("AWS:")]
    assert not [call for call in fake.calls if fake.given[0] in call]


def test_a_password_with_the_letters_of_the_user(tmp_path: Path) -> None:
    class Ecr:
        def describe_repositories(self, **_: object) -> dict[str, Any]:
            return {"repositories": [{"repositoryUri": ADDRESS}]}

        def get_authorization_token(self) -> dict[str, Any]:
            token = base64.b64encode(b"AWS:SAW:WAS").decode()
            return {"authorizationData": [{"authorizationToken": token}]}

        class exceptions:  # noqa: N801
            RepositoryNotFoundException = KeyError

    fake = FakeDocker(tmp_path, PUSHES)
    push_image(DockerCli(fake.environment), Ecr(), "asr", "asr", "v1", create=False)
    assert fake.given == ["SAW:WAS"]


def test_a_repository_is_made_only_when_asked(tmp_path: Path, ecr: Any) -> None:
    fake = FakeDocker(tmp_path, PUSHES)
    with pytest.raises(LaunchError, match="no repository 'asr' in ECR of eu-west-1; give --create"):
        push_image(DockerCli(fake.environment), ecr, "asr", "asr", "v1", create=False)
    assert ecr.describe_repositories()["repositories"] == []
    assert [call[0] for call in fake.calls] == ["images"]


def test_a_repository_that_is_there_is_taken(tmp_path: Path, ecr: Any) -> None:
    ecr.create_repository(repositoryName="asr")
    fake = FakeDocker(tmp_path, PUSHES)
    assert push_image(DockerCli(fake.environment), ecr, "asr", "asr", "v1", create=True) == DIGEST


def test_a_repository_name_that_ecr_refuses(tmp_path: Path, ecr: Any) -> None:
    fake = FakeDocker(tmp_path, PUSHES)
    with pytest.raises(LaunchError, match=r"cannot .* the repository 'ASR' in ECR: "):
        push_image(DockerCli(fake.environment), ecr, "asr", "ASR", "v1", create=True)


def test_an_image_that_is_not_here(tmp_path: Path, ecr: Any) -> None:
    fake = FakeDocker(tmp_path, {})
    with pytest.raises(LaunchError, match="there is no image 'asr' here; run `rayasr image build`"):
        push_image(DockerCli(fake.environment), ecr, "asr", "asr", "v1", create=True)


def test_a_push_of_which_no_digest_is_known(tmp_path: Path, ecr: Any) -> None:
    fake = FakeDocker(tmp_path, PUSHES | {"inspect": "print('null')"})
    with pytest.raises(LaunchError, match="was pushed, but Docker tells no digest"):
        push_image(DockerCli(fake.environment), ecr, "asr", "asr", "v1", create=True)
