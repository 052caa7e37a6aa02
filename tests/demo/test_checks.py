"""Each check of the demo fails alone when what it says is not so."""

from __future__ import annotations

from dataclasses import replace

from tests.demo.builders import CHECKED, ledger_with_a_loss, ran_with_a_loss, run, step, task
from tests.demo_run.checks import Check, Evidence, claims

GOOD = Evidence(
    run=run(),
    ran=ran_with_a_loss(),
    entries=ledger_with_a_loss().entries,
    losses={"month[1]": ("cluster j-B ended",)},
    lost_cluster="j-B",
    checked=CHECKED,
)


def judge(evidence: Evidence) -> list[Check]:
    judged = claims(
        evidence,
        step_tasks=frozenset({"month", "merge"}),
        check_task="check",
        max_clusters=2,
        flights=10,
    )
    return [claim for claim in judged if not claim.holds]


def only_false(evidence: Evidence) -> Check:
    (claim,) = judge(evidence)
    return claim


def test_a_good_run_has_no_false_claim() -> None:
    assert judge(GOOD) == []


def test_a_run_that_failed_is_named() -> None:
    assert only_false(replace(GOOD, run=run(state="failed"))).seen == "failed"


def test_a_second_try_is_named() -> None:
    tasks = run(task("month", 0, try_number=2), task("month", 1), task("merge"), task("check"))
    assert only_false(replace(GOOD, run=tasks)).seen == "month[0] is success on try 2"


def test_a_task_that_emr_completed_twice_is_named() -> None:
    twice = replace(GOOD, ran=(*GOOD.ran, step("merge", n=2)))
    assert only_false(twice).seen == "merge has 2"


def test_a_task_that_never_was_a_step_is_named() -> None:
    without = replace(GOOD, ran=tuple(ran for ran in GOOD.ran if ran.task != "merge"))
    assert only_false(without).seen == "merge has 0"


def test_no_loss_is_no_success() -> None:
    assert "no cluster was taken away" in only_false(replace(GOOD, lost_cluster=None, losses={})).seen


def test_a_loss_that_emr_never_had_is_no_success() -> None:
    assert "no cluster was taken away" in only_false(replace(GOOD, entries=GOOD.entries[:2])).seen


def test_a_loss_that_hit_no_step_is_no_success() -> None:
    unhurt = (step("month[0]"), step("month[1]", cluster="j-B"), step("merge"))
    assert only_false(replace(GOOD, ran=unhurt)).seen == "no step was lost with j-B"


def test_a_resubmission_without_a_reason_is_named() -> None:
    assert only_false(replace(GOOD, losses={})).seen == "month[1]: no reason told"


def test_two_active_steps_of_one_task_are_named() -> None:
    ledger = ledger_with_a_loss()
    for n in (1, 2):
        name = f"airflow-emr/w-{n}/delays_by_month.merge"
        ledger.add("process_started", "j-A", step_id=f"s-{n}", step_name=name)
    assert only_false(replace(GOOD, entries=ledger.entries)).seen == "s-1 and s-2"


def test_a_third_cluster_is_named() -> None:
    ledger = ledger_with_a_loss().add("cluster_launched", "j-C")
    assert only_false(replace(GOOD, entries=ledger.entries)).seen == "at most 3"


def test_other_figures_are_named() -> None:
    claim = only_false(replace(GOOD, checked={**CHECKED, "flights": 9}))
    assert claim.seen.startswith("9 flights on 2 routes")
