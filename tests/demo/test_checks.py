"""Each check of the demo fails alone when what it says is not so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.demo.builders import GOOD, entry, run, step, task
from tests.demo_run.checks import Check, Evidence, claims


def false_claims(evidence: Evidence) -> list[Check]:
    return [claim for claim in claims(evidence) if not claim.holds]


def test_a_good_run_has_no_false_claim() -> None:
    assert false_claims(GOOD) == []


SECOND_TRY = run(task("month", 0, try_number=2), task("month", 1), task("merge"), task("check"))
UNHURT = (step("month[0]"), step("month[1]", cluster="j-B"), step("merge"))
BOTH_ACTIVE = [
    entry("process_started", "j-A", step_id=f"s-{n}", step_name=f"airflow-emr/w-{n}/delays_by_month.merge")
    for n in (1, 2)
]


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"run": run(state="failed")}, "failed"),
        ({"run": SECOND_TRY}, "month[0] is success on try 2"),
        ({"ran": (*GOOD.ran, step("merge", n=2))}, "merge has 2"),
        ({"ran": GOOD.ran[:-1]}, "merge has 0"),
        ({"lost_cluster": None, "losses": {}}, "no cluster was taken away: two were never at work at once"),
        ({"entries": GOOD.entries[:2]}, "no cluster was taken away: two were never at work at once"),
        ({"ran": UNHURT}, "no step was lost with j-B"),
        ({"losses": {}}, "month[1]: no reason told"),
        ({"entries": (*GOOD.entries, *BOTH_ACTIVE)}, "s-1 and s-2"),
        ({"entries": (*GOOD.entries, entry("cluster_launched", "j-C"))}, "at most 3"),
        (
            {"checked": {**GOOD.checked, "flights": 9}},
            "9 flights on 2 routes; task check is success",
        ),
    ],
)
def test_what_is_not_so_is_named_alone(changes: dict[str, Any], seen: str) -> None:
    (claim,) = false_claims(replace(GOOD, **changes))
    assert claim.seen == seen
