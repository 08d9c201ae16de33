"""Checks a request against botocore's model of the service, offline.

botocore itself looks at required fields, types and minima only; maxima, patterns and enums stand in
its model too, and are what the service would refuse a request for.
"""

import datetime
import difflib
import math
import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any

_TYPES: Mapping[str, tuple[type, ...]] = {
    "structure": (Mapping,),
    "map": (Mapping,),
    "list": (list, tuple),
    "string": (str,),
    "character": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "blob": (bytes, bytearray, str),
    "timestamp": (datetime.datetime, str, int, float),
}
_MAX_INT = 2**31 - 1
_COUNTED = {"string": "characters", "list": "items", "map": "entries"}
_POSIX_CLASSES = {"Alnum": "a-zA-Z0-9", "Alpha": "a-zA-Z", "Digit": "0-9", "ASCII": r"\x00-\x7f"}


def request_problems(
    request: Mapping[str, Any], operation: str = "CreateTrainingJob", service: str = "sagemaker"
) -> list[str]:
    """What the service would refuse, each with the field's path; [] for a sound request."""
    shape = _service_model(service).operation_model(operation).input_shape
    return list(_problems(request, shape, ""))


def python_pattern(pattern: str) -> str:
    r"""A Java pattern for Python, which has no `\p{L}`; AWS writes those inside brackets only."""
    return re.sub(r"\\p\{(?:Is)?(\w+)\}", lambda match: _characters(match[1]), pattern)


def _problems(value: Any, shape: Any, path: str) -> Iterator[str]:
    """The problems of one value and of all that is inside it."""
    kind = shape.type_name
    if not _has_type(value, kind):
        yield f"{path or 'the request'}: must be of type {kind}, found {type(value).__name__}"
        return
    yield from _size_problems(value, shape, path)
    if kind == "string":
        yield from _text_problems(value, shape, path)
    elif kind == "list":
        for index, item in enumerate(value):
            yield from _problems(item, shape.member, f"{path}[{index}]")
    elif kind == "map":
        for key, item in value.items():
            yield from _problems(key, shape.key, f"{path} (name {_shown(key)})")
            yield from _problems(item, shape.value, f"{path}.{key}")
    elif kind == "structure" and not shape.is_document_type:
        yield from _structure_problems(value, shape, path)


def _structure_problems(value: Mapping[str, Any], shape: Any, path: str) -> Iterator[str]:
    dot = f"{path}." if path else ""
    for name in shape.required_members:
        if name not in value:
            yield f"{dot}{name}: is required"
    for name, item in value.items():
        if name not in shape.members:
            yield f"{dot}{name}: is unknown"
        else:
            yield from _problems(item, shape.members[name], f"{dot}{name}")


def _size_problems(value: Any, shape: Any, path: str) -> Iterator[str]:
    """Lengths of texts, lists and maps; values of numbers."""
    counted = _COUNTED.get(shape.type_name)
    if counted is None and (not isinstance(value, int | float) or isinstance(value, bool)):
        return
    size = len(value) if counted else value
    unit = f" {counted}" if counted else ""
    least = shape.metadata.get("min", -math.inf)
    most = shape.metadata.get("max", _MAX_INT if shape.type_name == "integer" else math.inf)
    if size < least:
        yield f"{path}: has {size}{unit}, fewer than {least}"
    if size > most:
        yield f"{path}: has {size}{unit}, more than {most}"


def _text_problems(value: str, shape: Any, path: str) -> Iterator[str]:
    if shape.enum and value not in shape.enum:
        near = difflib.get_close_matches(value, shape.enum, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        yield f"{path}: {_shown(value)} is none of its {len(shape.enum)} values{hint}"
    pattern = shape.metadata.get("pattern")
    # A text that is too long is a problem already, and patterns may take long over it.
    if pattern is None or len(value) > shape.metadata.get("max", sys.maxsize):
        return
    if not _compiled(pattern).fullmatch(value):
        yield f"{path}: {_shown(value)} does not match {pattern}"


def _has_type(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES[kind])


def _shown(value: Any) -> str:
    text = str(value)
    return repr(text if len(text) <= 60 else text[:60] + "…")


@lru_cache
def _service_model(service: str) -> Any:
    from botocore.loaders import Loader  # late: --help never loads botocore
    from botocore.model import ServiceModel

    return ServiceModel(Loader().load_service_model(service, "service-2"))


@lru_cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(python_pattern(pattern))


def _characters(name: str) -> str:
    """The inside of a bracket expression for a Java character class, such as `L`, letters."""
    return _POSIX_CLASSES.get(name) or _categories()[name]


@lru_cache
def _categories() -> Mapping[str, str]:
    """Unicode's main categories (L, N, Z, …) as ranges of a bracket expression."""
    names = [unicodedata.category(chr(code))[0] for code in range(sys.maxunicode + 1)]
    borders = [0, *(i for i in range(1, len(names)) if names[i] != names[i - 1]), len(names)]
    ranges: dict[str, str] = {}
    for start, end in pairwise(borders):
        ranges[names[start]] = ranges.get(names[start], "") + rf"\U{start:08x}-\U{end - 1:08x}"
    return ranges
