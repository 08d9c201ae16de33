"""Puts an image into a job file, leaving comments and everything else as it is."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from rayasr.errors import ConfigError


def write_image(job_file: Path, address: str) -> None:
    """Put an image into a job file, leaving all else as it is; raises ConfigError."""
    try:
        text = job_file.read_text(encoding="utf-8")
        root = yaml.compose(text, yaml.BaseLoader)
    except OSError as error:
        raise ConfigError(f"cannot read {job_file}: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{job_file} is not valid YAML: {error}") from error
    node = _entry(_entry(root, "sagemaker"), "image")
    if not isinstance(node, yaml.ScalarNode):
        raise ConfigError(f"{job_file} has no sagemaker.image to write to; add the line first")
    start, end = node.start_mark.index, node.end_mark.index
    job_file.write_text(f"{text[:start]}{address}{text[end:]}", encoding="utf-8")


def _entry(node: yaml.Node | None, key: str) -> yaml.Node | None:
    """The value of a key in a YAML mapping, with its place in the text."""
    pairs: Sequence[tuple[yaml.Node, yaml.Node]] = (
        node.value if isinstance(node, yaml.MappingNode) else ()
    )
    return next((value for name, value in pairs if name.value == key), None)
