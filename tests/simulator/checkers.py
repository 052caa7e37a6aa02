"""Judges from outside: what the ledgers of the two models say of the five invariants of the design.

Nothing here reads a table, a record or the memory of an agent. EMR's ledger tells when processes and
clusters really lived; Airflow's what happened to each try; ``Terms`` what was agreed, and what people did.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    completed: bool = False
    over_at: float | None = None


Found = Iterator[tuple[str, str]]
"""Subject and text of each broken promise."""


@dataclass(slots=True, kw_only=True)
class _Read:
    """The ledgers, read once."""

    emr: Sequence[LedgerEntry]
    airflow: Sequence[AirflowEntry]
    terms: Terms
    ours: str
    """What the names of our clusters begin with."""
    task_of: dict[str, str]
    """Task by workload id."""
    steps: dict[str, list[_StepLife]] = field(default_factory=lambda: defaultdict(list))
    """By workload id, in the order they were added."""
    over_at: dict[str, float] = field(default_factory=dict)
    """When each cluster was TERMINATED*."""
    lost: set[str] = field(default_factory=set)

    def task(self, workload_id: str) -> str:
        """The task of a workload, or the workload where Airflow never queued one."""
        return self.task_of.get(workload_id, workload_id)


def check(emr: Sequence[LedgerEntry], airflow: Sequence[AirflowEntry], terms: Terms) -> list[Violation]:
    """Every broken promise, in the order of the invariants."""
    read = _read(emr, airflow, terms)
    return [
        Violation(promise=promise, subject=subject, text=text)
        for promise, broken in _PROMISES.items()
        for subject, text in broken(read)
    ]


def _read(emr: Sequence[LedgerEntry], airflow: Sequence[AirflowEntry], terms: Terms) -> _Read:
    ours = cluster_name_prefix(terms.deployment_id)
    task_of = {entry.ti_id: entry.task for entry in airflow}
    read = _Read(emr=emr, airflow=airflow, terms=terms, ours=ours, task_of=task_of)
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
        case "step_state" if entry.state in OVER_STEP_STATES:
            life.over_at = entry.at
            life.completed = entry.state == "COMPLETED"


def _never_twice_at_once(read: _Read) -> Found:
    """Invariant 1, over all tries of a task: no two of its step processes live at one moment."""
    tasks: dict[str, list[_StepLife]] = defaultdict(list)
    for workload_id, lives in read.steps.items():
        tasks[read.task(workload_id)] += lives
    for task, lives in tasks.items():
        began = [life for life in lives if life.started_at is not None and not life.did_nothing]
        started = sorted(began, key=_started)
        for earlier, later in pairwise(started):
            if earlier.ended_at is None or earlier.ended_at > _started(later):
                text = (
                    f"step {later.step_id} on {later.cluster_id} started at {_started(later):.1f} while "
                    f"{earlier.step_id} on {earlier.cluster_id} was alive since {_started(earlier):.1f}"
                )
                yield task, text


def _started(life: _StepLife) -> float:
    return life.started_at if life.started_at is not None else life.added_at


def _never_doubled(read: _Read) -> Found:
    """However often EMR was asked to add a submission, one step of it does the work."""
    for workload_id, lives in read.steps.items():
        began = (life for life in lives if life.started_at is not None and not life.did_nothing)
        for submission_id, count in Counter(life.submission_id for life in began).items():
            if count > 1:
                yield read.task(workload_id), f"{count} steps of submission {submission_id} did its work"


def _never_too_early(read: _Read) -> Found:
    """Invariant 5: added again only when the earlier step is over or its cluster over."""
    for workload_id, lives in read.steps.items():
        harmful = [life for life in lives if life.can_harm]
        for earlier, later in combinations(harmful, 2):
            dead_at = min(
                earlier.over_at if earlier.over_at is not None else float("inf"),
                read.over_at.get(earlier.cluster_id, float("inf")),
            )
            if later.added_at < dead_at and later.submission_id != earlier.submission_id:
                text = f"step {later.step_id} was added before {earlier.step_id} was known dead"
                yield read.task(workload_id), text


def _done_once(read: _Read) -> Found:
    """What EMR showed as COMPLETED is never run again for the same try."""
    for workload_id, lives in read.steps.items():
        pairs = combinations([life for life in lives if life.can_harm], 2)
        again = [(a, b) for a, b in pairs if a.completed and a.submission_id != b.submission_id]
        for done, later in again[:1]:
            text = f"step {done.step_id} was COMPLETED, and {later.step_id} was added after it"
            yield read.task(workload_id), text


def _ends_once(read: _Read) -> Found:
    """Invariant 2: each try that was queued ends, in exactly one way."""
    queued: dict[tuple[str, int], str] = {}
    ends: Counter[tuple[str, int]] = Counter()
    for entry in read.airflow:
        key = (entry.ti_id, entry.try_number)
        if entry.event == "queued":
            queued[key] = entry.task
        elif entry.event in ENDINGS:
            ends[key] += 1
    for key, task in queued.items():
        if ends[key] > 1:
            yield task, f"try {key[1]} ended {ends[key]} times"


def _never_lost(read: _Read) -> Found:
    for task in read.terms.open_tries:
        yield task, "it was still open when everything had time to end"


def _truthful(read: _Read) -> Found:
    """Airflow hears of success only after a process ended well, and of failure only for a reason."""
    terms = read.terms
    for entry in read.airflow:
        detail = entry.detail or {}
        if entry.event != "reported" or detail.get("by") == "prepare":
            continue
        lives = read.steps.get(entry.ti_id, [])
        well = any(life.completed or life.step_id in terms.ended_well for life in lives)
        state = detail.get("state")
        if state == "success":
            if not well:
                text = f"try {entry.try_number} was reported as success, and no step of it ended well"
                yield entry.task, text
            continue
        completed = any(life.completed for life in lives) and entry.ti_id not in terms.fails_after
        if completed or not _failed_for_a_reason(read, entry.ti_id, lives):
            ran = ", ".join(f"{life.step_id}: exit {life.exit_code}" for life in lives) or "no step"
            yield entry.task, f"try {entry.try_number} was reported as {state} without a reason ({ran})"


def _failed_for_a_reason(read: _Read, workload_id: str, lives: Sequence[_StepLife]) -> bool:
    terms = read.terms
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


def _no_try_spent(read: _Read) -> Found:
    """No try is lost to our silence: not purged, not reset, not failed for an event of ours.

    A try that was cleared while it ran is over, and waits in RESTARTING for the next one to begin: a
    scheduler's reset begins it, as the clear would have.
    """
    for entry in read.airflow if not read.terms.may_be_purged else ():
        was_cleared = entry.event == "reset" and (entry.detail or {}).get("was") == "restarting"
        if entry.event in SPENT and not was_cleared:
            yield entry.task, f"try {entry.try_number} was {entry.event}"


def _never_leaked(read: _Read) -> Found:
    """Invariant 3: at the end no cluster of ours is left, none was without its dead man's switch."""
    for cluster in cluster_intervals(read.emr):
        if cluster.cluster_name.startswith(read.ours) and cluster.cluster_id not in read.over_at:
            yield cluster.cluster_name, f"{cluster.cluster_id} was left behind"
    for entry in read.emr:
        is_ours = entry.event == "cluster_launched" and entry.cluster_name.startswith(read.ours)
        if is_ours and not (entry.detail or {}).get("auto_termination_s"):
            yield entry.cluster_name, "launched without auto-termination"
    for workload_id, lives in read.steps.items():
        for life in lives:
            if workload_id not in read.task_of:
                text = f"step {life.step_id} belongs to no task instance that Airflow ever queued"
                yield workload_id, text
            elif life.started_at is not None and life.ended_at is None:
                yield read.task(workload_id), f"the process of step {life.step_id} was left running"


def _cap_held(read: _Read) -> Found:
    """Invariant 4: never more clusters from STARTING to WAITING than agreed, at any moment."""
    for pool, cap in read.terms.max_clusters.items():
        most = most_clusters_at_once(read.emr, name_prefix=f"{read.ours}{pool}/")
        if most > cap:
            yield pool, f"{most} clusters at once, max_clusters is {cap}"


def _others_untouched(read: _Read) -> Found:
    """Clusters of other deployments and people: never ended, given a step of ours, cancelled, or imitated."""
    for entry in read.emr:
        if entry.cluster_name.startswith(read.ours):
            continue
        ended = entry.event == "cluster_state" and entry.state == "TERMINATING"
        cancelled = entry.event == "step_state" and entry.state in ("CANCEL_PENDING", "CANCELLED")
        added = entry.event == "step_added" and submission_of_step_name(entry.step_name or "") is not None
        launched = entry.event == "cluster_launched" and entry.cluster_id not in read.terms.person_launched
        if ended or cancelled or added or launched:
            what = f"{entry.event} {entry.state} {entry.step_id or ''}"
            yield entry.cluster_name, f"{what} on {entry.cluster_id}, which is not ours"


def _no_idle_slot(read: _Read) -> Found:
    """No step waits behind another for longer than a move takes while a slot of its pool is free."""
    terms, since = read.terms, read.terms.unhindered_from
    if since is not None:
        yield from waited_in_vain(read.emr, terms.slots, deployment_id=terms.deployment_id, since=since)


_PROMISES: dict[str, Callable[[_Read], Found]] = {
    "never_twice_at_once": _never_twice_at_once,
    "never_doubled": _never_doubled,
    "never_too_early": _never_too_early,
    "done_once": _done_once,
    "ends_once": _ends_once,
    "never_lost": _never_lost,
    "truthful": _truthful,
    "no_try_spent": _no_try_spent,
    "never_leaked": _never_leaked,
    "cap_held": _cap_held,
    "others_untouched": _others_untouched,
    "no_idle_slot": _no_idle_slot,
}
"""In the order of the invariants."""
