"""Judges from outside: what the ledgers of the two models say of the five invariants of the design.

Nothing here reads a table, a record or the memory of an agent. EMR's ledger tells when processes and
clusters really lived; Airflow's what happened to each try; ``Terms`` what was agreed, and what people did.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise

from emr_executor.aws.launch import cluster_name_prefix
from emr_executor.aws.step import submission_of_step_name
from emr_executor.core.states import OVER_STEP_STATES
from emr_executor.local.ledger import LedgerEntry, cluster_intervals, most_clusters_at_once
from emr_executor.wrapper.emr_step_wrapper import CLAIMED_CODE, NO_SPEC_CODE
from tests.simulator.airflow_ledger import AirflowEntry
from tests.simulator.idle_slots import waited_in_vain

ENDINGS = frozenset({"reported", "purged", "marked", "timed_out", "killed_externally", "cleared"})
"""Events after which a try is over, whoever ended it."""
SPENT = frozenset({"purged", "killed_externally", "reset"})
"""Ends of a try that only our silence or a wrong word of ours can cause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One broken promise. ``subject`` is a task, a cluster's name or a step's id."""

    promise: str
    subject: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the ledgers are judged by.

    person_cancelled: steps cancelled and clusters ended by people of the simulated world, by id
    person_launched: clusters of other deployments and people, by id
    not_begun: steps that did nothing, since S3 refused their claim
    stood_back: steps that started no command
    ended_well, ended_badly: steps whose command ended by itself with exit code 0, or with another, whatever
        EMR came to show of them
    refused: task instances whose step EMR refuses for good
    fails_after: task instances whose user code fails after a step that ended well
    open_tries: task instances that Airflow still held open at the end
    may_be_purged: no agent may have been there to heartbeat for as long as Airflow waits
    slots: of a cluster, by pool
    unhindered_from: since when nothing keeps an agent from seeing that a slot is free; None: something may
    """

    deployment_id: str
    max_clusters: Mapping[str, int]
    max_submissions: int
    person_cancelled: frozenset[str] = frozenset()
    person_launched: frozenset[str] = frozenset()
    not_begun: frozenset[str] = frozenset()
    stood_back: frozenset[str] = frozenset()
    ended_well: frozenset[str] = frozenset()
    ended_badly: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    fails_after: frozenset[str] = frozenset()
    open_tries: tuple[str, ...] = ()
    may_be_purged: bool = False
    slots: Mapping[str, int] = field(default_factory=dict)
    unhindered_from: float | None = None


@dataclass(slots=True)
class _StepLife:
    """One step as EMR's ledger tells it."""

    step_id: str
    cluster_id: str
    submission_id: str
    workload_id: str
    added_at: float
    started_at: float | None = None
    ended_at: float | None = None
    exit_code: int | None = None
    did_nothing: bool = False
    can_harm: bool = True

    killed: bool = False
    completed: bool = False
    over_at: float | None = None


@dataclass(slots=True)
class _Read:
    """The ledgers, read once."""

    steps: dict[str, list[_StepLife]] = field(default_factory=lambda: defaultdict(list))
    """By workload id, in the order they were added."""
    over_at: dict[str, float] = field(default_factory=dict)
    """When each cluster was TERMINATED*."""
    lost: set[str] = field(default_factory=set)
    task_of: dict[str, str] = field(default_factory=dict)
    """Task by workload id."""


def check(emr: Sequence[LedgerEntry], airflow: Sequence[AirflowEntry], terms: Terms) -> list[Violation]:
    """Every broken promise, in the order of the invariants."""
    read = _read(emr, airflow, terms)
    return [
        *_never_twice_at_once(read),
        *_never_doubled(read),
        *_never_too_early(read),
        *_done_once(read),
        *_every_try_ends_once(airflow, terms),
        *_truthful(read, airflow, terms),
        *_no_try_spent(airflow, terms),
        *_nothing_left(emr, read, terms),
        *_cap_held(emr, terms),
        *_others_untouched(emr, terms),
        *_no_idle_slot(emr, terms),
    ]


def _read(emr: Iterable[LedgerEntry], airflow: Iterable[AirflowEntry], terms: Terms) -> _Read:
    read = _Read(task_of={entry.ti_id: entry.task for entry in airflow})
    ours = cluster_name_prefix(terms.deployment_id)
    by_step: dict[str, _StepLife] = {}
    for entry in emr:
        if entry.event == "cluster_state" and entry.state in ("TERMINATED", "TERMINATED_WITH_ERRORS"):
            read.over_at[entry.cluster_id] = entry.at
        elif entry.event == "cluster_lost":
            read.lost.add(entry.cluster_id)
        elif entry.step_id is not None and entry.cluster_name.startswith(ours):
            _read_step(entry, by_step, read)
    for step_id in by_step.keys() & (terms.stood_back | terms.not_begun):
        by_step[step_id].did_nothing = True
        by_step[step_id].can_harm = by_step[step_id].exit_code not in (CLAIMED_CODE, NO_SPEC_CODE)
    for lives in read.steps.values():
        # What the network adds once more, however late, is no decision: it counts when it begins.
        for first, twin in combinations(lives, 2):
            twin.can_harm &= twin.started_at is not None or twin.submission_id != first.submission_id
    return read


def _read_step(entry: LedgerEntry, by_step: dict[str, _StepLife], read: _Read) -> None:
    step_id = entry.step_id or ""
    if entry.event == "step_added":
        submission_id = submission_of_step_name(entry.step_name or "") or ""
        life = _StepLife(
            step_id=step_id,
            cluster_id=entry.cluster_id,
            submission_id=submission_id,
            workload_id=submission_id.rpartition("-")[0],
            added_at=entry.at,
        )
        by_step[step_id] = life
        read.steps[life.workload_id].append(life)
        return
    life = by_step[step_id]
    match entry.event:
        case "process_started":
            life.started_at = entry.at
        case "process_ended":
            life.ended_at = entry.at
            life.exit_code = (entry.detail or {}).get("exit_code")
        case "kill_sent":
            life.killed = True
        case "step_state" if entry.state in OVER_STEP_STATES:
            life.over_at = entry.at
            life.completed = entry.state == "COMPLETED"


def _by_task(read: _Read) -> dict[str, list[_StepLife]]:
    tasks: dict[str, list[_StepLife]] = defaultdict(list)
    for workload_id, lives in read.steps.items():
        tasks[read.task_of.get(workload_id, workload_id)].extend(lives)
    return tasks


def _never_twice_at_once(read: _Read) -> list[Violation]:
    """Invariant 1, over all tries of a task: no two of its step processes live at one moment."""
    found = []
    for task, lives in _by_task(read).items():
        began = [life for life in lives if life.started_at is not None and not life.did_nothing]
        started = sorted(began, key=_started)
        for earlier, later in pairwise(started):
            if earlier.ended_at is None or earlier.ended_at > _started(later):
                text = (
                    f"step {later.step_id} on {later.cluster_id} started at {_started(later):.1f} while "
                    f"{earlier.step_id} on {earlier.cluster_id} was alive since {_started(earlier):.1f}"
                )
                found.append(Violation(promise="never_twice_at_once", subject=task, text=text))
    return found


def _started(life: _StepLife) -> float:
    return life.started_at if life.started_at is not None else life.added_at


def _never_doubled(read: _Read) -> list[Violation]:
    """However often EMR was asked to add a submission, one step of it does the work."""
    found = []
    for workload_id, lives in read.steps.items():
        began = (life for life in lives if life.started_at is not None and not life.did_nothing)
        begun = Counter(life.submission_id for life in began)
        for submission_id, count in begun.items():
            if count > 1:
                text = f"{count} steps of submission {submission_id} did its work"
                subject = read.task_of.get(workload_id, workload_id)
                found.append(Violation(promise="never_doubled", subject=subject, text=text))
    return found


def _never_too_early(read: _Read) -> list[Violation]:
    """Invariant 5: added again only when the earlier step is over or its cluster over."""
    found = []
    for workload_id, lives in read.steps.items():
        harmful = [life for life in lives if life.can_harm]
        for earlier, later in combinations(harmful, 2):
            dead_at = min(
                earlier.over_at if earlier.over_at is not None else float("inf"),
                read.over_at.get(earlier.cluster_id, float("inf")),
            )
            if later.added_at < dead_at and later.submission_id != earlier.submission_id:
                text = f"step {later.step_id} was added before {earlier.step_id} was known dead"
                subject = read.task_of.get(workload_id, workload_id)
                found.append(Violation(promise="never_too_early", subject=subject, text=text))
    return found


def _done_once(read: _Read) -> list[Violation]:
    """What EMR showed as COMPLETED is never run again for the same try."""
    found = []
    for workload_id, lives in read.steps.items():
        pairs = combinations([life for life in lives if life.can_harm], 2)
        again = [(a, b) for a, b in pairs if a.completed and a.submission_id != b.submission_id]
        for done, later in again[:1]:
            text = f"step {done.step_id} was COMPLETED, and {later.step_id} was added after it"
            subject = read.task_of.get(workload_id, workload_id)
            found.append(Violation(promise="done_once", subject=subject, text=text))
    return found


def _every_try_ends_once(airflow: Iterable[AirflowEntry], terms: Terms) -> list[Violation]:
    """Invariant 2: each try that was queued ends, in exactly one way."""
    queued: dict[tuple[str, int], str] = {}
    ends: Counter[tuple[str, int]] = Counter()
    for entry in airflow:
        key = (entry.ti_id, entry.try_number)
        if entry.event == "queued":
            queued[key] = entry.task
        elif entry.event in ENDINGS:
            ends[key] += 1
    found = [
        Violation(promise="ends_once", subject=task, text=f"try {key[1]} ended {ends[key]} times")
        for key, task in queued.items()
        if ends[key] > 1
    ]
    found += [
        Violation(
            promise="never_lost", subject=task, text="it was still open when everything had time to end"
        )
        for task in terms.open_tries
    ]
    return found


def _truthful(read: _Read, airflow: Iterable[AirflowEntry], terms: Terms) -> list[Violation]:
    """Airflow hears of success only after a process ended well, and of failure only for a reason."""
    found = []
    for entry in airflow:
        detail = entry.detail or {}
        if entry.event != "reported" or detail.get("by") == "prepare":
            continue
        lives = read.steps.get(entry.ti_id, [])
        well = any(life.completed or life.step_id in terms.ended_well for life in lives)
        if detail.get("state") == "success" and not well:
            text = f"try {entry.try_number} was reported as success, and no step of it ended well"
            found.append(Violation(promise="truthful", subject=entry.task, text=text))
        completed = any(life.completed for life in lives) and entry.ti_id not in terms.fails_after
        if detail.get("state") != "success" and (
            completed or not _failed_for_a_reason(read, entry.ti_id, lives, terms)
        ):
            ran = ", ".join(f"{life.step_id}: exit {life.exit_code}" for life in lives) or "no step"
            text = f"try {entry.try_number} was reported as {detail.get('state')} without a reason ({ran})"
            found.append(Violation(promise="truthful", subject=entry.task, text=text))
    return found


def _failed_for_a_reason(read: _Read, workload_id: str, lives: Sequence[_StepLife], terms: Terms) -> bool:
    if workload_id in terms.fails_after or workload_id in terms.refused:
        return True
    by_itself = any(life.step_id in terms.ended_badly for life in lives)
    by_people = any(
        life.step_id in terms.person_cancelled or life.cluster_id in terms.person_cancelled for life in lives
    )
    over = read.over_at.keys() | read.lost
    lost = {life.submission_id for life in lives if life.started_at is not None and life.cluster_id in over}
    lost |= {life.submission_id for life in lives if life.step_id in terms.not_begun}
    return by_itself or by_people or len(lost) >= terms.max_submissions


def _no_try_spent(airflow: Iterable[AirflowEntry], terms: Terms) -> list[Violation]:
    """No try is lost to our silence: not purged, not reset, not failed for an event of ours."""
    if terms.may_be_purged:
        return []
    return [
        Violation(
            promise="no_try_spent", subject=entry.task, text=f"try {entry.try_number} was {entry.event}"
        )
        for entry in airflow
        if entry.event in SPENT and not _follows_a_clear(entry)
    ]


def _follows_a_clear(entry: AirflowEntry) -> bool:
    """Whether a scheduler reset a try that was cleared while it ran.

    Such a try is over, and waits in RESTARTING for the next one to begin: a reset begins it, as the clear
    would have.
    """
    return entry.event == "reset" and (entry.detail or {}).get("was") == "restarting"


def _nothing_left(emr: Sequence[LedgerEntry], read: _Read, terms: Terms) -> list[Violation]:
    """Invariant 3: at the end no cluster of ours is left, none was without its dead man's switch."""
    ours = cluster_name_prefix(terms.deployment_id)
    found = [
        Violation(
            promise="never_leaked", subject=life.cluster_name, text=f"{life.cluster_id} was left behind"
        )
        for life in cluster_intervals(emr)
        if life.cluster_name.startswith(ours) and life.cluster_id not in read.over_at
    ]
    found += [
        Violation(
            promise="never_leaked", subject=entry.cluster_name, text="launched without auto-termination"
        )
        for entry in emr
        if entry.event == "cluster_launched"
        and entry.cluster_name.startswith(ours)
        and not (entry.detail or {}).get("auto_termination_s")
    ]
    found += [
        Violation(promise="never_leaked", subject=read.task_of.get(workload_id, workload_id), text=text)
        for workload_id, lives in read.steps.items()
        for life in lives
        if (text := _left_running(life, read, workload_id))
    ]
    return found


def _left_running(life: _StepLife, read: _Read, workload_id: str) -> str:
    if workload_id not in read.task_of:
        return f"step {life.step_id} belongs to no task instance that Airflow ever queued"
    if life.started_at is not None and life.ended_at is None:
        return f"the process of step {life.step_id} was left running"
    return ""


def _cap_held(emr: Sequence[LedgerEntry], terms: Terms) -> list[Violation]:
    """Invariant 4: never more clusters from STARTING to WAITING than agreed, at any moment."""
    found = []
    for pool, cap in terms.max_clusters.items():
        most = most_clusters_at_once(emr, name_prefix=f"{cluster_name_prefix(terms.deployment_id)}{pool}/")
        if most > cap:
            text = f"{most} clusters at once, max_clusters is {cap}"
            found.append(Violation(promise="cap_held", subject=pool, text=text))
    return found


def _no_idle_slot(emr: Sequence[LedgerEntry], terms: Terms) -> list[Violation]:
    """No step waits behind another for longer than a move takes while a slot of its pool is free."""
    since = terms.unhindered_from
    if since is None:
        return []
    waits = waited_in_vain(emr, terms.slots, deployment_id=terms.deployment_id, since=since)
    return [Violation(promise="no_idle_slot", subject=wait.step_id, text=wait.text) for wait in waits]


def _others_untouched(emr: Iterable[LedgerEntry], terms: Terms) -> list[Violation]:
    """Clusters of other deployments and people: never ended, given a step of ours, cancelled, or imitated."""
    ours = cluster_name_prefix(terms.deployment_id)
    found = []
    for entry in emr:
        if entry.cluster_name.startswith(ours):
            continue
        ended = entry.event == "cluster_state" and entry.state == "TERMINATING"
        cancelled = entry.event == "step_state" and entry.state in ("CANCEL_PENDING", "CANCELLED")
        added = entry.event == "step_added" and submission_of_step_name(entry.step_name or "") is not None
        launched = entry.event == "cluster_launched" and entry.cluster_id not in terms.person_launched
        if ended or cancelled or added or launched:
            text = (
                f"{entry.event} {entry.state} {entry.step_id or ''} on {entry.cluster_id}, which is not ours"
            )
            found.append(Violation(promise="others_untouched", subject=entry.cluster_name, text=text))
    return found
