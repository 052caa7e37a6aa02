"""Reads and checks a cluster template: a YAML file with a plain RunJobFlow request.

The shape is checked against botocore's model of EMR (types, required fields, lengths by
``ParamValidator``; enums and number ranges here, which it leaves out), so a typing error is found
at start and not when the first cluster is wanted.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from emr_executor.config import AUTO_TERMINATION_MAX_S, AUTO_TERMINATION_MIN_S, EMR_ACTIVE_STEP_LIMIT

_CLASSIC_LABEL = re.compile(r"^emr-(\d+)\.(\d+)")
_FIRST_CONCURRENT_RELEASE = (5, 28)
"""StepConcurrencyLevel above 1 needs emr-5.28.0 (EMR Management Guide, "Run multiple steps in parallel")."""


def read_template(path: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The request in the file, and every problem with it as a full sentence; None when it cannot be read."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as e:
        return None, [f"{path} cannot be read: {e.strerror}."]
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        return None, [f"{path} is not YAML: {' '.join(str(e).split())}."]
    if not isinstance(data, dict):
        return None, [f"{path} must hold a RunJobFlow request: keys such as ReleaseLabel and Instances."]
    return data, [f"{path}: {problem}" for problem in template_problems(data)]


def template_problems(template: dict[str, Any]) -> list[str]:
    """Every reason why a cluster could not be launched or steered with this request; empty when none."""
    problems = _reserved(template)
    request = {**template, "Name": "checked"}
    shape_problems = _shape_problems(request)
    problems += shape_problems
    if not shape_problems:
        problems += _rules(template)
    return problems


def _reserved(template: dict[str, Any]) -> list[str]:
    """What the executor sets itself."""
    why = {
        "Name": "the executor names its clusters, so that it knows them again",
        "Steps": "the executor adds the steps; use BootstrapActions for set-up",
        "AmiVersion": "the executor needs a release label, emr-5.28.0 or later",
    }
    return [f"{key} must not be set: {reason}." for key, reason in why.items() if key in template]


def _rules(template: dict[str, Any]) -> list[str]:
    """What the model does not say, of a request with the right shape."""
    problems = []
    instances = template["Instances"]
    label = template.get("ReleaseLabel")
    if label is None:
        problems.append("ReleaseLabel must be set, for example emr-7.12.0.")
    if instances.get("KeepJobFlowAliveWhenNoSteps") is False:
        problems.append(
            "Instances.KeepJobFlowAliveWhenNoSteps must not be false: clusters are kept for the next step."
        )
    if instances.get("TerminationProtected"):
        problems.append("Instances.TerminationProtected must not be true: the executor ends idle clusters.")
    if "InstanceFleets" in instances and "InstanceGroups" in instances:
        problems.append("Instances has InstanceFleets and InstanceGroups: EMR takes one of them.")
    if not {"InstanceFleets", "InstanceGroups", "MasterInstanceType"} & set(instances):
        problems.append(
            "Instances names no machines: set InstanceFleets, InstanceGroups or MasterInstanceType."
        )
    problems += _concurrency(template.get("StepConcurrencyLevel", 1), label)
    idle_s = template.get("AutoTerminationPolicy", {}).get("IdleTimeout")
    if idle_s is not None and not AUTO_TERMINATION_MIN_S <= idle_s <= AUTO_TERMINATION_MAX_S:
        problems.append(
            f"AutoTerminationPolicy.IdleTimeout is {idle_s}: EMR takes {AUTO_TERMINATION_MIN_S} to "
            f"{AUTO_TERMINATION_MAX_S} seconds."
        )
    return problems


def _concurrency(level: int, label: str | None) -> list[str]:
    if not 1 <= level <= EMR_ACTIVE_STEP_LIMIT:
        return [f"StepConcurrencyLevel is {level}: EMR takes 1 to {EMR_ACTIVE_STEP_LIMIT}."]
    classic = _CLASSIC_LABEL.match(label or "")
    if level > 1 and classic and (int(classic[1]), int(classic[2])) < _FIRST_CONCURRENT_RELEASE:
        return [f"StepConcurrencyLevel {level} needs release emr-5.28.0 or later, not {label}."]
    return []


@cache
def _run_job_flow_shape() -> Any:
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    model = ServiceModel(Loader().load_service_model("emr", "service-2"))
    return model.operation_model("RunJobFlow").input_shape


def _shape_problems(request: dict[str, Any]) -> list[str]:
    from botocore.validate import ParamValidator

    report = ParamValidator().validate(request, _run_job_flow_shape()).generate_report()
    problems = [line.rstrip(".") + "." for line in report.splitlines()]
    return problems or _enum_problems(request, _run_job_flow_shape(), "")


def _enum_problems(value: Any, shape: Any, where: str) -> list[str]:
    """Strings that are none of their enum's members; ``ParamValidator`` does not look."""
    match shape.type_name:
        case "structure":
            return [
                problem
                for key, inner in value.items()
                for problem in _enum_problems(inner, shape.members[key], f"{where}.{key}" if where else key)
            ]
        case "list":
            return [
                problem
                for index, inner in enumerate(value)
                for problem in _enum_problems(inner, shape.member, f"{where}[{index}]")
            ]
        case "string" if shape.enum and value not in shape.enum:
            return [f"{where} is {value!r}: EMR takes {', '.join(shape.enum)}."]
        case _:
            return []
