"""Secrets stay at home: canaries are looked for in everything that leaves a process or is kept."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text

from tests.airflow_stack.components import marked_processes
from tests.with_airflow.conftest import CANARIES, Bench

JWT_HEAD = "eyJhbGciOi"
"""The beginning of every JSON Web Token with an ``alg`` first: {"alg":..."""


def places_with(bench: Bench, needle: str) -> list[str]:
    """Where a text stands: files of S3 and logs, every table of the database, arguments of every process."""
    found = [
        str(path.relative_to(bench.stack.home))
        for folder in ("emr", "logs", "airflow/logs")
        for path in (bench.stack.home / folder).rglob("*")
        if path.is_file() and needle.encode() in _content(path)
    ]
    found += [f"table {name}" for name in _tables_with(bench, needle)]
    return found + [f"process {line}" for line in _arguments(bench) if needle in line]


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def _tables_with(bench: Bench, needle: str) -> list[str]:
    tables = bench.rows("select table_name from information_schema.tables where table_schema = 'public'")
    names = sorted(str(row["table_name"]) for row in tables)
    return [
        name
        for name in names
        if bench.rows(
            f'select 1 from "{name}" t where cast(t as text) like :needle limit 1', needle=f"%{needle}%"
        )
    ]


def _arguments(bench: Bench) -> list[str]:
    lines = []
    for process in marked_processes(bench.stack.mark):
        try:
            lines.append(" ".join(process.cmdline()))
        except psutil.NoSuchProcess:
            continue
    return lines


def test_a_step_that_would_carry_a_password_is_refused_and_says_what_to_do(bench: Bench) -> None:
    run = bench.finished("secrets_near")
    assert run.states() == {"keeps_them": "success", "would_send_them": "failed"}
    log = bench.log("secrets_near", "would_send_them")
    assert "application_args[1]" in log
    assert "Secrets Manager" in log
    assert [name for name in bench.steps_run("secrets_near") if "would_send_them" in name] == []


@pytest.mark.parametrize("kind", sorted(CANARIES))
def test_the_canary_is_found_nowhere(bench: Bench, kind: str) -> None:
    for dag_id in ("phases", "failing", "secrets_near"):
        bench.finished(dag_id)
    assert places_with(bench, CANARIES[kind]) == []


def test_no_token_is_stored_anywhere(bench: Bench) -> None:
    bench.finished("phases")
    assert places_with(bench, JWT_HEAD) == []


@pytest.mark.parametrize("leak", ["s3", "log", "table", "process"])
def test_a_planted_leak_is_found(bench: Bench, leak: str) -> None:
    planted = f"planted-{leak}-2c4e6a"
    process = None
    if leak == "process":
        process = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()", planted],
            stdin=subprocess.PIPE,
            env=bench.stack.airflow_env(),
        )
    elif leak == "table":
        with bench.engine.begin() as connection:
            connection.execute(
                text("insert into log (dttm, event, extra) values (now(), 'planted', :extra)"),
                {"extra": planted},
            )
    elif leak == "s3":
        bench.s3.put_object(Bucket="emr-demo", Key="leak", Body=planted.encode())
    else:
        (bench.stack.home / "airflow" / "logs" / "leak.log").write_text(planted)
    try:
        assert len(places_with(bench, planted)) == 1
    finally:
        if process is not None:
            process.kill()
            process.wait()
