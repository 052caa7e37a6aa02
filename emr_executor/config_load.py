"""Reads ``[emr_executor]`` of airflow.cfg and the environment into ``config.Settings``.

Everything wrong is reported at once, as one ``ConfigError``: each problem names the option, the
value, where it came from and what is allowed. Nobody else reads Airflow's configuration.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from emr_executor.cluster_template import read_template
from emr_executor.config import (
    EMR_ACTIVE_STEP_LIMIT,
    EMR_IDLE_TIMEOUT_S,
    KEEP_HISTORY_AT_LEAST_S,
    KEEP_STAGING_AT_LEAST_S,
    OPTIONS,
    SECTION,
    AwsAccess,
    ClusterPool,
    Option,
    Settings,
    duration_s,
)
from emr_executor.errors import ConfigError
from emr_executor.policy import EXECUTOR_PATHS, named_executors

_M = TypeVar("_M", bound=BaseModel)
_ENV_PREFIX = f"AIRFLOW__{SECTION.upper()}__"
_S3_PREFIX = re.compile(r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.+$")
_COMMENT = re.compile(r"\s[#;]")
_HTTP = re.compile(r"^https?://[^/\s]+/?$")


def options_set() -> dict[str, tuple[str, str]]:
    """Each option of our section that is set, with its text and where that comes from."""
    from airflow.configuration import AIRFLOW_CONFIG, conf

    found: dict[str, tuple[str, str]] = {}
    if conf.has_section(SECTION):
        found = {name: (str(value), str(AIRFLOW_CONFIG)) for name, value in conf.items(SECTION)}
    for variable in sorted(os.environ):
        if variable.startswith(_ENV_PREFIX):
            name = variable.removeprefix(_ENV_PREFIX).lower()
            found[name] = os.environ[variable], f"environment variable {variable}"
    return {name: (text, source) for name, (text, source) in found.items() if text.strip()}


def load_settings() -> Settings:
    """The settings as Airflow's configuration has them now. Raises ConfigError with every problem."""
    from airflow.configuration import AIRFLOW_CONFIG, AIRFLOW_HOME, conf

    found = options_set()
    return load_settings_from(
        {name: text for name, (text, _) in found.items()},
        source=lambda name: found[name][1] if name in found else str(AIRFLOW_CONFIG),
        base_dir=Path(AIRFLOW_HOME),
        airflow_heartbeat_timeout_s=conf.getfloat("scheduler", "task_instance_heartbeat_timeout"),
        default_queue=conf.get("operators", "default_queue"),
    )


def executor_problem() -> str | None:
    """Why ``[core] executor`` cannot work with this executor, and the line to write; None when it can."""
    named = named_executors()[0]
    ours = [part for part in named if part.rpartition(":")[2] in EXECUTOR_PATHS]
    others = [part for part in named if part not in ours] or ["LocalExecutor"]
    if not ours:
        line = ",".join((*others, EXECUTOR_PATHS[0]))
        return f"[core] executor does not name {EXECUTOR_PATHS[0]}; write: executor = {line}"
    if named[0] in ours:
        how = "alone" if len(named) == 1 else "first"
        line = ",".join((*others, *ours))
        return (
            f"[core] executor names {ours[0]} {how}, so every task without an executor of its own would come "
            f"to it, and it runs only the tasks of its EMR queues; write: executor = {line}"
        )
    return None


def refusal_hold_s() -> float:
    """The option of that name alone, since it counts when others cannot be used; else its default."""
    from airflow.configuration import conf

    default_s = float(Settings.model_fields["refusal_hold_s"].default)
    try:
        return duration_s(conf.get(SECTION, "refusal_hold", fallback=""))
    except ValueError:
        return default_s


def load_settings_from(
    raw: Mapping[str, str],
    *,
    source: str | Callable[[str], str] = "given values",
    base_dir: Path | None = None,
    airflow_heartbeat_timeout_s: float | None = None,
    default_queue: str | None = None,
) -> Settings:
    """The settings that these options say; pure but for the template file that they name.

    raw: option name to its text, as in airflow.cfg; empty text is an option left out
    source: where an option came from, for the messages
    base_dir: where a relative path starts; None is the current directory
    airflow_heartbeat_timeout_s, default_queue: Airflow's own options that ours must go with
    Raises ConfigError with every problem.
    """
    reading = _Reading(
        raw={name: text.strip() for name, text in raw.items() if text.strip()},
        source=source if callable(source) else lambda _name: source,
        base_dir=base_dir or Path.cwd(),
    )
    values = reading.values()
    settings = reading.build(values)
    for name, allowed in reading.contradictions(settings, airflow_heartbeat_timeout_s, default_queue):
        if name not in reading.wrong:
            reading.problem(name, allowed)
    if reading.problems:
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
    wrong: set[str] = field(default_factory=set)

    def problem(self, name: str, allowed: str) -> None:
        """Note what is wrong with one option."""
        self.wrong.add(name)
        said = f"{name} = {self.raw[name]}" if name in self.raw else f"{name} is not set"
        if _COMMENT.search(self.raw.get(name, "")):
            allowed += " Airflow takes no comment behind a value: give it a line of its own."
        self.problems.append(f"[{SECTION}] {said} ({self.source(name)}): {allowed}")

    def values(self) -> dict[str, dict[str, Any]]:
        """Field values by part, of the options that are set and can be read."""
        known = {option.name: option for option in OPTIONS}
        for name in sorted(set(self.raw) - set(known)):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}."
            self.problem(name, f"no such option; {hint}")
        found: dict[str, dict[str, Any]] = {option.part: {} for option in OPTIONS}
        for option in OPTIONS:
            if option.name not in self.raw:
                if option.is_required:
                    self.problem(option.name, f"it must be, for example {option.name} = {option.example}")
                continue
            found[option.part][option.field] = self._value(option)
        return found

    def _value(self, option: Option) -> Any:
        if option.field != "template":
            return self.raw[option.name]
        template, problems = read_template(self.base_dir / Path(self.raw[option.name]).expanduser())
        for problem in problems:
            self.problem(option.name, problem)
        return template or {}

    def build(self, values: dict[str, dict[str, Any]]) -> Settings:
        """The settings, with a stand-in where an option cannot be used, so that the others are judged too."""
        values["ClusterPool"].setdefault("template", {})
        values["Settings"].setdefault("staging_uri", "s3://absent/absent/")
        pool = self._make(ClusterPool, values["ClusterPool"])
        if "prefetch" not in self.raw and _slots(pool):
            fits = max(0, EMR_ACTIVE_STEP_LIMIT - pool.slots)
            pool = pool.model_copy(update={"prefetch": min(pool.prefetch, fits)})
        aws = self._make(AwsAccess, values["AwsAccess"])
        settings = self._make(Settings, {**values["Settings"], "cluster_pools": (pool,), "aws": aws})
        staging_uri = settings.staging_uri.rstrip("/") + "/"
        return settings.model_copy(update={"staging_uri": staging_uri})

    def _make(self, model: type[_M], values: dict[str, Any]) -> _M:
        names = {option.field: option.name for option in OPTIONS if option.part == model.__name__}
        try:
            return model.model_validate(values)
        except ValidationError as e:
            wrong = {str(error["loc"][0]): error["msg"] for error in e.errors()}
        for name, message in wrong.items():
            self.problem(names[name], _in_our_words(message))
        return model.model_validate({name: value for name, value in values.items() if name not in wrong})

    def contradictions(
        self, settings: Settings, airflow_heartbeat_timeout_s: float | None, default_queue: str | None
    ) -> Iterator[tuple[str, str]]:
        """What no single field can know: an option, and what it must be."""
        pool, slots = settings.cluster_pools[0], _slots(settings.cluster_pools[0])
        if not _S3_PREFIX.match(settings.staging_uri):
            yield "staging_uri", "it must be s3://bucket/prefix/ with a prefix of its own."
        if (endpoint := settings.aws.endpoint_url) is not None and not _HTTP.match(endpoint):
            yield "endpoint_url", "it must be http://host:port or https://host, without a path."
        if pool.min_clusters > pool.max_clusters and "max_clusters" not in self.wrong:
            yield "min_clusters", f"it must not exceed max_clusters ({pool.max_clusters})."
        if slots and slots + pool.prefetch > EMR_ACTIVE_STEP_LIMIT:
            allowed = (
                f"with StepConcurrencyLevel {slots} of the template it must not exceed "
                f"{EMR_ACTIVE_STEP_LIMIT - slots}: EMR holds at most {EMR_ACTIVE_STEP_LIMIT} a cluster."
            )
            yield "prefetch", allowed
        if 0 < settings.keep_history_s < KEEP_HISTORY_AT_LEAST_S:
            yield "keep_history", "it must be at least 1d, or 0 to keep for ever."
        if 0 < settings.keep_staging_s < KEEP_STAGING_AT_LEAST_S:
            others = "on which deployments with the same staging_uri rely"
            yield "keep_staging", f"it must be at least 7d, {others}, or 0 to keep for ever."
        policy = pool.template.get("AutoTerminationPolicy")
        own_idle_s = policy.get("IdleTimeout", EMR_IDLE_TIMEOUT_S) if isinstance(policy, dict) else None
        if isinstance(own_idle_s, int) and own_idle_s <= pool.idle_timeout_s:
            allowed = (
                f"it must be below the IdleTimeout of the template's AutoTerminationPolicy ({own_idle_s} s), "
                "which ends clusters that the executor can no longer see to."
            )
            yield "idle_timeout", allowed
        most_s = math.inf if airflow_heartbeat_timeout_s is None else airflow_heartbeat_timeout_s / 3
        if settings.task_heartbeat_interval_s > most_s:
            third = "a third of [scheduler] task_instance_heartbeat_timeout"
            yield "task_heartbeat_interval", f"it must be at most {most_s:g} s, {third}."
        # A queue that is nearly another one is one by mistake: its tasks would go where nobody looks.
        if len({queue.casefold() for queue in pool.queues}) < len(pool.queues):
            yield "queue", "two of the names differ in case only, which are two queues to Airflow: keep one."
        if near := _nearly(default_queue, pool.queues):
            allowed = (
                f"{', '.join(near)} is nearly [operators] default_queue ({default_queue}), whose tasks "
                "another executor runs: write both alike, or rename one."
            )
            yield "queue", allowed


def _in_our_words(message: str) -> str:
    """What pydantic says of a value."""
    words = message.removeprefix("Value error, ").partition(", unable to parse")[0]
    return words.replace("Input should", "it must").replace("valid integer", "whole number") + "."


def _slots(pool: ClusterPool) -> int | None:
    """The slots of a cluster, or None where the template's number is none that EMR takes."""
    level = pool.template.get("StepConcurrencyLevel", 1)
    return level if isinstance(level, int) and 1 <= level <= EMR_ACTIVE_STEP_LIMIT else None


def _nearly(name: str | None, queues: tuple[str, ...]) -> list[str]:
    """The queues that a name is meant to be, most likely, and is not."""
    if name is None or name in queues:
        return []
    return [
        queue
        for queue in queues
        if queue.casefold() == name.strip().casefold()
        or difflib.get_close_matches(name, [queue], cutoff=0.85)
    ]
