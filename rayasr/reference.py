"""The reference page of all recipe settings, made from the docstrings under the fields."""

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from rayasr.config import Recipe
from rayasr.settings import section_of


def recipe_reference() -> str:
    """Markdown: one table per section, a row per setting with type, default and meaning."""
    parts = ["# Recipe settings", "", "Made by `make docs` from `rayasr/config.py`.", ""]
    for path, section in _sections("", Recipe):
        parts += [f"## {path or 'top level'}", ""]
        parts += ["| setting | type | default | meaning |", "|---|---|---|---|"]
        for name, field in section.model_fields.items():
            if section_of(field.annotation) is not None:
                continue
            meaning = " ".join((field.description or "").split()).replace("|", "\\|")
            type_name = _type_name(field.annotation).replace("|", "\\|")
            default = "required" if field.is_required() else _default(field.default)
            parts.append(f"| `{name}` | {type_name} | {default} | {meaning} |")
        parts.append("")
    return "\n".join(parts)


def _sections(path: str, section: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """A section and all sections below it, with their dotted paths."""
    yield path, section
    for name, field in section.model_fields.items():
        inner = section_of(field.annotation)
        if inner is not None:
            yield from _sections(f"{path}.{name}".lstrip("."), inner)


def _type_name(annotation: Any) -> str:
    """`int | None` and the like, without module names."""
    if isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace("NoneType", "None")


def _default(value: Any) -> str:
    return f"`{json.dumps(value, default=str, ensure_ascii=False)}`"
