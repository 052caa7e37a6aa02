"""The checker of idle slots, on ledgers made by hand."""

from __future__ import annotations

import pytest

from emr_executor.aws.launch import cluster_name
from emr_executor.core.model import ClusterUuid
from emr_executor.local.ledger import LedgerEntry
from tests.simulation.ledgers import US, Ledgers


@pytest.fixture
def crowded() -> Ledgers:
    """s1 runs on c since 10, s2 waits behind it since 20, and c2 is up since 30; one slot each."""
    told = Ledgers()
    told.launch()
    told.queued(5)
    told.terms |= {"slots": {"default": 1}, "unhindered_from": 0.0, "max_clusters": {"default": 2}}
    for number in (1, 2):
        told.airflow_event(5, "queued", f"x{number}")
        told.reported(400, "success", f"x{number}")
    told.add(10, "s1", "x1-1")
    told.start(10, "s1")
    told.add(20, "s2", "x2-1")
    told.launch(30, "c2")
    told.reported(400, "success")
    return told


def _finish(told: Ledgers, at: float) -> set[str]:
    """s1 ends, s2 runs after it; what is broken of the promise."""
    told.end(at, "s1")
    told.start(at, "s2")
    told.end(at + 1, "s2")
    return told.broken() & {"no_idle_slot"}


@pytest.mark.parametrize(("ends_at", "broken"), [(89, set()), (91, {"no_idle_slot"})])
def test_a_step_behind_others_while_a_slot_was_free(
    crowded: Ledgers, ends_at: float, broken: set[str]
) -> None:
    assert _finish(crowded, ends_at) == broken


def test_a_wait_while_nobody_could_see_the_slot(crowded: Ledgers) -> None:
    crowded.terms["unhindered_from"] = 40.0
    assert _finish(crowded, 91) == set()
    crowded.terms["unhindered_from"] = None
    assert _finish(crowded, 91) == set()


def test_a_slot_that_others_took_ends_the_wait(crowded: Ledgers) -> None:
    for number, at in enumerate((60, 120, 180)):
        crowded.add(at, f"o{number}", f"x{number}-9", "c2")
        crowded.start(at, f"o{number}")
        crowded.end(at + 30, f"o{number}")
    assert _finish(crowded, 200) == set()


def test_a_step_that_was_moved_waited_no_longer(crowded: Ledgers) -> None:
    crowded.step(80, "s2", "step_state", "CANCELLED")
    crowded.add(81, "s3", "x2-2", "c2")
    crowded.start(81, "s3")
    assert crowded.broken() & {"no_idle_slot"} == set()
    crowded.end(300, "s1")
    assert crowded.broken() & {"no_idle_slot"} == set()


def test_a_step_of_a_cluster_that_was_lost_waited_for_nothing(crowded: Ledgers) -> None:
    crowded.emr.append(
        LedgerEntry(len(crowded.emr), 50, "cluster_lost", "c", cluster_name(US, "default", ClusterUuid("c")))
    )
    crowded.step(200, "s2", "step_state", "CANCELLED")
    assert crowded.broken() & {"no_idle_slot"} == set()
