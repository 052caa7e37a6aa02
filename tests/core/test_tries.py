"""While a step of one try of a task may live, no other try gets one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from emr_executor.core.model import Workload
from emr_executor.core.placement import WaitKind
from emr_executor.core.states import WorkloadState, WorkloadTarget
from tests.builders import ago, decide, make_cluster, make_snapshot, make_submission, make_workload


def tries(*states: WorkloadState, **changes: Any) -> list[Workload]:
    """Tries 1, 2, ... of one task, in such states; none of them is known to be unwanted."""
    key = make_workload("w").key
    return [
        make_workload(
            f"w{n}", key=replace(key, try_number=n), state=state, accepted_at=ago(100 - n), **changes
        )
        for n, state in enumerate(states, 1)
    ]


def test_of_two_tries_that_wait_the_last_gets_the_slot() -> None:
    """Airflow began the next try, and we have not heard yet that the one before is over."""
    waiting = tries(WorkloadState.READY, WorkloadState.READY, WorkloadState.READY)
    decided = decide(make_snapshot(make_cluster(slots=8), *waiting))
    assert [p.workload_ids for p in decided.place] == [("w3",)]
    assert {(w.workload_id, w.kind) for w in decided.waiting} == {
        ("w1", WaitKind.LATER_TRY),
        ("w2", WaitKind.LATER_TRY),
    }


@pytest.mark.parametrize("target", list(WorkloadTarget))
def test_a_try_waits_while_the_step_of_another_lives(target: WorkloadTarget) -> None:
    older, newer = tries(WorkloadState.SUBMITTED, WorkloadState.READY)
    older = replace(older, target=target, submissions=1)
    decided = decide(make_snapshot(make_cluster(slots=8), older, newer, make_submission("w1")))
    assert decided.place == ()
    assert [w.kind for w in decided.waiting] == [WaitKind.OTHER_TRY]


def test_a_late_word_of_an_older_try_does_not_give_it_a_step_beside_the_newer() -> None:
    older, newer = tries(WorkloadState.READY, WorkloadState.SUBMITTED)
    newer = replace(newer, submissions=1)
    decided = decide(make_snapshot(make_cluster(slots=8), older, newer, make_submission("w2")))
    assert decided.place == ()


def test_what_waits_for_another_try_launches_nothing() -> None:
    """The step of the try before holds the slot that the last one will get."""
    older, newer = tries(WorkloadState.SUBMITTED, WorkloadState.READY)
    rows = (make_cluster(slots=1), replace(older, submissions=1), make_submission("w1"), newer)
    assert decide(make_snapshot(*rows), prefetch=0).launch == ()
    assert len(decide(make_snapshot(*rows, make_workload("other")), prefetch=0).launch) == 1
