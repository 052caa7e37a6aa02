"""What each call costs: few statements, however many rows it is about and however many stand around."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import pytest
from sqlalchemy import Connection

from emr_executor.core.states import WorkloadState
from emr_executor.store.change_store import Change, apply
from emr_executor.store.lease_store import LeaseRow, take_lease
from emr_executor.store.phase_store import claim
from emr_executor.store.scheduler_store import accept, adopt, ask_cancel, deployment_id, take_outcomes
from emr_executor.store.schema import STEERING
from tests.store.builders import (
    ME,
    NOW,
    SCHEDULER,
    a_cluster,
    a_parked,
    a_submission,
    a_workload,
    put_task_instance,
    statements,
    store,
)
from tests.store.contract_builders import LINE, UNKNOWN, an_over, placed

WAITING = [a_workload() for _ in range(20)]
PARKED = [a_parked() for _ in range(64)]
ENDED = [an_over() for _ in range(5)]
RESTARTING = an_over(WorkloadState.CANCELLED)
CLUSTER = a_cluster()


@dataclass(frozen=True)
class Case:
    """A call and how many statements it takes, after what is there already."""

    statements: int
    call: Callable[[Connection], Any]
    before: Callable[[Connection], Any] = lambda conn: store(conn, *PARKED, *ENDED)


def _steered(conn: Connection) -> None:
    take_lease(conn, STEERING, "me", LeaseRow())
    store(conn, CLUSTER, *PARKED)


def _cleared(conn: Connection) -> None:
    store(conn, RESTARTING, *PARKED)
    put_task_instance(conn, RESTARTING, "restarting", ti_id=UNKNOWN)
    take_outcomes(conn, SCHEDULER, 10)


IDS = [w.workload_id for w in (*PARKED, *ENDED)]
TICK = [
    *(Change(old=w, new=placed(w)) for w in PARKED),
    *(Change(old=None, new=a_submission(w, CLUSTER)) for w in PARKED),
]
CASES = {
    "the deployment's id, once it is made": Case(1, deployment_id, before=deployment_id),
    "accept": Case(1, lambda conn: accept(conn, WAITING)),
    "adopt": Case(1, lambda conn: adopt(conn, IDS, 77)),
    "ask_cancel": Case(1, lambda conn: ask_cancel(conn, IDS, "cleared")),
    "no outcome": Case(
        1, lambda conn: take_outcomes(conn, SCHEDULER, 10), before=lambda conn: store(conn, *PARKED)
    ),
    "outcomes": Case(2, lambda conn: take_outcomes(conn, SCHEDULER, 10)),
    "an outcome that is offered again": Case(
        1, lambda conn: take_outcomes(conn, SCHEDULER, 10), before=_cleared
    ),
    "claim": Case(
        3,
        lambda conn: claim(
            conn, WorkloadState.PREPARING, 20, ME, now=NOW, new_token=map(str, count()).__next__
        ),
        before=lambda conn: store(conn, *WAITING),
    ),
    "a tick without a change": Case(
        1, lambda conn: apply(conn, 1, [Change(old=CLUSTER, new=replace(CLUSTER))], []), before=_steered
    ),
    # The lease, submissions, the lock of workloads, workloads, history.
    "a tick": Case(5, lambda conn: apply(conn, 1, TICK, [LINE] * 64), before=_steered),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_call_takes_few_statements_whatever_is_there(conn: Connection, case: Case) -> None:
    case.before(conn)
    with statements(conn) as seen:
        case.call(conn)
    assert len(seen) == case.statements
