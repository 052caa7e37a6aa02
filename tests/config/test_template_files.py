"""A template's file: YAML or JSON, read whole, with every key that would be lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from emr_executor.cluster_template import read_template
from tests.config.test_cluster_template import TEMPLATE


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
