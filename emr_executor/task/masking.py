"""What Airflow's SDK secrets masker of this process knows, asked before anything leaves the host."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from airflow.sdk._shared.secrets_masker import _secrets_masker, redact, should_hide_value_for_key
from airflow.sdk.execution_time import context

from emr_executor.errors import SecretInStep
from emr_executor.task.translators import StepParts

_EVERYDAY = re.compile(r"[A-Za-z]?[a-z]{0,11}")
"""Secrets so weak that they stand in harmless words by chance, as "postgres" does in "postgresql"."""
_PASSWORD = re.compile(
    r"""(?P<key>[\w.-]{0,80}(?:passw(?:or)?d|passphrase|secret[._-]?(?:access[._-]?)?key|private[._-]?key))"""
    r"""=['"]?(?!['"\s]|$|arn:|s3://|\$\{|\$\()""",
    re.IGNORECASE,
)
"""``key=value`` whose value is a password by the key's last word; references to one are none."""
_WAY_OUT = (
    "A step's command and environment are stored in the database and in S3: pass the name of an AWS Secrets"
    " Manager secret instead and let the job read it on the cluster"
)
_origins: dict[str, str] = {}

RENDERED_FIELD_BYTES = 64 * 1024
"""A rendered field larger than this is not stored; finish renders it again."""
LOGGED_LENGTH = 4000
"""Characters of a command that a log line holds."""


def known_secrets() -> tuple[str, ...]:
    """The values that the masker redacts. Keep them in memory only."""
    return tuple(sorted(re.sub(r"\\(.)", r"\1", pattern) for pattern in _secrets_masker().patterns))


def remember_origins() -> None:
    """From here on it is known from which connection or variable a masked value came."""

    def connection(original: Callable[[Any], None], conn: Any) -> None:
        place = f"connection {conn.conn_id!r}"
        if conn.extra:
            for key, value in _leaves(conn.extra_dejson, "a value"):
                _origins[value] = f"{key} in the extra of {place}"
            _origins[conn.extra] = f"the extra of {place}"
        if conn.password:
            _origins[conn.password] = f"the password of {place}"
        original(conn)

    def variable(original: Callable[..., Any], raw: str, key: str, *args: Any) -> Any:
        _origins.setdefault(raw, f"variable {key!r}")
        return original(raw, key, *args)

    for name, wrapper in (
        ("_mask_connection_secrets", connection),
        ("_mask_and_deserialize_variable", variable),
    ):
        setattr(context, name, partial(wrapper, getattr(context, name)))


def _leaves(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, str(key))
    elif isinstance(value, str):
        yield name, value


def refuse_secrets(parts: StepParts) -> None:
    """Raises SecretInStep, naming field and origin, if a secret stands in what the user wrote."""
    secrets = sorted(known_secrets(), key=len, reverse=True)
    for name, text in parts.named_values:
        if secret := next((secret for secret in secrets if _holds(text, secret)), None):
            origin = _origins.get(secret, "a value given to mask_secret")
            raise SecretInStep(
                f"{redact(name)} holds a secret that Airflow masks: the same text as {origin}. {_WAY_OUT}."
                " If the two are the same by chance, give the secret another value, or leave the text out"
            )
    before = ""
    for name, text in parts.named_values:
        pair = f"{name.partition(' ')[2]}={text}" if name.startswith(("conf ", "env_vars ")) else ""
        if match := _PASSWORD.search(pair) or _PASSWORD.search(text) or _PASSWORD.search(f"{before}={text}"):
            raise SecretInStep(
                f"{redact(name)} holds a password in clear, by the name {match['key']}. {_WAY_OUT}"
            )
        before = text if text.startswith("-") and "=" not in text else ""


def in_one_line(command: Sequence[str]) -> str:
    """A command for a log, as a shell would take it; values behind sensitive names masked, its end cut."""
    words, before = [], ""
    for word in command:
        name, equals, _ = word.partition("=")
        if equals and should_hide_value_for_key(name):
            words.append(f"{name}=***")
        else:
            is_value = before.startswith("-") and "=" not in before
            words.append("***" if is_value and should_hide_value_for_key(before) else shlex.quote(word))
        before = word
    line = redact(" ".join(words)).replace("\n", "\\n")
    return line if len(line) <= LOGGED_LENGTH else f"{line[:LOGGED_LENGTH]}... ({len(line)} characters)"


def _holds(text: str, secret: str) -> bool:
    """Whether the secret stands in the text; an everyday word only where it is a word of its own."""
    if not _EVERYDAY.fullmatch(secret):
        return secret in text
    return re.search(rf"(?<![A-Za-z0-9]){secret}(?![A-Za-z0-9])", text) is not None


def storable_fields(task: Any) -> dict[str, Any]:
    """The task's template fields that JSON holds exactly, of bounded size and free of secrets."""
    fields = {name: getattr(task, name, None) for name in task.template_fields}
    return {name: value for name, value in fields.items() if _is_storable(name, value)}


def _is_storable(name: str, value: Any) -> bool:
    if not _is_exact_json(value):
        return False
    if len(json.dumps(value, ensure_ascii=False).encode(errors="replace")) > RENDERED_FIELD_BYTES:
        return False
    # With the field's name, so that what the masker hides by name alone is not stored either.
    return bool(redact(value, name) == value)


def _is_exact_json(value: Any) -> bool:
    if value is None or type(value) in {str, int, bool}:
        return True
    if type(value) is float:
        return math.isfinite(value)
    if type(value) is list:
        return all(_is_exact_json(item) for item in value)
    if type(value) is dict:
        return all(type(key) is str and _is_exact_json(item) for key, item in value.items())
    return False
