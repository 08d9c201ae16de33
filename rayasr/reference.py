"""Reference pages of settings, made from the docstrings under the fields."""

import json
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from rayasr.config import Recipe
from rayasr.settings import section_of


def recipe_reference() -> str:
    """The page of all recipe settings."""
    return settings_reference("Recipe settings", "rayasr/config.py", Recipe)


def settings_reference(title: str, source: str, model: type[BaseModel]) -> str:
    """Markdown: one table per section, a row per setting with type, default and meaning."""
    parts = [f"# {title}", "", f"Made by `make docs` from `{source}`.", ""]
    for path, section in _sections("", model):
        parts += [f"## {path or 'top level'}", ""]
        parts += ["| setting | type | default | meaning |", "|---|---|---|---|"]
        for name, field in section.model_fields.items():
            if section_of(field.annotation) is not None:
                continue
            meaning = " ".join((field.description or "").split()).replace("|", "\\|")
            type_name = _type_name(field.annotation).replace("|", "\\|")
            default = (
                "required"
                if field.is_required()
                else _default(field.get_default(call_default_factory=True))
            )
            parts.append(f"| `{name}` | {type_name} | {default} | {meaning} |")
        parts.append("")
    return "\n".join(parts)


def _sections(path: str, section: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """A section and all sections below it, with their dotted paths."""
    yield path, section
    for name, field in section.model_fields.items():
        inner = section_of(field.annotation)
        if inner is not None:
            of_each = ".NAME" if get_origin(field.annotation) is dict else ""
            yield from _sections(f"{path}.{name}{of_each}".lstrip("."), inner)


def _type_name(annotation: Any) -> str:
    """`int | None` and the like, without module names and validators."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(parts[0])
    if origin in (Union, UnionType):
        return " | ".join(_type_name(part) for part in parts)
    if origin is tuple:
        inner = ("..." if part is Ellipsis else _type_name(part) for part in parts)
        return f"tuple[{', '.join(inner)}]"
    if isinstance(annotation, type) and not parts:
        return annotation.__name__.replace("NoneType", "None")
    return str(annotation).replace("typing.", "")


def _default(value: Any) -> str:
    return f"`{json.dumps(value, default=str, ensure_ascii=False)}`"
