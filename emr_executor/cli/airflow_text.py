"""Sentences on Airflow's half of ``explain``: its state, and what holds the task there."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from emr_executor.cli.airflow_facts import WAITING_STATES, AirflowFacts, Limit
from emr_executor.cli.formatting import clock, counted, since

_SEEN = {
    "queued": "Airflow has queued it: its executor has it next.",
    "restarting": "It was cleared while it ran: Airflow waits for the old try to be given up.",
    "deferred": "It is deferred: a trigger of Airflow's own waits for it.",
    "upstream_failed": "Airflow will not run it: a task that it follows did not succeed.",
    "skipped": "It was skipped.",
    "removed": "It is no longer in the DAG.",
    "awaiting_input": "It waits for a person's input in Airflow.",
}
NOTHING_HOLDS = "No limit of Airflow holds it: the scheduler should take it with its next loops."


def airflow_sentences(facts: AirflowFacts, now: datetime) -> list[str]:
    """Where Airflow has the task, and for one that Airflow holds back, what holds it."""
    said = [_where(facts, now)]
    if facts.instances:
        instances = counted(sum(facts.instances.values()), "instance")
        said.append(
            f"The task has {instances} ({_states(facts.instances)}) in this run; this is about map index "
            f"{facts.map_index}, --map-index names another."
        )
    if facts.state in WAITING_STATES:
        said.extend(_why_held(facts, now))
    return said


def _where(facts: AirflowFacts, now: datetime) -> str:
    tries = f"try {facts.try_number} of {facts.max_tries + 1}"
    match facts.state:
        case None:
            return f"Airflow has not scheduled it yet (its DAG run is {facts.run_state})."
        case "scheduled":
            return f"Airflow scheduled it {since(facts.scheduled_at, now)} ago and has not queued it yet."
        case "running":
            return f"Airflow has had it running for {since(facts.start_date, now)} ({tries})."
        case "success" | "failed":
            ended = f" {since(facts.end_date, now)} ago" if facts.end_date else ""
            return f"It is over: {facts.state}{ended} ({tries})."
        case "up_for_retry":
            due = f" at {clock(facts.next_retry_at, now)}" if facts.next_retry_at else ""
            return f"It failed and waits for its retry{due} ({tries})."
        case "up_for_reschedule":
            return "It asked to be run again later (reschedule)."
        case state:
            return _SEEN.get(state, f"Airflow has it as {state}.")


def _why_held(facts: AirflowFacts, now: datetime) -> list[str]:
    said = []
    if not facts.schedulers_alive:
        said.append("No scheduler of Airflow is alive, so nothing is scheduled: start `airflow scheduler`.")
    if facts.dag_paused:
        said.append("Its DAG is paused: unpause it in the UI or with `airflow dags unpause`.")
    if facts.run_state != "running":
        said.append(_run_waits(facts, now))
    if facts.upstream:
        waits_for = "; ".join(f"{up.task_id} ({_states(up.states)})" for up in facts.upstream)
        said.append(f"It waits for upstream tasks (trigger rule {facts.trigger_rule}): {waits_for}.")
    said.extend(f"Airflow's check says: {reason}" for reason in facts.other_reasons)
    if facts.state == "scheduled":
        said.extend(_limit_text(limit) for limit in facts.limits if limit.holds)
        if not facts.executor_known:
            said.append(
                f"Its executor {facts.executor!r} is not in [core] executor, so no scheduler ever takes it: "
                "name it there and restart the scheduler, or take it from the task."
            )
    return said or ([NOTHING_HOLDS] if facts.state in (None, "scheduled") else [])


def _run_waits(facts: AirflowFacts, now: datetime) -> str:
    runs = next((limit for limit in facts.limits if limit.name == "max_active_runs"), None)
    if runs is not None and runs.holds:
        return (
            f"Its DAG run is {facts.run_state}: {counted(runs.used, 'run')} of the DAG are active and "
            f"max_active_runs is {runs.allowed}."
        )
    if facts.run_after is not None and facts.run_after > now:
        return f"Its DAG run is {facts.run_state} until {clock(facts.run_after, now)}."
    return f"Its DAG run is {facts.run_state}, so its tasks are not looked at."


def _limit_text(limit: Limit) -> str:
    used = f"{limit.used} of {limit.allowed}"
    match limit.name:
        case "pool" if limit.allowed == 0:
            return (
                f"Airflow's pool {limit.subject!r} has no slot or does not exist: make one in Admin > Pools."
            )
        case "pool":
            needs = f"; it needs {limit.needed}" if limit.needed > 1 else ""
            return (
                f"Airflow's pool {limit.subject!r} is full: {used} slots are taken{needs}. Parked tasks hold "
                "theirs too: give such tasks a pool of their own with more slots."
            )
        case "max_active_tasks":
            return (
                f"max_active_tasks of the DAG holds it: {used} tasks of this run are queued or running, "
                "parked ones included. Raise max_active_tasks on the DAG."
            )
        case "parallelism":
            return (
                f"[core] parallelism holds it: {used} tasks of other executors run in the scheduler with "
                "most room (parked ones do not count)."
            )
        case name:
            return f"{name} of the task holds it: {used} of its instances are active."


def _states(states: Mapping[str, int]) -> str:
    if list(states.values()) == [1]:
        return next(iter(states))
    return ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
