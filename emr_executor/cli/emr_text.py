"""Sentences on our half of ``explain``: where a workload is, what it waits for, what happened to it."""

from __future__ import annotations

from datetime import datetime

from emr_executor.cli import quarantine
from emr_executor.cli.airflow_facts import WAITING_STATES, AirflowFacts
from emr_executor.cli.emr_facts import OurFacts, PoolFacts, Stay, WorkloadFacts
from emr_executor.cli.formatting import clock, counted, since
from emr_executor.cli.status import NO_AGENT, START_AGENT
from emr_executor.core.model import StepOutcome
from emr_executor.core.states import (
    LIVE_SUBMISSION_STATES,
    ClusterState,
    SubmissionState,
    WorkloadState,
    WorkloadTarget,
)
from emr_executor.core.waiting_in_line import for_task_runner
from emr_executor.store.clauses import OVER_WORKLOAD_STATES

_UP = (ClusterState.RUNNING, ClusterState.WAITING)


def our_sentences(airflow: AirflowFacts, ours: OurFacts, now: datetime) -> list[str]:
    """Where we have the task; for one that we never had, why."""
    workload = ours.workload
    if workload is None:
        return _not_ours(airflow, ours, now)
    said = []
    if ours.agent is None and workload.state not in OVER_WORKLOAD_STATES:
        said.append(f"Nothing moves: {NO_AGENT}; {START_AGENT}.")
    if workload.target == WorkloadTarget.CANCEL and workload.state not in OVER_WORKLOAD_STATES:
        said.append(f"It is being cancelled: {workload.cancel_reason or 'no longer wanted'}.")
    said.extend(_quarantines(workload))
    held = workload.quarantine is not None and workload.state == WorkloadState.READY
    said.extend([] if held else _by_state(ours, workload, now))
    said.extend(_losses(ours, workload))
    return said


def _quarantines(workload: WorkloadFacts) -> list[str]:
    """The bug that holds the task, where one does."""
    if workload.state in OVER_WORKLOAD_STATES:
        return []
    said = []
    if workload.quarantine is not None:
        why = quarantine.reason(workload.quarantine)
        remedy = quarantine.what_to_do("workload", target=workload.target)
        said.append(f"It is in quarantine, since the executor met a bug on it: {why}. {remedy}")
    for stay in workload.stays:
        if stay.state not in LIVE_SUBMISSION_STATES:
            continue
        for entity, why_held in (("submission", stay.quarantine), ("cluster", stay.cluster_quarantine)):
            if why_held is not None:
                name = f"Its submission {stay.n}" if entity == "submission" else f"Cluster {stay.cluster_id}"
                remedy = quarantine.what_to_do(entity, cluster_id=stay.cluster_id)
                said.append(f"{name} is in quarantine: {quarantine.reason(why_held)}. {remedy}")
    return said


def _not_ours(airflow: AirflowFacts, ours: OurFacts, now: datetime) -> list[str]:
    said = []
    if ours.serves is None:
        problems = "; ".join(ours.config_problems)
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
    if ours.serves and ours.config_problems:
        said.append(f"The configuration has problems: {'; '.join(ours.config_problems)}")
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
    live = [_stays(stay, now) for stay in earlier.stays if stay.state in LIVE_SUBMISSION_STATES]
    after = "The next try gets no step before it is over." if live else ""
    return " ".join((f"Try {earlier.try_number} {wanted} and not over yet.", *live, after)).rstrip()


def _by_state(ours: OurFacts, workload: WorkloadFacts, now: datetime) -> list[str]:
    match workload.state:
        case WorkloadState.ACCEPTED:
            return [_phase_waits("prepared", ours, workload, workload.accepted_at, now)]
        case WorkloadState.PREPARING:
            return [f"Its user code is being prepared on {workload.host}{_attempt(workload)}."]
        case WorkloadState.READY:
            return _ready(ours, workload, now)
        case WorkloadState.SUBMITTED:
            stays = [_stays(stay, now) for stay in workload.stays if stay.state in LIVE_SUBMISSION_STATES]
            return [*stays, f"It waits: {_clause(why)}."] if (why := _why(ours)) else stays
        case WorkloadState.FINISHABLE:
            ended = workload.outcome.ended_at if workload.outcome else None
            waits = _phase_waits("finished in Airflow", ours, workload, ended, now)
            return [f"Its step is over: {_outcome(workload.outcome)}.", waits]
        case WorkloadState.FINISHING:
            told = f"Airflow is being told on {workload.host}{_attempt(workload)}."
            return [f"Its step is over: {_outcome(workload.outcome)}.", told]
        case _:
            return [_end(workload, now)]


def _phase_waits(
    what: str, ours: OurFacts, workload: WorkloadFacts, at: datetime | None, now: datetime
) -> str:
    """A phase that no process has claimed."""
    waited = f"has waited {since(at, now)}" if at else "waits"
    if workload.phase_attempts or workload.not_before:
        bound = f" of {ours.finish_attempts}" if what.startswith("finished") and ours.finish_attempts else ""
        why = next((line.text for line in reversed(ours.story) if line.event == "phase_retried"), "")
        due = f" not before {clock(workload.not_before, now)}" if workload.not_before else ""
        told = f", last: {why}" if why else ""
        # In an outage the attempt is given back.
        counted_so_far = f"attempt {workload.phase_attempts}{bound}"
        attempts = counted_so_far if workload.phase_attempts else "none that counts"
        return f"It is to be {what} and was tried ({attempts}{told}); it is tried again{due}."
    ahead = f", behind {counted(ours.ahead, 'other')}" if ours.ahead else ""
    return f"It {waited} {for_task_runner(what, ours.task_runner_parallelism)}{ahead}."


def _attempt(workload: WorkloadFacts) -> str:
    return f" (attempt {workload.phase_attempts})" if workload.phase_attempts > 1 else ""


def _ready(ours: OurFacts, workload: WorkloadFacts, now: datetime) -> list[str]:
    waiting, pool = ours.waiting, ours.pool
    position = f"behind {counted(ours.ahead, 'other')}" if ours.ahead else "first in its line"
    head = f"Its step is parked for {since(workload.ready_at, now)} and waits for a slot, {position}"
    if waiting is None or pool is None or (waiting.why is None and waiting.goes_to is None):
        problems = "; ".join(ours.config_problems)
        return [f"{head}.", f"Why cannot be told without the configuration: {problems}"]
    if waiting.goes_to:
        return [f"{head}.", f"A slot is free on {waiting.goes_to}: the next look of the agent puts it there."]
    return [f"{head}: {_clause(waiting.why or '')}.", *_pool_sentences(pool, waiting.launch, now)]


def _pool_sentences(pool: PoolFacts, launch: str | None, now: datetime) -> list[str]:
    said = []
    coming = [row for row in pool.clusters if row.ready_at is None and row.state not in _UP]
    for row in coming:
        if row.state != ClusterState.TERMINATING:
            name = row.cluster_id or "a cluster"
            said.append(f"Cluster {name} is {row.state} for {since(row.intended_at, now)}.")
    up = [row for row in pool.clusters if row.state in _UP]
    if up:
        used = "; ".join(f"{row.cluster_id} {row.slots_used}/{row.slots} slots, {row.target}" for row in up)
        said.append(f"Up: {used}.")
    if pool.failed_launches > 1:
        said.append(f"The last {pool.failed_launches} launches of its pool failed.")
    if launch:
        said.append(f"The agent is about to launch a cluster: {launch}.")
    return said


def _why(ours: OurFacts) -> str | None:
    return ours.waiting.why if ours.waiting else None


def _clause(text: str) -> str:
    """Somebody else's sentence within one of ours."""
    return text.rstrip(". ")


def _stays(stay: Stay, now: datetime) -> str:
    where = f"cluster {stay.cluster_id or '(launching)'}"
    step = f" as step {stay.step_id}" if stay.step_id else ""
    leaving = ", which EMR is asked to cancel (CANCEL_PENDING)" if stay.is_leaving else ""
    match stay.state:
        case SubmissionState.INTENDED:
            return f"It is being added to {where} (submission {stay.n}) for {since(stay.intended_at, now)}."
        case SubmissionState.PENDING:
            state = "" if stay.cluster_state in _UP else f", which is {stay.cluster_state}"
            return f"It is queued on {where}{step}{leaving} for {since(stay.submitted_at, now)}{state}."
        case _:
            return f"It runs on {where}{step}{leaving} for {since(stay.started_at, now)}."


def _losses(ours: OurFacts, workload: WorkloadFacts) -> list[str]:
    if not workload.losses:
        return []
    bound = ours.pool.max_submissions if ours.pool else None
    of = f" of {bound} (max_submissions)" if bound else ""
    lost = [stay for stay in workload.stays if stay.state == SubmissionState.LOST and stay.cause]
    times = "once" if workload.losses == 1 else f"{workload.losses} times"
    causes = "; ".join(f"submission {stay.n}: {_clause(stay.cause)}" for stay in lost)
    return [f"It was lost {times}{of} without costing an Airflow retry" + (f". {causes}." if causes else ".")]


def _end(workload: WorkloadFacts, now: datetime) -> str:
    ago = f" {since(workload.finished_at, now)} ago" if workload.finished_at else ""
    if workload.state == WorkloadState.CANCELLED:
        return f"Cancelled{ago}: {_clause(workload.cancel_reason or 'no longer wanted')}."
    state = f", Airflow has it as {workload.airflow_state}" if workload.airflow_state else ""
    if workload.outcome is None:
        steps = counted(len(workload.stays), "submission") if workload.stays else "it never had a step"
        return f"Over{ago}{state}; {steps}{', none of which ended by itself' if workload.stays else ''}."
    return f"Over{ago}: {_outcome(workload.outcome)}{state}."


def _outcome(outcome: StepOutcome | None) -> str:
    if outcome is None:
        return "its outcome is not known"
    where = f" on {outcome.cluster_id}" if outcome.cluster_id else ""
    step = (
        f"{outcome.step_id}{where} {outcome.verdict}"
        if outcome.step_id
        else f"{outcome.verdict} without a step"
    )
    return step + (f" ({_clause(outcome.cause)})" if outcome.cause else "")
