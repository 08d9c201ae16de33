"""Commands of Docker: what they print, and why they fail."""

from pathlib import Path

import pytest

from launcher.docker.commands import DockerCli
from rayasr.errors import LaunchError
from tests.unit.launcher.fake_docker import FakeDocker


def test_output_and_standard_input(tmp_path: Path) -> None:
    fake = FakeDocker(tmp_path, {"login": "print(' in ', file=sys.stdout)"})
    docker = DockerCli(fake.environment)
    assert docker.output("login", "--password-stdin", "$(id)", given="p:w") == "in"
    assert fake.calls == [["login", "--password-stdin", "$(id)"]]
    assert fake.given == ["p:w"]


def test_the_reason_of_a_failure_is_docker_s_own(tmp_path: Path) -> None:
    program = """\
print("docker: Error response from daemon: no such thing.\\n\\nRun 'docker run --help'",
      file=sys.stderr)
sys.exit(125)"""
    fake = FakeDocker(tmp_path, {"run": program})
    with pytest.raises(LaunchError, match=r"^docker run: no such thing\.$"):
        DockerCli(fake.environment).output("run", "x")


def test_failure_of_a_command_whose_output_was_seen(tmp_path: Path) -> None:
    fake = FakeDocker(tmp_path, {"push": "sys.exit(3)"})
    with pytest.raises(LaunchError, match="docker push ended with 3; its output above"):
        DockerCli(fake.environment).show("push", "x")


def test_silent_failure(tmp_path: Path) -> None:
    fake = FakeDocker(tmp_path, {"rm": "sys.exit(1)"})
    with pytest.raises(LaunchError, match="docker rm: failed and said nothing"):
        DockerCli(fake.environment).output("rm")


@pytest.mark.parametrize("verb", ["output", "show", "start"])
def test_no_docker(tmp_path: Path, verb: str) -> None:
    docker = DockerCli({"PATH": str(tmp_path)})
    with pytest.raises(LaunchError, match="cannot run the docker command: No such file"):
        getattr(docker, verb)("ps")


def test_standard_output_is_kept_for_results(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    docker = DockerCli(FakeDocker(tmp_path, {"": "print('told')"}).environment)
    docker.show("push")
    assert capfd.readouterr() == ("", "told\n")
    docker.show("run", is_result=True)
    assert capfd.readouterr() == ("told\n", "")
