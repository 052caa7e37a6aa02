"""What EMR's API takes, by botocore's model: one check for cluster templates, doctor and emr-local.

Types and keys, and the lengths, numbers, patterns and enums that botocore's own validator leaves to the
service. The check goes on after a problem and takes values of any shape. A ``Problem`` can be told to the
author of a YAML file, or as EMR's API tells it; ``launch_rules`` adds what no model says.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

DEEPEST = 50
"""Levels of a request; EMR's own deepest are Configurations in Configurations."""
SHOWN = 60
"""Characters of a value that a message repeats."""

Place = tuple[str | int, ...]
"""Keys and list indices from a request's top."""

_JAVA_ASTRAL = r"\uD800\uDC00-\uDBFF\uDFFF"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that EMR does not take.

    words: what is wrong and what to write, as the end of a sentence that begins with the key
    api: the same as EMR's API says it
    """

    path: Place
    words: str
    api: str

    def __str__(self) -> str:
        return f"{at(self.path)} {self.words}"


def rule(path: Place, words: str, api: str | None = None) -> Problem:
    """A problem that no model says. api: where EMR's own words are another sentence."""
    return Problem(path=path, words=words, api=api or f"{at(path)} {words}")


def at(path: Sequence[str | int]) -> str:
    """``Instances.InstanceGroups[0].InstanceCount``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


@cache
def emr_model() -> Any:
    """EMR as botocore models it."""
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    return ServiceModel(Loader().load_service_model("emr", "service-2"), "emr")


def model_problems(operation: str, request: Any) -> list[Problem]:
    """What an operation's input shape does not allow, in the order of the request."""
    shape = emr_model().operation_model(operation).input_shape
    return [] if shape is None else list(_value_problems(request, shape, ()))


def _value_problems(value: Any, shape: Any, path: Place) -> Iterator[Problem]:
    if len(path) > DEEPEST:
        yield _refused(path, value, f"is nested deeper than {DEEPEST} levels.", "Member must not be nested")
        return
    kind = shape.type_name
    if (wrong := _wrong_type(value, kind)) is not None:
        yield _refused(path, value, wrong, f"Member must be of type {kind}")
    elif kind == "structure":
        yield from _structure_problems(value, shape, path)
    elif kind == "list":
        for index, entry in enumerate(value):
            yield from _value_problems(entry, shape.member, (*path, index))
    elif kind == "map":
        for key, entry in value.items():
            yield from _value_problems(key, shape.key, (*path, str(key)))
            yield from _value_problems(entry, shape.value, (*path, str(key)))
    else:
        yield from _scalar_problems(value, shape, path)


def _structure_problems(value: Any, shape: Any, path: Place) -> Iterator[Problem]:
    for key in shape.required_members:
        if key not in value:
            yield _refused((*path, key), None, "is missing.", "Member must not be null")
    for key, entry in value.items():
        if key in shape.members:
            yield from _value_problems(entry, shape.members[key], (*path, key))
            continue
        near = difflib.get_close_matches(str(key), shape.members, n=1)
        hint = f"did you mean {near[0]}?" if near else f"EMR knows {', '.join(shape.members)}."
        yield _refused((*path, str(key)), entry, f"is no key that EMR knows here; {hint}", "Unknown member")


def _scalar_problems(value: Any, shape: Any, path: Place) -> Iterator[Problem]:
    said, limits = shown(value), shape.metadata
    if shape.type_name == "string":
        if shape.enum and value not in shape.enum:
            yield _refused(
                path,
                value,
                f"is {said}: EMR takes {', '.join(shape.enum)}.",
                f"Member must satisfy enum value set: [{', '.join(shape.enum)}]",
            )
        if bad := _characters(value, limits.get("pattern")):
            yield _refused(
                path,
                value,
                f"holds {bad}, which EMR does not take.",
                f"Member must satisfy regular expression pattern: {limits['pattern']}",
            )
        size, unit, measure = len(value), " characters", "length"
    else:
        size, unit, measure = value, "", "value"
    least, most = limits.get("min"), limits.get("max")
    is_has = f"has {size} characters" if unit else f"is {said}"
    if least is not None and size < least:
        constraint = f"Member must have {measure} greater than or equal to {least}"
        yield _refused(path, value, f"{is_has}: EMR takes at least {least}{unit}.", constraint)
    if most is not None and size > most:
        constraint = f"Member must have {measure} less than or equal to {most}"
        yield _refused(path, value, f"{is_has}: EMR takes at most {most}{unit}.", constraint)


def _characters(value: str, pattern: str | None) -> str | None:
    """What of the text the pattern does not allow."""
    if pattern is None or _compiled(pattern).fullmatch(value):
        return None
    bad = next((letter for letter in value if not _compiled(pattern).fullmatch(letter)), None)
    return f"the character {bad!r}" if bad is not None else f"text unlike {pattern}"


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    # The model writes characters beyond 16 bits as Java does.
    return re.compile(pattern.replace(_JAVA_ASTRAL, "\U00010000-\U0010ffff"))


_KEYS = (dict, "it must hold keys with values")
_WHOLE = (int, "it must be a whole number, without quotes")
_NUMBER = ((int, float), "it must be a number, without quotes")
_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "structure": _KEYS,
    "map": _KEYS,
    "list": (list, "it must be a list, each entry behind a dash"),
    "string": (str, "it must be text"),
    "boolean": (bool, "it must be true or false, without quotes"),
    "integer": _WHOLE,
    "long": _WHOLE,
    "double": _NUMBER,
    "float": _NUMBER,
    "timestamp": ((int, float), "it must be a number of seconds since 1970"),
}


def _wrong_type(value: Any, kind: str) -> str | None:
    """What is wrong with a value's type, in YAML's words; kinds that are not listed are not judged."""
    if kind not in _KINDS:
        return None
    wanted, words = _KINDS[kind]
    if isinstance(value, wanted) and (kind == "boolean" or not isinstance(value, bool)):
        return None
    if value is None:
        return "has no value: give it one, or leave the key out."
    if isinstance(value, dict | list):
        return f"holds {'keys' if isinstance(value, dict) else 'a list'}: {words}."
    return f"is {shown(value)}, {_yaml_kind(value)}: {'put it in quotes' if kind == 'string' else words}."


def _yaml_kind(value: Any) -> str:
    match value:
        case bool():
            return "a truth value in YAML"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case _:
            return "a date in YAML"


def shown(value: Any) -> str:
    """A value as its author would know it again, shortened."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    return f"'{text}'" if isinstance(value, str) else text


def _refused(path: Place, value: Any, words: str, constraint: str) -> Problem:
    place = ".".join(
        f"{part + 1}.member" if isinstance(part, int) else f"{part[:1].lower()}{part[1:]}" for part in path
    )
    said = "null" if value is None else f"'{str(value)[: 4 * SHOWN]}'"
    return Problem(
        path=path, words=words, api=f"Value {said} at '{place}' failed to satisfy constraint: {constraint}"
    )
