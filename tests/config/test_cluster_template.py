"""Cluster templates: what cannot launch, cannot be ended, or would lie about a step is told with its key."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from emr_executor.cluster_template import left_as_examples, read_template, template_problems

ROOT = Path(__file__).parents[2]
FILES = [
    *(ROOT / "config" / "clusters").glob("*.yaml"),
    ROOT / "emr_executor" / "cli" / "cluster_template.yaml",
]
TEMPLATE: dict[str, Any] = {
    "ReleaseLabel": "emr-7.12.0",
    "Applications": [{"Name": "Spark"}],
    "StepConcurrencyLevel": 4,
    "Instances": {"MasterInstanceType": "m5.xlarge", "InstanceCount": 1},
    "ServiceRole": "EMR_DefaultRole_V2",
    "JobFlowRole": "EMR_EC2_DefaultRole",
}
CASES = yaml.safe_load((Path(__file__).parent / "template_problems.yaml").read_text())
ACTIONS = [{"Name": str(i), "ScriptBootstrapAction": {"Path": "s3://b/x.sh"}} for i in range(17)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_templates_of_this_repository_are_valid(path: Path) -> None:
    assert read_template(path)[1] == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        *((case["change"], case["told"]) for case in CASES["problems"]),
        ({"BootstrapActions": ACTIONS}, "BootstrapActions has 17 entries: EMR takes at most 16."),
        (
            {"LogUri": "s3://".ljust(10_285, "x")},
            "LogUri has 10285 characters: EMR takes at most 10280 characters.",
        ),
        ({"Tags": [{"Key": "k" * 129}]}, "Tags[0].Key has 129 characters: EMR takes at most 128."),
    ],
)
def test_each_problem_has_its_key_and_what_to_write(change: dict[str, Any], told: str) -> None:
    assert template_problems({**TEMPLATE, **change}) == [told]


def test_everything_missing_is_told_at_once() -> None:
    told = [problem.split()[0] for problem in template_problems({})]
    assert told == ["ReleaseLabel", "Applications", "Instances", "JobFlowRole", "ServiceRole"]


@pytest.mark.parametrize("change", CASES["fine"], ids=str)
def test_what_emr_takes_is_taken(change: dict[str, Any]) -> None:
    assert template_problems({**TEMPLATE, **change}) == []


def test_steps_in_parallel_need_a_release_that_has_them() -> None:
    found = template_problems({**TEMPLATE, "ReleaseLabel": "emr-5.27.1"})
    assert "StepConcurrencyLevel 4 needs release emr-5.28.0 or later, not emr-5.27.1." in found


@pytest.mark.parametrize("broken", [7.5, "text", [], {}, None, [[]], [None], {"a": {}}], ids=str)
@pytest.mark.parametrize(
    "key", ["Instances", "Tags", "Configurations", "Applications", "AutoTerminationPolicy"]
)
def test_a_value_of_any_shape_ends_in_sentences(key: str, broken: Any) -> None:
    found = template_problems({**TEMPLATE, key: broken, "StepConcurrencyLevel": broken})
    assert any(problem.startswith("StepConcurrencyLevel") for problem in found)
    assert not [problem for problem in found if re.search(r"<class|Traceback|valid types", problem)]


def test_values_of_examples_are_known() -> None:
    instances = {**TEMPLATE["Instances"], "Ec2SubnetId": "subnet-11111111111111111", "Ec2KeyName": "mine"}
    roles = {"ServiceRole": "arn:aws:iam::123456789012:role/EMR", "LogUri": "s3://my-bucket/logs/"}
    assert left_as_examples({**TEMPLATE, **roles, "Instances": instances}) == [
        "Instances.Ec2SubnetId is 'subnet-11111111111111111', which is an example: write your own.",
        "ServiceRole is 'arn:aws:iam::123456789012:role/EMR', which is an example: write your own.",
        "LogUri is 's3://my-bucket/logs/', which is an example: write your own.",
    ]
    real = {"LogUri": "s3://my-company-logs/", "CustomAmiId": "ami-0c55b159cbfafe1f0"}
    assert left_as_examples({**TEMPLATE, **real}) == []


# -- the file: YAML or JSON, read whole, with every key that would be lost


def read(tmp_path: Path, text: str, name: str = "cluster.yaml") -> tuple[dict[str, Any] | None, list[str]]:
    path = tmp_path / name
    path.write_text(text)
    found, problems = read_template(path)
    return found, [problem.removeprefix(f"{path}: ").removeprefix(f"{path} ") for problem in problems]


def test_a_key_that_stands_twice_is_told_with_its_lines(tmp_path: Path) -> None:
    text = yaml.safe_dump(TEMPLATE) + "ReleaseLabel: emr-7.1.0\n"
    first = text.splitlines().index("ReleaseLabel: emr-7.12.0") + 1
    _, problems = read(tmp_path, text)
    assert problems == [
        f"ReleaseLabel stands in lines {first} and {len(text.splitlines())} of one place: keep one."
    ]


def test_a_key_over_a_merged_one_is_no_second(tmp_path: Path) -> None:
    text = "Tags:\n- &t {Key: a, Value: b}\n- {<<: *t, Key: c}\n" + yaml.safe_dump(TEMPLATE)
    found, problems = read(tmp_path, text)
    assert problems == []
    assert found is not None
    assert found["Tags"][1] == {"Key": "c", "Value": "b"}


@pytest.mark.parametrize("indent", [None, 2, 4, "\t"])
def test_json_is_read_in_any_indentation(tmp_path: Path, indent: Any) -> None:
    assert read(tmp_path, json.dumps(TEMPLATE, indent=indent), "cluster.json") == (TEMPLATE, [])


def test_json_with_a_key_twice_is_refused(tmp_path: Path) -> None:
    text = json.dumps(TEMPLATE, indent="\t")[:-1] + ', "ReleaseLabel": "emr-7.1.0"}'
    assert read(tmp_path, text)[1] == ["ReleaseLabel stands 2 times in one place: keep one."]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a list\n", "must hold a RunJobFlow request: keys such as ReleaseLabel and Instances."),
        ("", "must hold a RunJobFlow request: keys such as ReleaseLabel and Instances."),
        ("a: [unclosed\n", "is not YAML: while parsing a flow sequence at line 1, column 4:"),
        ("{'a':\n\t1", "is not JSON: Expecting property name enclosed in double quotes"),
        ("a: &a {b: *a}\n", "is not YAML: Circular reference detected."),
    ],
)
def test_a_file_that_is_no_request_is_explained(tmp_path: Path, text: str, expected: str) -> None:
    found, (problem,) = read(tmp_path, text)
    assert found is None
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "ReleaseLabel: {{ params.release }}\n",
            "{{ ... }} is filled in by nothing here: write the value itself.",
        ),
        ("Instances:\n\tInstanceCount: 1\n", "YAML is indented with spaces, never with tabs."),
    ],
)
def test_what_yaml_says_badly_is_said_again(tmp_path: Path, text: str, expected: str) -> None:
    (problem,) = read(tmp_path, text)[1]
    assert problem.startswith("is not YAML: ")
    assert problem.endswith(f". {expected}")
