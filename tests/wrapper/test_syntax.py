"""The wrapper runs on the oldest Python of an EMR release that we serve: 3.6, standard library only."""

from __future__ import annotations

import ast
import os
import sys

from tests.wrapper.conftest import WRAPPER


def words(text: str) -> set[str]:
    return set(text.split())


TREE = ast.parse(WRAPPER.read_text(), feature_version=(3, 6))
NEWER_NAMES = words("""
    removeprefix removesuffix is_relative_to raise_signal pidfd_open sched_yield fromisoformat unraisablehook
    excepthook get_running_loop cached_property nullcontext prod time_ns monotonic_ns posix_spawn preadv
    pwritev memfd_create waitstatus_to_exitcode strsignal
""")
NEWER_ARGUMENTS = words("capture_output text process_group umask missing_ok strict usedforsecurity")
MODULES_OF_3_6 = words("""
    calendar collections contextlib hashlib hmac http.client json os re select signal subprocess sys threading
    time urllib.parse
""")


def test_only_modules_that_3_6_has() -> None:
    found = set()
    for node in ast.walk(TREE):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    assert found == MODULES_OF_3_6
    assert {name.partition(".")[0] for name in found} <= sys.stdlib_module_names


def test_no_name_or_argument_newer_than_3_6() -> None:
    names = {node.attr for node in ast.walk(TREE) if isinstance(node, ast.Attribute)}
    arguments = {node.arg for node in ast.walk(TREE) if isinstance(node, ast.keyword)}
    assert names & NEWER_NAMES == set()
    assert arguments & NEWER_ARGUMENTS == set()


def test_no_annotation_is_evaluated_that_3_6_cannot() -> None:
    """``list[str]`` and ``int | None`` fail at import before 3.9 and 3.10 unless they are quoted."""
    for node in ast.walk(TREE):
        annotations = []
        if isinstance(node, ast.FunctionDef):
            arguments = node.args.args + node.args.kwonlyargs
            annotations = [node.returns, *(argument.annotation for argument in arguments)]
            annotations += [a.annotation for a in (node.args.vararg, node.args.kwarg) if a]
        elif isinstance(node, ast.AnnAssign):
            annotations = [node.annotation]
        for annotation in annotations:
            plain = (ast.Name, ast.Constant, ast.Attribute, type(None))
            assert isinstance(annotation, plain), f"line {node.lineno}"


def test_script_can_be_started_by_itself() -> None:
    assert WRAPPER.read_text().startswith("#!/usr/bin/env python3\n")
    assert os.access(WRAPPER, os.X_OK)
