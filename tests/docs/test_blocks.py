"""Every block of code in README and docs is parsed, and does what its text says."""

from __future__ import annotations

import ast
import configparser
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent, indent

import pytest
import yaml
from airflow.cli.cli_parser import get_parser
from airflow.configuration import conf
from airflow.dag_processing.dagbag import DagBag

from emr_executor.cli.definition import get_emr_cli_commands
from emr_executor.config_load import load_settings_from

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
AROUND = """
from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG

with DAG("around_it", schedule=None):
"""
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
EMR_COMMANDS = {command.name for command in get_emr_cli_commands()[0].subcommands}


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in FENCE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            if match[2] in languages:
                found.append(Block(page.name, line, match[2], dedent(match[3])))
    return found


@pytest.mark.parametrize("block", blocks("ini"), ids=str)
def test_a_configuration_can_be_copied(block: Block, tmp_path: Path) -> None:
    (tmp_path / "airflow.cfg").write_text(block.text)
    parser = configparser.ConfigParser()
    parser.read(tmp_path / "airflow.cfg")
    described = conf.configuration_description
    for section in parser.sections():
        for option, value in parser[section].items():
            assert option in described[section]["options"], f"[{section}] {option} is no option"
            assert "#" not in value, f"Airflow takes a comment behind a value as a part of it: {value}"
    if parser.has_option("core", "executor"):
        ours = [name for name in parser["core"]["executor"].split(",") if "emr" in name]
        assert ours == ["emr_executor.EmrExecutor"]
    if parser.has_section("emr_executor"):
        path = tmp_path / parser["emr_executor"]["cluster_template"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((ROOT / "config" / "clusters" / "local.yaml").read_text())
        settings = load_settings_from(dict(parser["emr_executor"]), base_dir=tmp_path)
        assert settings.cluster_pools[0].queues == ("emr",)


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_can_be_copied(block: Block, tmp_path: Path) -> None:
    ast.parse(block.text)
    if "SparkSubmitOperator" not in block.text:
        return
    text = block.text if "import" in block.text else AROUND + indent(block.text, "    ")
    (tmp_path / "block.py").write_text(text)
    bag = DagBag(tmp_path, bundle_path=tmp_path, bundle_name="docs")
    assert bag.import_errors == {}
    (dag,) = bag.dags.values()
    assert [task.queue for task in dag.tasks] == ["emr"]


def test_data_can_be_copied() -> None:
    for block in blocks("json", "yaml"):
        assert json.loads(block.text) if block.language == "json" else yaml.safe_load(block.text), block


@pytest.mark.parametrize("block", blocks("sh"), ids=str)
def test_commands_can_be_copied(block: Block) -> None:
    for line in block.text.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert {word for word in words[1:] if "=" not in word} <= TARGETS
        elif words[:1] == ["airflow"]:
            get_parser().parse_args(words[1:])
        else:
            assert not words or words[0] in {"export", "uv", "pip", "python"}, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_named_exists(page: Path) -> None:
    text = page.read_text()
    assert set(re.findall(r"`make ([a-z][a-z-]*)", text)) <= TARGETS
    assert set(re.findall(r"\bairflow emr ([a-z][a-z-]*)", text)) <= EMR_COMMANDS
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_walk_of_a_try_names_each_function_once_and_as_it_is() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    walk = text[text.index("## One try") : text.index("## Decisions")]
    named = re.findall(r"`([a-z_]+(?:\.\w+)+)`", walk)
    assert len(named) == len(set(named)) >= 25
    for name in named:
        words = name.split(".")
        [depth] = [n for n in range(1, len(words)) if module(words[:n]).is_file()]
        node: ast.AST = ast.parse(module(words[:depth]).read_text())
        for word in words[depth:]:
            node = next(one for one in ast.iter_child_nodes(node) if getattr(one, "name", None) == word)


def module(words: list[str]) -> Path:
    return ROOT.joinpath("emr_executor", *words).with_suffix(".py")
