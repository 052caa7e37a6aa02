"""Reads and checks a cluster template: a file, YAML or JSON, with a plain RunJobFlow request.

What EMR would refuse is ``emr_request``'s and ``launch_rules``' to say; here stands what this executor needs
beside that. Everything wrong is found at once, at start, and not when the first cluster is wanted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from emr_executor.config import AUTO_TERMINATION_MAX_S, AUTO_TERMINATION_MIN_S, CLUSTER_TAG_PREFIX
from emr_executor.emr_request import SHOWN, Place, Problem, at, model_problems, rule
from emr_executor.launch_rules import auto_terminates, launch_problems

_OF_OTHER_TOOLS = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\$\{(?!emr\.clusterId\})[^}]*\}|<[^<>]*>")
"""Jinja's, Terraform's and a shell's, and angle brackets. ``${emr.clusterId}`` is EMR's own, for alarms."""
_IN_SETTINGS = re.compile(
    r"\{\{\s*[a-z].*?\}\}|\{%.*?%\}|\$\{(?:var|local|data|module)\.[^}]*\}|<(?i:your|my)[^<>]*>"
)
"""The same in what Spark or a script reads, to which ``${user.name}`` and ``<LOG_DIR>`` say something."""
_TO_BE_CHANGED = re.compile(
    r"(?i:\b(?:change|replace|fill)[_-]?(?:me|this|it|in)\b)|\bCHANGE\b|\bTODO\b|\bFIXME\b"
)
_EXAMPLES = re.compile(
    r"^(?:subnet|sg|ami|vpc)-(?:x{3,}|([0-9a-z])\1{7,}|0?1234567\w*)$"
    r"|^s3[an]?://(?:my[_-]?(?:emr[_-]|s3[_-])?bucket|your[_-][\w-]*|bucket|bucket[_-]?name|example[\w-]*)(?:/|$)"
    r"|:(?:123456789012|111122223333):",
    re.IGNORECASE,
)

_HINTS = {
    "{{": "{{ ... }} is filled in by nothing here: write the value itself.",
    "\t": "YAML is indented with spaces, never with tabs.",
}


def read_template(path: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The request in the file, and every problem with it as a full sentence; None when it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as e:
        return None, [f"{path} cannot be read: {e.strerror}."]
    except UnicodeDecodeError as e:
        return None, [f"{path} is not text in UTF-8: {e.reason} at byte {e.start}."]
    twice: list[str] = []
    try:
        data = _parsed(text, twice)
        json.dumps(data, default=str)  # raises for an anchor that holds itself
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        kind = "JSON" if _is_json(text) else "YAML"
        told = " ".join(str(e).split()).replace('in "<unicode string>", ', "at ")
        hints = [hint for sign, hint in _HINTS.items() if sign in text and kind == "YAML"]
        return None, [" ".join((f"{path} is not {kind}: {told}.", *hints))]
    if not isinstance(data, dict):
        return None, [f"{path} must hold a RunJobFlow request: keys such as ReleaseLabel and Instances."]
    return data, [f"{path}: {problem}" for problem in (*twice, *template_problems(data))]


def template_problems(template: dict[str, Any]) -> list[str]:
    """Every reason why a cluster could not be launched or steered with this request; empty when none."""
    # The Name that a launch gets is ours.
    request = {**template, "Name": "checked"}
    told: dict[Place, list[str]] = {}
    for found in (_own_problems(template), model_problems("RunJobFlow", request), launch_problems(request)):
        # A place that has been told needs no second opinion.
        new = [problem for problem in found if problem.path not in told]
        for problem in new:
            told.setdefault(problem.path, []).append(str(problem))
    return [sentence for sentences in told.values() for sentence in dict.fromkeys(sentences)]


def left_as_examples(template: dict[str, Any]) -> list[str]:
    """Values that stand in examples, such as a subnet of nothing but ones: EMR would refuse the launch."""
    return [
        f"{at(path)} is '{text}', which is an example: write your own."
        for path, text in _texts(template)
        if is_example(text)
    ]


def is_example(text: str) -> bool:
    """Whether a value is one of those that stand in examples."""
    return bool(_EXAMPLES.search(text))


# -- the file ------------------------------------------------------------------------------------


def _is_json(text: str) -> bool:
    return text.lstrip().startswith("{")


def _parsed(text: str, twice: list[str]) -> Any:
    """The file's value. twice: gets a sentence for each key that stands twice, since one would count."""

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in found]
        twice.extend(
            f"{key} stands {keys.count(key)} times in one place: keep one." for key in _repeated(keys)
        )
        return dict(found)

    if _is_json(text):
        try:
            return json.loads(text, object_pairs_hook=pairs)
        except ValueError:
            # A YAML mapping in braces is no JSON; what is neither is told as JSON.
            try:
                return _yaml(text, twice)
            except yaml.YAMLError:
                return json.loads(text)
    return _yaml(text, twice)


def _yaml(text: str, twice: list[str]) -> Any:
    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            lines: dict[str, list[int]] = {}
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    lines.setdefault(key.value, []).append(key.start_mark.line + 1)
            twice.extend(
                f"{key} stands in lines {' and '.join(map(str, at))} of one place: keep one."
                for key, at in lines.items()
                if len(at) > 1
            )
            return super().construct_mapping(node, deep=deep)

    # A subclass of SafeLoader: it makes plain values only.
    return yaml.load(text, Loader)  # noqa: S506


def _repeated(keys: list[str]) -> list[str]:
    return [key for key in dict.fromkeys(keys) if keys.count(key) > 1]


# -- what this executor needs ----------------------------------------------------------------------


def _own_problems(template: dict[str, Any]) -> Iterator[Problem]:
    yield from _reserved(template)
    yield from _release(template)
    yield from _endable(template)
    yield from _spark_defaults(template)
    for path, text in _texts(template):
        pattern = _IN_SETTINGS if _is_passed_on(path) else _OF_OTHER_TOOLS
        if found := pattern.search(text) or _TO_BE_CHANGED.search(text):
            yield rule(
                path,
                f"holds {found[0][:SHOWN]!r}: nothing fills that in here, so write the value itself.",
            )


def _reserved(template: dict[str, Any]) -> Iterator[Problem]:
    """What the executor sets itself."""
    why = {
        "Name": "the executor names its clusters, so that it knows them again",
        "Steps": "the executor adds the steps; use BootstrapActions for set-up",
        "StepExecutionRoleArn": "it counts for Steps of the template only, and there are none",
        "AmiVersion": "the executor needs a ReleaseLabel, emr-5.30.0, emr-6.1.0 or later",
    }
    for key, reason in why.items():
        if key in template:
            yield rule((key,), f"must not be set: {reason}.")
    for index, tag in enumerate(_list(template.get("Tags"))):
        key = str(tag.get("Key", "")) if isinstance(tag, dict) else ""
        if key.startswith(CLUSTER_TAG_PREFIX):
            yield rule(
                ("Tags", index, "Key"), f"is {key!r}: the executor sets the tags {CLUSTER_TAG_PREFIX}*."
            )


def _release(template: dict[str, Any]) -> Iterator[Problem]:
    label = template.get("ReleaseLabel")
    if label is None and "ReleaseLabel" not in template:
        yield rule(("ReleaseLabel",), "must be set, for example emr-7.12.0.")
    elif isinstance(label, str) and not re.match(r"^emr-(\w+-)?\d+\.\d+", label):
        yield rule(("ReleaseLabel",), f"is '{label}': it must be a release such as emr-7.12.0.")
    elif not auto_terminates(label):
        yield rule(
            ("ReleaseLabel",),
            f"is {label}: it must be emr-5.30.0, emr-6.1.0 or later, which end an idle cluster by "
            "themselves when no agent is left to do it.",
        )
    applications = [item for item in _list(template.get("Applications")) if isinstance(item, dict)]
    if not any(str(item.get("Name")).strip().lower() == "spark" for item in applications):
        yield rule(("Applications",), "must name Spark, or no step finds spark-submit: add - Name: Spark.")


def _endable(template: dict[str, Any]) -> Iterator[Problem]:
    """Whether a cluster lives until we end it, and ends when we do."""
    instances = template.get("Instances")
    instances = instances if isinstance(instances, dict) else {}
    if instances.get("KeepJobFlowAliveWhenNoSteps") is False:
        yield rule(
            ("Instances", "KeepJobFlowAliveWhenNoSteps"),
            "must not be false: clusters are kept for the next step.",
        )
    if instances.get("TerminationProtected") is True:
        yield rule(
            ("Instances", "TerminationProtected"), "must not be true: the executor ends idle clusters."
        )
    for name, role, counts in (
        ("InstanceGroups", "InstanceRole", ("InstanceCount",)),
        ("InstanceFleets", "InstanceFleetType", ("TargetOnDemandCapacity", "TargetSpotCapacity")),
    ):
        for index, machines in enumerate(_list(instances.get(name))):
            if not isinstance(machines, dict) or machines.get(role) != "MASTER":
                continue
            if sum(count for key in counts if isinstance(count := machines.get(key), int)) > 1:
                yield rule(
                    ("Instances", name, index),
                    "must be one primary node: EMR protects a cluster with several from being ended.",
                )
    policy = template.get("AutoTerminationPolicy")
    idle_s = policy.get("IdleTimeout") if isinstance(policy, dict) else None
    if isinstance(idle_s, int) and not AUTO_TERMINATION_MIN_S <= idle_s <= AUTO_TERMINATION_MAX_S:
        yield rule(
            ("AutoTerminationPolicy", "IdleTimeout"),
            f"is {idle_s}: EMR takes {AUTO_TERMINATION_MIN_S} to {AUTO_TERMINATION_MAX_S} seconds.",
        )


def _spark_defaults(template: dict[str, Any]) -> Iterator[Problem]:
    """Settings of the cluster with which a step's end would not be its application's."""
    for path, value in _walk(template, ()):
        for index, one in enumerate(_list(value) if path and path[-1] == "Configurations" else ()):
            if not isinstance(one, dict) or one.get("Classification") != "spark-defaults":
                continue
            properties = one.get("Properties")
            for key, text in properties.items() if isinstance(properties, dict) else ():
                where = (*path, index, "Properties", str(key))
                said = str(text).strip().lower()
                if key == "spark.yarn.submit.waitAppCompletion" and said == "false":
                    yield rule(
                        where, "must not be false: a step would be over while its application still runs."
                    )
                if key == "spark.submit.deployMode" and said not in {"client", "cluster"}:
                    yield rule(where, f"is '{text}': Spark takes client or cluster.")


def _is_passed_on(path: Place) -> bool:
    """Whether EMR hands a value on to a program that has variables of its own."""
    return "Properties" in path or "Args" in path


def _texts(template: dict[str, Any]) -> Iterator[tuple[Place, str]]:
    """Every text in a template, with where it stands; also keys that are to be filled in."""
    for path, value in _walk(template, ()):
        if isinstance(value, str):
            yield path, value
        for key in value if isinstance(value, dict) else ():
            if isinstance(key, str) and (_OF_OTHER_TOOLS.search(key) or _TO_BE_CHANGED.search(key)):
                yield (*path, key), key


def _walk(value: Any, path: Place) -> Iterator[tuple[Place, Any]]:
    """A value and everything in it."""
    yield path, value
    for key, one in value.items() if isinstance(value, dict) else enumerate(_list(value)):
        yield from _walk(one, (*path, str(key) if isinstance(value, dict) else key))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
