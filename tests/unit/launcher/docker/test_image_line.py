"""The image in a job file: written there, with all else as it was."""

from pathlib import Path

import pytest

from launcher.docker.image_line import write_image
from launcher.spec import load_spec
from rayasr.errors import ConfigError

ADDRESS = "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/asr@sha256:" + "0" * 64
JOB = """\
# Training. 训练
name: train
command: [train, "image: x"]  # as ever
time_limit: 1h
sagemaker:
  role: arn:aws-cn:iam::123456789012:role/job
  image: {image}  # by digest
  output: s3://bucket/out
  instance_type: ml.g5.xlarge
"""


@pytest.mark.parametrize("before", ["rayasr:latest", '"rayasr"', "'a@sha256:1'", "''"])
def test_only_the_image_changes(tmp_path: Path, before: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB.format(image=before), encoding="utf-8")
    write_image(path, ADDRESS)
    assert path.read_text(encoding="utf-8") == JOB.format(image=ADDRESS)
    place = load_spec(path).sagemaker
    assert place is not None
    assert place.image == ADDRESS


def test_a_job_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("{name: a, sagemaker: {image: x, role: r}}")
    write_image(path, ADDRESS)
    assert path.read_text() == f"{{name: a, sagemaker: {{image: {ADDRESS}, role: r}}}}"


@pytest.mark.parametrize("text", ["name: a", "sagemaker: {role: r}", "sagemaker: x", "", "[1]"])
def test_a_job_file_without_the_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"has no sagemaker\.image to write to; add the line"):
        write_image(path, ADDRESS)
    assert path.read_text() == text


@pytest.mark.parametrize(("content", "reason"), [(b"a: [", "not valid YAML"), (b"\xff", "not val")])
def test_a_file_that_is_no_job(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=reason):
        write_image(path, ADDRESS)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*: No such file"):
        write_image(tmp_path / "job.yaml", ADDRESS)
