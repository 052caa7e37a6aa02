"""Sentences on our half of ``explain``: where a workload is, what it waits for, what happened to it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from emr_executor.cli import quarantine
from emr_executor.cli.airflow_facts import WAITING_STATES, AirflowFacts
from emr_executor.cli.emr_facts import OurFacts, PoolFacts, Stay, WorkloadFacts
from emr_executor.cli.formatting import clause, clock, counted, since
from emr_executor.cli.status import NO_AGENT, START_AGENT
from emr_executor.core.model import StepOutcome
from emr_executor.core.states import (
    LIVE_SUBMISSION_STATES,
    UP_CLUSTER_STATES,
    ClusterState,
    SubmissionState,
    WorkloadState,
    WorkloadTarget,
)
from emr_executor.core.waiting_in_line import for_task_runner
from emr_executor.store.clauses import OVER_WORKLOAD_STATES


def our_sentences(airflow: AirflowFacts, ours: OurFacts, now: datetime) -> Iterator[str]:
    """Where we have the task; for one that we never had, why."""
    workload = ours.workload
    if workload is None:
        yield from _not_ours(airflow, ours, now)
        return
    if workload.state not in OVER_WORKLOAD_STATES:
        if ours.agent is None:
            yield f"Nothing moves: {NO_AGENT}; {START_AGENT}."
        if workload.target == WorkloadTarget.CANCEL:
            yield f"It is being cancelled: {workload.cancel_reason or 'no longer wanted'}."
        yield from _quarantines(workload)
    if workload.quarantine is None or workload.state != WorkloadState.READY:
        yield from _by_state(ours, workload, now)
    yield from _losses(ours, workload)


def _quarantines(workload: WorkloadFacts) -> Iterator[str]:
    """The bugs that hold the task."""
    if bug := workload.quarantine:
        met = "It is in quarantine, since the executor met a bug on it"
        yield quarantine.sentences(met, bug, "workload", target=workload.target)
    for stay in _live(workload):
        held = {
            "submission": (f"Its submission {stay.n}", stay.quarantine),
            "cluster": (f"Cluster {stay.cluster_id}", stay.cluster_quarantine),
        }
        for entity, (name, bug) in held.items():
            if bug:
                held_so = f"{name} is in quarantine"
                yield quarantine.sentences(held_so, bug, entity, cluster_id=stay.cluster_id)


def _not_ours(airflow: AirflowFacts, ours: OurFacts, now: datetime) -> list[str]:
    said = []
    problems = "; ".join(ours.config_problems)
    if ours.serves is None:
        said.append(f"The executor would refuse it, since the configuration cannot be used: {problems}")
    elif not ours.serves:
        said.append(
            f"Its queue {airflow.queue!r} is none of ours ({', '.join(ours.queues)}), so another executor "
            "runs it."
        )
    elif airflow.state in ("queued", "running"):
        said.append(
            "EmrExecutor has no record of this try: another executor runs it, or the scheduler runs with "
            "another configuration than this command."
        )
    if ours.serves and problems:
        said.append(f"The configuration has problems: {problems}")
    if ours.earlier is not None:
        said.append(_earlier(ours.earlier, now))
    elif not said and airflow.state in WAITING_STATES:
        said.append("EmrExecutor gets it once Airflow queues it.")
    return said


def _earlier(earlier: WorkloadFacts, now: datetime) -> str:
    if earlier.state in OVER_WORKLOAD_STATES:
        return f"Try {earlier.try_number} was ours: {_end(earlier, now)}"
    wanted = f"is being cancelled ({earlier.cancel_reason or 'no longer wanted'})"
    if earlier.target != WorkloadTarget.CANCEL:
        wanted = f"is ours and is {earlier.state}"
    live = [_stays(stay, now) for stay in _live(earlier)]
    after = ["The next try gets no step before it is over."] if live else []
    return " ".join([f"Try {earlier.try_number} {wanted} and not over yet.", *live, *after])


def _by_state(ours: OurFacts, workload: WorkloadFacts, now: datetime) -> list[str]:
    attempt = f" (attempt {workload.phase_attempts})" if workload.phase_attempts > 1 else ""
    match workload.state:
        case WorkloadState.ACCEPTED:
            return [_phase_waits("prepared", ours, workload, workload.accepted_at, now)]
        case WorkloadState.PREPARING:
            return [f"Its user code is being prepared on {workload.host}{attempt}."]
        case WorkloadState.READY:
            return _ready(ours, workload, now)
        case WorkloadState.SUBMITTED:
            stays = [_stays(stay, now) for stay in _live(workload)]
            why = ours.waiting.why if ours.waiting else None
            return [*stays, f"It waits: {clause(why)}."] if why else stays
        case WorkloadState.FINISHABLE:
            ended = workload.outcome.ended_at if workload.outcome else None
            waits = _phase_waits("finished in Airflow", ours, workload, ended, now)
            return [f"Its step is over: {_outcome(workload.outcome)}.", waits]
        case WorkloadState.FINISHING:
            told = f"Airflow is being told on {workload.host}{attempt}."
            return [f"Its step is over: {_outcome(workload.outcome)}.", told]
        case _:
            return [_end(workload, now)]


def _phase_waits(
    what: str, ours: OurFacts, workload: WorkloadFacts, at: datetime | None, now: datetime
) -> str:
    """A phase that no process has claimed."""
    if workload.phase_attempts or workload.not_before:
        is_bounded = workload.state == WorkloadState.FINISHABLE and ours.finish_attempts
        bound = f" of {ours.finish_attempts}" if is_bounded else ""
        # In an outage the attempt is given back.
        attempts = (
            f"attempt {workload.phase_attempts}{bound}" if workload.phase_attempts else "none that counts"
        )
        why = next((line.text for line in reversed(ours.story) if line.event == "phase_retried"), "")
        told = f", last: {why}" if why else ""
        due = f" not before {clock(workload.not_before, now)}" if workload.not_before else ""
        return f"It is to be {what} and was tried ({attempts}{told}); it is tried again{due}."
    waited = f"has waited {since(at, now)}" if at else "waits"
    ahead = f", behind {counted(ours.ahead, 'other')}" if ours.ahead else ""
    return f"It {waited} {for_task_runner(what, ours.task_runner_parallelism)}{ahead}."


def _ready(ours: OurFacts, workload: WorkloadFacts, now: datetime) -> list[str]:
    waiting, pool = ours.waiting, ours.pool
    position = f"behind {counted(ours.ahead, 'other')}" if ours.ahead else "first in its line"
    head = f"Its step is parked for {since(workload.ready_at, now)} and waits for a slot, {position}"
    if waiting is None or pool is None or (waiting.why is None and waiting.goes_to is None):
        problems = "; ".join(ours.config_problems)
        return [f"{head}.", f"Why cannot be told without the configuration: {problems}"]
    if waiting.goes_to:
        return [f"{head}.", f"A slot is free on {waiting.goes_to}: the next look of the agent puts it there."]
    return [f"{head}: {clause(waiting.why or '')}.", *_pool_sentences(pool, waiting.launch, now)]


def _pool_sentences(pool: PoolFacts, launch: str | None, now: datetime) -> Iterator[str]:
    for row in pool.clusters:
        if row.ready_at is None and row.state not in {*UP_CLUSTER_STATES, ClusterState.TERMINATING}:
            name = f"Cluster {row.cluster_id}" if row.cluster_id else "A cluster"
            yield f"{name} is {row.state} for {since(row.intended_at, now)}."
    up = [row for row in pool.clusters if row.state in UP_CLUSTER_STATES]
    if up:
        used = "; ".join(f"{row.cluster_id} {row.slots_used}/{row.slots} slots, {row.target}" for row in up)
        yield f"Up: {used}."
    if pool.failed_launches > 1:
        yield f"The last {pool.failed_launches} launches of its pool failed."
    if launch:
        yield f"The agent is about to launch a cluster: {launch}."


def _live(workload: WorkloadFacts) -> list[Stay]:
    return [stay for stay in workload.stays if stay.state in LIVE_SUBMISSION_STATES]


def _stays(stay: Stay, now: datetime) -> str:
    where = f"cluster {stay.cluster_id or '(launching)'}"
    step = f" as step {stay.step_id}" if stay.step_id else ""
    leaving = ", which EMR is asked to cancel (CANCEL_PENDING)" if stay.is_leaving else ""
    match stay.state:
        case SubmissionState.INTENDED:
            return f"It is being added to {where} (submission {stay.n}) for {since(stay.intended_at, now)}."
        case SubmissionState.PENDING:
            state = "" if stay.cluster_state in UP_CLUSTER_STATES else f", which is {stay.cluster_state}"
            return f"It is queued on {where}{step}{leaving} for {since(stay.submitted_at, now)}{state}."
        case _:
            return f"It runs on {where}{step}{leaving} for {since(stay.started_at, now)}."


def _losses(ours: OurFacts, workload: WorkloadFacts) -> Iterator[str]:
    if not workload.losses:
        return
    bound = ours.pool.max_submissions if ours.pool else None
    of = f" of {bound} (max_submissions)" if bound else ""
    lost = [stay for stay in workload.stays if stay.state == SubmissionState.LOST and stay.cause]
    times = "once" if workload.losses == 1 else f"{workload.losses} times"
    causes = "; ".join(f"submission {stay.n}: {clause(stay.cause)}" for stay in lost)
    yield f"It was lost {times}{of} without costing an Airflow retry" + (f". {causes}." if causes else ".")


def _end(workload: WorkloadFacts, now: datetime) -> str:
    ago = f" {since(workload.finished_at, now)} ago" if workload.finished_at else ""
    if workload.state == WorkloadState.CANCELLED:
        return f"Cancelled{ago}: {clause(workload.cancel_reason or 'no longer wanted')}."
    state = f", Airflow has it as {workload.airflow_state}" if workload.airflow_state else ""
    if workload.outcome is not None:
        return f"Over{ago}: {_outcome(workload.outcome)}{state}."
    if workload.stays:
        return (
            f"Over{ago}{state}; {counted(len(workload.stays), 'submission')}, none of which ended by itself."
        )
    return f"Over{ago}{state}; it never had a step."


def _outcome(outcome: StepOutcome | None) -> str:
    if outcome is None:
        return "its outcome is not known"
    where = f" on {outcome.cluster_id}" if outcome.cluster_id else ""
    step = f"{outcome.verdict} without a step"
    if outcome.step_id:
        step = f"{outcome.step_id}{where} {outcome.verdict}"
    return step + (f" ({clause(outcome.cause)})" if outcome.cause else "")
