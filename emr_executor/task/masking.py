"""What Airflow's SDK secrets masker of this process knows, asked before anything leaves the host."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from airflow.sdk._shared.secrets_masker import _secrets_masker, redact

from emr_executor.errors import SecretInStep
from emr_executor.task.translators import StepParts

RENDERED_FIELD_BYTES = 64 * 1024
"""A rendered field larger than this is not stored; finish renders it again."""


def holds_secret(text: str) -> bool:
    """Whether a value that the masker knows stands in ``text``."""
    return bool(redact(text) != text)


def known_secrets() -> tuple[str, ...]:
    """The values that the masker redacts. Keep them in memory only."""
    return tuple(sorted(re.sub(r"\\(.)", r"\1", pattern) for pattern in _secrets_masker().patterns))


def refuse_secrets(parts: StepParts) -> None:
    """Raises SecretInStep, naming the field, if a known secret would travel with the step."""
    named = [*parts.named_values, *((f"env_vars {key}", value) for key, value in parts.env.items())]
    named += [(f"command[{index}]", value) for index, value in enumerate(parts.command)]
    for name, text in named:
        if holds_secret(text):
            raise SecretInStep(
                f"{redact(name)} holds a secret that Airflow masks (a connection's password or extra, a"
                " variable with a sensitive name, or a value given to mask_secret). A step's command and"
                " environment are stored and shown by EMR: pass the name of an AWS Secrets Manager"
                " secret instead and let the job read it on the cluster"
            )


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
