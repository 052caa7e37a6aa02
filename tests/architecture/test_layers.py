"""The import table of the package holds; see ``rules``."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.rules import ASYNC_ALLOWED, RULES, Rule

ROOT = Path(__file__).parents[2]
FILES = sorted(path for part in ("emr_executor", "tests/simulator") for path in (ROOT / part).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def rule_of(module: str) -> Rule:
    name = module
    while name not in RULES:
        name = name.rpartition(".")[0]
    if name == "emr_executor" != module:
        pytest.fail(f"{module} has no row in tests/architecture/rules.py: say there what it may import")
    return RULES[name]


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            base = node.module or ""
            if base == "emr_executor":
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, base


def part_of(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


def complaint(module: str, imported: str) -> str | None:
    """Why the import is against the table, or None."""
    rule, top = rule_of(module), imported.partition(".")[0]
    if top == "emr_executor":
        part, name = part_of(imported), imported.partition(".")[2]
        free = (
            part in {part_of(module), "__version__", ""}
            or rule.ours is None
            or bool({part, name} & rule.ours)
        )
        return None if free else f"may import of ours only {sorted(rule.ours or ())}"
    if top in sys.stdlib_module_names:
        free = rule.stdlib is None or top in rule.stdlib
        return None if free else "this standard library module is outside the pure list"
    free = rule.theirs is None or top in rule.theirs
    return None if free else f"may import of others only {sorted(rule.theirs or ())}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_follow_the_table(path: Path) -> None:
    module = module_name(path)
    broken = [
        f"{path.relative_to(ROOT)}:{line}: import of {imported}: {why}"
        for line, imported in imports(ast.parse(path.read_text()))
        if (why := complaint(module, imported))
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_coroutines_live_only_where_the_loop_does(path: Path) -> None:
    module, tree = module_name(path), ast.parse(path.read_text())
    if module.startswith(ASYNC_ALLOWED):
        return
    assert "asyncio" not in {imported.partition(".")[0] for _, imported in imports(tree)}
    assert not [node.name for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)]


def test_the_core_reads_no_clock() -> None:
    """``now`` comes in with the snapshot or the event."""
    for path in (ROOT / "emr_executor" / "core").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                assert (
                    node.attr not in {"now", "utcnow", "today"}
                    or not isinstance(node.value, ast.Name)
                    or (node.value.id not in {"datetime", "date"})
                ), f"{path.name}:{node.lineno}"


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("emr_executor.core.plan", "time"),
        ("emr_executor.core.plan", "emr_executor.store.rows"),
        ("emr_executor.agent.tracker", "emr_executor.aws.emr"),
        ("emr_executor.executor", "aiobotocore"),
        ("emr_executor.store.rows", "airflow.models"),
        ("emr_executor.wrapper.emr_step_wrapper", "boto3"),
        ("emr_executor.provider_info", "airflow"),
    ],
)
def test_the_table_refuses_what_it_should(module: str, imported: str) -> None:
    assert complaint(module, imported)
