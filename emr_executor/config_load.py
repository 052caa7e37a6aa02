"""Reads ``[emr_executor]`` of airflow.cfg and the environment into ``config.Settings``.

Everything wrong is reported at once, as one ``ConfigError``: each problem names the option, the
value, where it came from and what is allowed. Nobody else reads Airflow's configuration.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from emr_executor.cluster_template import read_template
from emr_executor.config import (
    EMR_ACTIVE_STEP_LIMIT,
    KEEP_HISTORY_AT_LEAST_S,
    KEEP_STAGING_AT_LEAST_S,
    AwsAccess,
    ClusterPool,
    Settings,
)
from emr_executor.errors import ConfigError
from emr_executor.options import OPTIONS, SECTION, Option

_M = TypeVar("_M", bound=BaseModel)
_ENV_PREFIX = f"AIRFLOW__{SECTION.upper()}__"
_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZES = {"": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_S3_PREFIX = re.compile(r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.+$")
_HTTP = re.compile(r"^https?://[^/\s]+/?$")


def load_settings() -> Settings:
    """The settings as Airflow's configuration has them now. Raises ConfigError with every problem."""
    from airflow.configuration import AIRFLOW_CONFIG, AIRFLOW_HOME, conf

    raw: dict[str, str] = {}
    sources: dict[str, str] = {}
    if conf.has_section(SECTION):
        for name, value in conf.items(SECTION):
            raw[name], sources[name] = str(value), str(AIRFLOW_CONFIG)
    for variable in sorted(os.environ):
        if variable.startswith(_ENV_PREFIX):
            name = variable.removeprefix(_ENV_PREFIX).lower()
            raw[name], sources[name] = os.environ[variable], f"environment variable {variable}"
    return load_settings_from(
        raw,
        source=lambda name: sources.get(name, str(AIRFLOW_CONFIG)),
        base_dir=Path(AIRFLOW_HOME),
        airflow_heartbeat_timeout_s=conf.getfloat("scheduler", "task_instance_heartbeat_timeout"),
    )


def load_settings_from(
    raw: Mapping[str, str],
    *,
    source: str | Callable[[str], str] = "given values",
    base_dir: Path | None = None,
    airflow_heartbeat_timeout_s: float | None = None,
) -> Settings:
    """The settings that these options say; pure but for the template file that they name.

    raw: option name to its text, as in airflow.cfg; empty text is an option left out
    source: where an option came from, for the messages
    base_dir: where a relative path starts; None is the current directory
    Raises ConfigError with every problem.
    """
    reading = _Reading(
        raw={name: text.strip() for name, text in raw.items() if text.strip()},
        source=source if callable(source) else lambda _name: source,
        base_dir=base_dir or Path.cwd(),
    )
    values = reading.values()
    settings = reading.build(values)
    if settings is not None:
        reading.check_together(settings, airflow_heartbeat_timeout_s)
    if reading.problems or settings is None:
        raise ConfigError(reading.problems)
    if airflow_heartbeat_timeout_s is None:
        return settings
    return settings.model_copy(update={"task_heartbeat_timeout_s": airflow_heartbeat_timeout_s})


@dataclass
class _Reading:
    """One pass over the options, collecting problems."""

    raw: Mapping[str, str]
    source: Callable[[str], str]
    base_dir: Path
    problems: list[str] = field(default_factory=list)

    def problem(self, name: str, allowed: str) -> None:
        """Note what is wrong with one option."""
        said = f"{name} = {self.raw[name]}" if name in self.raw else f"{name} is not set"
        self.problems.append(f"[{SECTION}] {said} ({self.source(name)}): {allowed}")

    def values(self) -> dict[str, dict[str, Any]]:
        """Field values by part, of the options that are set and can be read."""
        known = {option.name: option for option in OPTIONS}
        for name in sorted(set(self.raw) - set(known)):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}."
            self.problem(name, f"no such option; {hint}")
        found: dict[str, dict[str, Any]] = {"settings": {}, "pool": {}, "aws": {}}
        for option in OPTIONS:
            if option.name not in self.raw:
                if option.required:
                    self.problem(option.name, f"it must be, for example {option.name} = {option.example}")
                continue
            try:
                found[option.part][option.field] = self._read(option, self.raw[option.name])
            except ValueError as e:
                self.problem(option.name, str(e))
        return found

    def _read(self, option: Option, text: str) -> Any:
        match option.kind:
            case "names":
                return _names(text)
            case "whole":
                return _whole(text)
            case "duration":
                return duration_s(text)
            case "size":
                return _size_bytes(text)
            case "template":
                path = Path(text).expanduser()
                template, problems = read_template(path if path.is_absolute() else self.base_dir / path)
                for problem in problems:
                    self.problem(option.name, problem)
                return template if template is not None else {}
            case "text":
                return text

    def build(self, values: dict[str, dict[str, Any]]) -> Settings | None:
        """The settings, or None when a part of them could not be made."""
        values["pool"].setdefault("template", {})  # its absence has been reported
        values["settings"].setdefault("staging_uri", "s3://absent/absent/")
        pool = self._make(ClusterPool, "pool", values["pool"])
        aws = self._make(AwsAccess, "aws", values["aws"])
        top = {**values["settings"], "cluster_pools": () if pool is None else (pool,)}
        settings = self._make(Settings, "settings", top)
        if pool is None or aws is None or settings is None:
            return None
        staging_uri = settings.staging_uri.rstrip("/") + "/"
        return settings.model_copy(update={"aws": aws, "staging_uri": staging_uri})

    def _make(self, model: type[_M], part: str, values: Mapping[str, Any]) -> _M | None:
        names = {option.field: option.name for option in OPTIONS if option.part == part}
        try:
            return model.model_validate(values)
        except ValidationError as e:
            for error in e.errors():
                self.problem(
                    names[str(error["loc"][0])], error["msg"].replace("Input should", "it must") + "."
                )
            return None

    def check_together(self, settings: Settings, airflow_heartbeat_timeout_s: float | None) -> None:
        """What no single field can know."""
        pool = settings.cluster_pools[0]
        if not _S3_PREFIX.match(settings.staging_uri):
            self.problem("staging_uri", "it must be s3://bucket/prefix/ with a prefix of its own.")
        if settings.aws.endpoint_url is not None and not _HTTP.match(settings.aws.endpoint_url):
            self.problem("endpoint_url", "it must be http://host:port or https://host, without a path.")
        if pool.min_clusters > pool.max_clusters:
            self.problem("min_clusters", f"it must not exceed max_clusters ({pool.max_clusters}).")
        if pool.slots + pool.prefetch > EMR_ACTIVE_STEP_LIMIT:
            self.problem(
                "prefetch",
                f"with StepConcurrencyLevel {pool.slots} of the template it must not exceed "
                f"{EMR_ACTIVE_STEP_LIMIT - pool.slots}: EMR holds at most {EMR_ACTIVE_STEP_LIMIT} a cluster.",
            )
        if 0 < settings.keep_history_s < KEEP_HISTORY_AT_LEAST_S:
            self.problem("keep_history", "it must be at least 1d, or 0 to keep for ever.")
        if 0 < settings.keep_staging_s < KEEP_STAGING_AT_LEAST_S:
            self.problem(
                "keep_staging",
                "it must be at least 7d, on which deployments with the same staging_uri rely, "
                "or 0 to keep for ever.",
            )
        own_idle_s = pool.template.get("AutoTerminationPolicy", {}).get("IdleTimeout")
        if isinstance(own_idle_s, int) and own_idle_s <= pool.idle_timeout_s:
            self.problem(
                "idle_timeout",
                f"it must be below the IdleTimeout of the template's AutoTerminationPolicy ({own_idle_s} s), "
                "which ends clusters that the executor can no longer see to.",
            )
        if airflow_heartbeat_timeout_s is not None:
            limit_s = airflow_heartbeat_timeout_s / 3
            if settings.task_heartbeat_interval_s > limit_s:
                self.problem(
                    "task_heartbeat_interval",
                    f"it must be at most {limit_s:g} s, "
                    "a third of [scheduler] task_instance_heartbeat_timeout.",
                )


def duration_s(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``1.5m``, ``2h`` or ``1d``. Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    if match is None:
        raise ValueError("it must be seconds, or a number with s, m, h or d, such as 90 or 1.5m.")
    return float(match[1]) * _UNITS_S[match[2]]


def _size_bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*([A-Za-z]*)", text)
    if match is None or match[2].upper() not in _SIZES:
        raise ValueError("it must be bytes, or a whole number with KiB, MiB or GiB.")
    return int(match[1]) * _SIZES[match[2].upper()]


def _whole(text: str) -> int:
    if not re.fullmatch(r"-?\d+", text):
        raise ValueError("it must be a whole number.")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise ValueError("an empty name; separate the names by single commas.")
    if len(set(names)) != len(names):
        raise ValueError("each name may stand there once.")
    return names
