"""All that meet on the same rows on PostgreSQL, statement by statement, in every order of turns.

What may come of it stands in ``interleaving_rules``, who meets where in ``interleaving_situations``.
"""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Iterator
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, select, update
from sqlalchemy.exc import OperationalError

from emr_executor import store as store_package
from emr_executor.store import history_store, lease_store, phase_store, scheduler_store, snapshot_store
from emr_executor.store.change_store import apply
from emr_executor.store.schema import CLUSTER, WORKLOAD
from tests.postgres import fresh_database
from tests.store.builders import a_cluster, a_workload, store
from tests.store.interleaving import BUSY, Deadlock, Interleaver, Transaction, every_order
from tests.store.interleaving_databases import Postgres
from tests.store.interleaving_operations import OLD_SCHEDULER, Operation, scheduler_of
from tests.store.interleaving_rules import Rules
from tests.store.interleaving_situations import BY_NAME, SITUATIONS, Situation

LARGE = {
    ("crossing", "cluster first", "submission first"),
    ("crossing", "workload first", "launch"),
    ("crossing", "workload first", "submission first"),
    ("over", "purge", "purge"),
    ("ready", "place both", "snapshot"),
    ("submitted", "end", "snapshot"),
    ("submitted", "lose", "snapshot"),
}
"""Pairs with more than 300 orders: only ``make test-all`` runs them."""
TRIPLES = (
    ("new", "accept one", "accept one", "claim 2"),
    ("new", "take_lease", "take_lease", "take_lease"),
    ("preparing", "free_claim", "renew_claim", "record_parked"),
    ("preparing", "free_claim", "record_over", "ask_cancel"),
    ("preparing", "free_claim", "claim 2", "record_over"),
    ("ready", "take_lease", "wait", "ask_cancel"),
    ("ready", "take_lease", "beat_lease", "hold_lease"),
    ("submitted", "claim 2", "ask_cancel", "accept"),
    ("finishing", "record_over", "take_outcomes", "accept"),
    ("over", "take_outcomes", "accept finished", "take_outcomes"),
    ("over", "take_outcomes", "accept finished", "ask_cancel"),
)
LARGE_TRIPLES = (
    ("accepted", "claim 2", "claim 1", "ask_cancel"),
    ("preparing", "free_claim", "claim 2", "claim 2"),
    ("ready", "take_lease", "place", "place by the next"),
    ("over", "take_outcomes", "accept finished", "purge"),
)


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    made = Postgres(fresh_database())
    yield made
    made.close()


@pytest.fixture(scope="module")
def interleaver(database: Postgres) -> Iterator[Interleaver]:
    made = Interleaver(database)
    yield made
    made.close()


def pairs() -> Iterator[Any]:
    for situation in SITUATIONS:
        for one, two in combinations_with_replacement(situation.operations, 2):
            marks = [pytest.mark.matrix] if (situation.name, one.name, two.name) in LARGE else []
            name = f"{situation.name}: {one.name} and {two.name}"
            yield pytest.param(situation, (one, two), id=name, marks=marks)


def triples() -> Iterator[Any]:
    for names in (*TRIPLES, *LARGE_TRIPLES):
        situation = BY_NAME[names[0]]
        operations = tuple(map(situation.operation, names[1:]))
        marks = [pytest.mark.matrix] if names in LARGE_TRIPLES else []
        yield pytest.param(situation, operations, id=f"{names[0]}: {', '.join(names[1:])}", marks=marks)


@pytest.mark.processes  # over a minute: too long for make check
@pytest.mark.parametrize(("situation", "operations"), [*pairs(), *triples()])
def test_in_every_order_it_is_as_if_one_came_after_the_other(
    interleaver: Interleaver, situation: Situation, operations: tuple[Operation, ...]
) -> None:
    interleaver.database.keep(situation.fill)
    rules = Rules(interleaver, operations)
    transactions = [operation.by(side) for side, operation in enumerate(operations)]
    runs = 0
    for run in every_order(lambda choose: interleaver.run(transactions, choose)):
        rules.check(run)
        runs += 1
    assert runs >= math.factorial(len(operations))


# -- locks -------------------------------------------------------------------------------------------

LOCK_ORDER = (
    "task_instance",
    "emr_deployment",
    "emr_agent",
    "emr_lease",
    "emr_workload",
    "emr_submission",
    "emr_cluster",
    "emr_history",
)


def operations() -> Iterator[Any]:
    for situation in SITUATIONS:
        for operation in situation.operations:
            if not operation.read_only:
                yield pytest.param(situation, operation, id=f"{situation.name}: {operation.name}")


@pytest.mark.parametrize(("situation", "operation"), list(operations()))
def test_whoever_waits_for_a_row_has_locked_none_behind_it(
    database: Postgres, interleaver: Interleaver, situation: Situation, operation: Operation
) -> None:
    """One order of all rows for all who wait: no number of sessions can wait for each other in a circle."""
    database.keep(situation.fill)
    with interleaver.as_far_as_it_can(operation.by(0)):
        wanted = database.locked_rows()
    for row in sorted(wanted):
        with interleaver.as_far_as_it_can(operation.by(0), [row]) as waits:
            locked = database.locked_rows()
        assert not waits or all(_place(other) <= _place(row) for other in locked), (row, locked)


def _place(row: tuple[str, str]) -> tuple[int, str]:
    return LOCK_ORDER.index(row[0]), row[1]


def test_who_loses_against_a_scheduler_that_hands_over_many_tries_again(interleaver: Interleaver) -> None:
    """The one place without an order of locks: Airflow's transaction hands over in the order of its own.

    Two live tries that are handed over again in one transaction can meet a call for both. PostgreSQL ends one
    of the two after ``deadlock_timeout`` (1 s): the call, which is made again, or one hand-over, of which the
    executor's savepoint keeps the rest of the scheduler's transaction free.
    """
    situation = BY_NAME["ready"]
    interleaver.database.keep(situation.fill)
    both = situation.operation("accept").each
    late: list[Operation] = []

    def hand_over(conn: Connection) -> None:
        for one in reversed(both):
            try:
                with conn.begin_nested():
                    one.by(0).work(conn)
            except OperationalError:
                late.append(one)

    cancel = situation.operation("ask_cancel").by(1)
    turns = iter((0, 0, 1, 0))
    interleaver.leaves_deadlocks = True
    try:
        run = interleaver.run([Transaction(hand_over), cancel], lambda ready: next(turns, ready[0]))
    finally:
        interleaver.leaves_deadlocks = False
    assert run.answers[0] is None, run.told()
    assert (run.answers[1] == BUSY) != bool(late), run.told()
    owners = {row["scheduler_job_id"] for row in run.state["emr_workload"]}
    assert owners == ({OLD_SCHEDULER, scheduler_of(0)} if late else {scheduler_of(0)})


# -- what the runs would notice ----------------------------------------------------------------------


def test_a_lost_update_would_be_noticed(interleaver: Interleaver) -> None:
    """Two that read, then write what they read plus one: some order loses one of the two."""
    cluster = a_cluster(slots=0)
    interleaver.database.keep(lambda conn: store(conn, cluster))

    def add_one(conn: Connection) -> None:
        slots = conn.execute(select(CLUSTER.c.slots)).scalar_one()
        conn.execute(update(CLUSTER).values(slots=slots + 1))

    two = [Transaction(add_one), Transaction(add_one)]
    ends = [
        run.state["emr_cluster"][0]["slots"]
        for run in every_order(lambda choose: interleaver.run(two, choose))
    ]
    assert set(ends) == {1, 2}


def test_sessions_that_wait_for_each_other_would_be_noticed(interleaver: Interleaver) -> None:
    clusters = [a_cluster(), a_cluster()]
    interleaver.database.keep(lambda conn: store(conn, *clusters))

    def touch(*them: Any) -> Transaction:
        def work(conn: Connection) -> None:
            for one in them:
                conn.execute(
                    update(CLUSTER).where(CLUSTER.c.cluster_uuid == one.cluster_uuid).values(slots=9)
                )

        return Transaction(work)

    crossed = [touch(*clusters), touch(*reversed(clusters))]
    with pytest.raises(Deadlock):
        list(every_order(lambda choose: interleaver.run(crossed, choose)))
    alike = [touch(*clusters), touch(*clusters)]
    assert list(every_order(lambda choose: interleaver.run(alike, choose)))


def test_transactions_that_do_not_meet_take_turns_in_all_ways(interleaver: Interleaver) -> None:
    interleaver.database.keep(lambda conn: store(conn, a_workload()))

    def look(times: int) -> Transaction:
        def work(conn: Connection) -> None:
            for _ in range(times):
                conn.execute(select(func.count()).select_from(WORKLOAD))

        return Transaction(work)

    runs = list(every_order(lambda choose: interleaver.run([look(2), look(3)], choose)))
    assert len({run.turns for run in runs}) == len(runs) == math.comb(3 + 4, 3)


def test_every_statement_of_many_rows_has_a_turn(interleaver: Interleaver) -> None:
    """psycopg2 sends an ``executemany`` as one statement for each row."""
    situation = BY_NAME["accepted"]
    interleaver.database.keep(situation.fill)
    run = interleaver.run([situation.operation("accept").by(0)], lambda ready: ready[0])
    assert [what.split()[0] for _, what in run.turns] == ["INSERT", "INSERT", "COMMIT"]


# -- nobody is left out ------------------------------------------------------------------------------

_WRITING = {"insert", "update", "delete", "upsert", "in_lock_order"}


def writers() -> set[str]:
    """The store's functions that write or lock, by themselves or through what they name."""
    named: dict[str, set[str]] = {}
    functions: set[str] = set()
    for path in Path(inspect.getfile(store_package)).parent.glob("*_store.py"):
        for node in ast.parse(path.read_text()).body:
            match node:
                case ast.FunctionDef(name=name):
                    functions.add(name)
                    named[name] = set(_named(node))
                case (
                    ast.Assign(targets=[ast.Name(id=name)], value=value)
                    | ast.AnnAssign(target=ast.Name(id=name), value=ast.AST() as value)
                ):
                    named[name] = set(_named(value))
    writing = {name for name, others in named.items() if others & (_WRITING | {".with_for_update"})}
    while more := {name for name, others in named.items() if others & writing} - writing:
        writing |= more
    return {name for name in writing & functions if not name.startswith("_")}


def _named(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        match part:
            case ast.Name(id=name):
                yield name
            case ast.Attribute(attr=name):
                yield f".{name}"


def test_every_function_that_writes_meets_others() -> None:
    met = {operation.of.__name__ for situation in SITUATIONS for operation in situation.operations}
    assert writers() - met == set(), "give these an Operation in interleaving_situations"


def test_the_search_for_functions_that_write_finds_them() -> None:
    known = {
        scheduler_store.accept,
        scheduler_store.take_outcomes,
        phase_store.claim,
        phase_store.renew_claim,
        lease_store.hold_lease,
        history_store.purge,
        apply,
    }
    assert {function.__name__ for function in known} <= writers()
    assert snapshot_store.snapshot.__name__ not in writers()
