"""From YAML to frozen, checked settings, with a sentence for every mistake.

Recipes (`rayasr.config`) and job files (`launcher.spec`) are made of `Section`s and read by
`load_settings`.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from rayasr.errors import ConfigError

S = TypeVar("S", bound="Section")


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused, and numbers that are not finite."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


def load_settings(
    path: str | Path,
    model: type[S],
    overrides: Sequence[str] = (),
    *,
    parse: Callable[[str], Any] = yaml.safe_load,
    examples: str = "configs",
) -> S:
    """Read a YAML file of settings and apply `key.sub=value` overrides; raises ConfigError.

    `examples` is the folder whose files are named where `path` cannot be read.
    """
    values = read_mapping(path, parse=parse, examples=examples)
    for override in overrides:
        apply_override(values, override, parse)
    return check_settings(values, model, str(path))


def read_mapping(
    path: str | Path,
    *,
    parse: Callable[[str], Any] = yaml.safe_load,
    examples: str | None = None,
) -> dict[str, Any]:
    """The settings of a YAML file as they stand there; raises ConfigError.

    `examples` is a folder whose files are named where `path` cannot be read.
    """
    try:
        values = parse(Path(path).read_text(encoding="utf-8")) or {}
    except OSError as error:
        known = sorted(p.name for p in Path(examples).glob("*.yaml")) if examples else ()
        hint = f"; {examples}/ has {', '.join(known)}" if known else ""
        raise ConfigError(f"cannot read {path}: {error.strerror}{hint}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text in UTF-8; is it the right file?") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must be a mapping of settings, found {type(values).__name__}")
    return values


def flatten(values: Mapping[str, Any], sections: Sequence[str]) -> dict[str, Any]:
    """Values of some sections by dotted key; None for a section that is not there."""
    flat: dict[str, Any] = {}

    def walk(key: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                walk(f"{key}.{name}", inner)
        else:
            flat[key] = value

    for section in sections:
        walk(section, values.get(section))
    return flat


def check_settings(values: dict[str, Any], model: type[S], source: str) -> S:
    """Check plain values; raises ConfigError naming the field, and the nearest one if unknown."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, model, source)) from None


def explain(error: ValidationError, model: type[BaseModel], source: str) -> str:
    """The first problem of a validation error as one sentence."""
    # A misspelt key often also leaves a required one missing: the misspelling is the cause.
    problem = min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        *parents, wrong = (str(part) for part in problem["loc"])
        near = difflib.get_close_matches(wrong, _field_names(model, parents), n=1)
        hint = f"; did you mean '{'.'.join([*parents, near[0]])}'?" if near else ""
        return f"{source}: unknown key '{where}'{hint}"
    message = problem["msg"].removeprefix("Value error, ")
    found = "" if isinstance(problem["input"], dict) else f" (found {problem['input']!r})"
    return f"{source}: {where + ': ' if where else ''}{message}{found}"[:600]


def apply_override(
    values: dict[str, Any], override: str, parse: Callable[[str], Any] = yaml.safe_load
) -> None:
    """Set one dotted key in place; `--set train.epochs=3`; raises ConfigError."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set needs key=value, found '{override}'")
    try:
        value = parse(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}: {text!r} is not valid YAML: {error}") from error
    *parents, last = key.strip().split(".")
    node = values
    for parent in parents:
        child = node.get(parent)
        if not isinstance(child, dict):
            child = {}
        node[parent] = child
        node = child
    node[last] = value


def _field_names(model: type[BaseModel], parents: Sequence[str]) -> list[str]:
    """Names of the fields of the section that `parents` leads to; [] where it leads nowhere."""
    rest = iter(parents)
    for parent in rest:
        if parent.isdigit():
            continue
        field = model.model_fields.get(parent)
        inner = section_of(field.annotation) if field else None
        if field is None or inner is None:
            return []
        if get_origin(field.annotation) is dict:
            next(rest, None)  # the section's key in a mapping of sections
        model = inner
    return list(model.model_fields)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section class inside an annotation such as `X | None` or `tuple[X, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        if (found := section_of(part)) is not None:
            return found
    return None
