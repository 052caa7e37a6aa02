"""Two stores driven by the same operations: what one answers, the other must answer too.

An operation is a name and a few small numbers, and what they mean depends on what happened before ("the
third claim that I ever got", "the workloads of the snapshot before the last"), so that a random sequence is
full of writers that come late. Both stores get the very same arguments.
"""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from emr_executor.core.model import (
    Cluster,
    ClusterId,
    ClusterUuid,
    HistoryEntry,
    Identity,
    Snapshot,
    StepId,
    StepOutcome,
    StepPlan,
    Submission,
    SubmissionId,
    TaskKey,
    Workload,
    WorkloadId,
    submission_id_of,
)
from emr_executor.core.states import (
    ClusterState,
    ClusterTarget,
    StepState,
    SubmissionState,
    Verdict,
    WorkloadState,
    WorkloadTarget,
)
from emr_executor.errors import EmrExecutorError
from emr_executor.store.protocols import Change, LeaseRow, Stored
from emr_executor.store.schema import STEERING
from tests.store.both_stores import Store
from tests.store.builders import STEP, at

Op = tuple[str, int, int, int]

TASKS = 6
WORKLOADS = [WorkloadId(str(uuid.UUID(int=2**100 + n))) for n in range(TASKS)]
KEYS = [TaskKey(dag_id="d", task_id=f"t{n}", run_id="r", try_number=1, map_index=n - 1) for n in range(TASKS)]
CLUSTERS = [ClusterUuid(str(uuid.UUID(int=2**110 + n))) for n in range(4)]
HOSTS = [Identity(hostname=f"host-{n}", unixname="airflow", pid=n) for n in range(2)]
TASK_STATES = ("running", "queued", "restarting", "restarting", "success", None)
OUTCOME = StepOutcome(verdict=Verdict.SUCCEEDED, exit_code=0, submissions=1)


class Diverged(AssertionError):
    """The two stores do not say the same."""


@dataclass
class Lockstep:
    """Both stores, and what the callers have seen so far.

    seen: how often each operation ended in which way, and each state was met
    """

    memory: Store
    sql: Store
    seen: Counter[str] = field(default_factory=Counter)
    now_s: int = 0
    tokens: list[tuple[WorkloadId, str, int]] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    leases: list[LeaseRow] = field(default_factory=lambda: [LeaseRow()])
    lease_token: int = 0

    async def run(self, ops: Sequence[Op]) -> None:
        """All operations. Raises Diverged at the first answer that differs."""
        for number, (name, a, b, c) in enumerate(ops):
            self.now_s += 1
            try:
                await getattr(self, f"do_{name}")(a, b, c)
            except Diverged as e:
                raise Diverged(f"operation {number} of {ops}: {e}") from None
        self._compare("rows", self.memory.rows(), self.sql.rows())
        for workload, reported in self.sql.rows().workloads:
            self.seen[f"end {workload.state} {reported}"] += 1

    async def both(self, what: str, call: Callable[[Store], Awaitable[Any]], *, ordered: bool = True) -> Any:
        """The answer of both, an exception included, which must be the same."""
        answers = [await _answer(call, store) for store in (self.memory, self.sql)]
        shown = answers if ordered else [_sorted(answer) for answer in answers]
        self._compare(what, *shown)
        answer = answers[0]
        self.seen[
            f"{what} {answer if isinstance(answer, str | bool) else 'ok' if answer else 'nothing'}"
        ] += 1
        return answer

    def _compare(self, what: str, memory: Any, sql: Any) -> None:
        if memory != sql:
            raise Diverged(f"{what}: memory says {memory!r}, SQL says {sql!r}")

    # -- schedulers, Airflow ---------------------------------------------------------------------

    async def do_accept(self, a: int, b: int, c: int) -> None:
        given = [self._workload((a + n) % TASKS, priority=b % 2, job=c % 2) for n in range(b % 3 + 1)]
        await self.both("accept", lambda store: store.scheduler.accept(given))
        for n in range(b % 3 + 1):
            self._put_task(a + n, "queued")

    def _workload(self, n: int, *, priority: int, job: int) -> Workload:
        return Workload(
            workload_id=WORKLOADS[n],
            key=KEYS[n],
            cluster_pool="default",
            queue="emr",
            priority_weight=priority,
            accepted_at=at(self.now_s // 4),
            scheduler_job_id=job + 1,
            workload={"ti": n, "at": self.now_s},
            executor_config={"pod": n} if n % 2 else {},
        )

    async def do_task(self, a: int, b: int, c: int) -> None:
        if c % 7 == 0:
            for store in (self.memory, self.sql):
                store.task_instances.remove(WORKLOADS[a % TASKS])
        else:
            self._put_task(a, TASK_STATES[b % len(TASK_STATES)], cleared=c % 5 == 0, next_try=c % 6 == 0)

    def _put_task(self, n: int, state: str | None, *, cleared: bool = False, next_try: bool = False) -> None:
        n %= TASKS
        key = replace(KEYS[n], try_number=2) if next_try else KEYS[n]
        ti_id = str(uuid.UUID(int=2**90 + 10 * self.now_s + n)) if cleared else WORKLOADS[n]
        for store in (self.memory, self.sql):
            store.task_instances.put(ti_id, key, state)

    async def do_outcomes(self, a: int, b: int, c: int) -> None:
        if b % 4 == 0:
            for n in range(TASKS):
                self._put_task(n, "restarting", cleared=n % 2 == 0, next_try=(n + c) % 3 == 0)
        taken = await self.both("outcomes", lambda store: store.scheduler.take_outcomes(a % 2 + 1, b % 3 + 1))
        for outcome in taken:
            self.seen[f"outcome {outcome.state}"] += 1

    async def do_adopt(self, a: int, b: int, _: int) -> None:
        ids = [WORKLOADS[a % TASKS], WORKLOADS[b % TASKS]]
        await self.both("live", lambda store: store.scheduler.live(ids))
        await self.both("adopt", lambda store: store.scheduler.adopt(ids, b % 2 + 1))

    async def do_cancel(self, a: int, b: int, c: int) -> None:
        ids = [WORKLOADS[a % TASKS], WORKLOADS[b % TASKS]][: c % 2 + 1]
        if c % 3 == 0:
            await self.both("cancel", lambda store: store.agent.ask_cancel(ids, f"reason {c}"))
        else:
            job = a % 2 + 1
            await self.both("drop", lambda store: store.scheduler.ask_cancel(ids, f"reason {c}", job))

    # -- phases ----------------------------------------------------------------------------------

    async def do_claim(self, a: int, b: int, c: int) -> None:
        kind = WorkloadState.PREPARING if a % 2 else WorkloadState.FINISHING
        asked = {"now": at(self.now_s)}

        def claim(store: Store) -> Awaitable[tuple[Workload, ...]]:
            names = iter(range(10))
            new_token = lambda: f"{self.now_s}-{next(names)}"  # noqa: E731 - one for each store
            return store.agent.claim(kind, b % 4, HOSTS[c % 2], new_token=new_token, **asked)

        claimed = await self.both(f"claim {kind}", claim)
        self.tokens += [(w.workload_id, w.claim_token, w.claim_beat) for w in claimed]

    async def do_claims(self, *_: int) -> None:
        self.tokens += await self.both("claims", lambda store: store.agent.claims(), ordered=False)

    async def do_renew(self, a: int, *_: int) -> None:
        workload_id, token, _beat = self._claim(a)
        await self.both("renew", lambda store: store.phase.renew_claim(workload_id, token))

    async def do_parked(self, a: int, b: int, _: int) -> None:
        workload_id, token, _beat = self._claim(a)
        await self._park(workload_id, token, replace(STEP, execution_timeout_s=float(b)))

    async def _park(self, workload_id: WorkloadId, token: str, step: StepPlan) -> Any:
        now = at(self.now_s)
        return await self.both(
            "parked", lambda store: store.phase.record_parked(workload_id, token, step, now)
        )

    async def do_over(self, a: int, b: int, _: int) -> None:
        workload_id, token, _beat = self._claim(a)
        # Ends at the same moment, and ends that come out of order.
        await self._over("agent" if b % 2 else "phase", workload_id, token, at(self.now_s // 3 - b % 3))

    async def _over(self, face: str, workload_id: WorkloadId, token: str, end: datetime) -> None:
        await self.both(
            "over", lambda store: getattr(store, face).record_over(workload_id, token, "success", end)
        )

    async def do_intent(self, a: int, b: int, _: int) -> None:
        workload_id, token, _beat = self._claim(a)
        face, state = "agent" if b % 2 else "phase", ("success", "failed", "up_for_retry")[b % 3]
        await self.both("intent", lambda store: getattr(store, face).record_intent(workload_id, token, state))

    async def do_retry(self, a: int, b: int, _: int) -> None:
        workload_id, token, _beat = self._claim(a)
        later, now = at(self.now_s + b % 4), at(self.now_s)
        await self.both(
            "retry", lambda store: store.phase.record_retry(workload_id, token, later, "why", now=now)
        )

    async def do_gone(self, a: int, b: int, _: int) -> None:
        workload_id, token, _beat = self._claim(a)
        face = "agent" if b % 2 else "phase"
        await self.both(
            "gone", lambda store: getattr(store, face).record_gone(workload_id, token, "404", at(self.now_s))
        )

    async def do_free(self, a: int, b: int, _: int) -> None:
        workload_id, token, beat = self._claim(a)
        later = at(self.now_s + 2) if b % 2 else None
        await self.both("free", lambda store: store.agent.free_claim(workload_id, token, beat, later))

    async def do_forward(self, a: int, _: int, c: int) -> None:
        """Every phase that runs ends well."""
        await self.do_claim(a, 3, c)
        held = await self.both("claims", lambda store: store.agent.claims(), ordered=False)
        for workload_id, token, _ in sorted(held):
            if await self._park(workload_id, token, STEP):
                await self._over("phase", workload_id, token, at(self.now_s))

    def _claim(self, a: int) -> tuple[WorkloadId, str, int]:
        """One of the last claims, more often than not the latest."""
        if not self.tokens:
            return WORKLOADS[a % TASKS], "none", 0
        back = min(a % 12, a % 8, a % 3 * 8)
        return self.tokens[-1 - min(back, len(self.tokens) - 1)]

    # -- the agent that steers -------------------------------------------------------------------

    async def do_lease(self, a: int, b: int, c: int) -> None:
        seen = self.leases[-1 - b % min(3, len(self.leases))]
        holder = seen.holder if c % 3 and seen.holder else HOSTS[c % 2].hostname
        if a % 4 == 0:
            await self.both("beat", lambda store: store.agent.beat_lease(STEERING, holder, seen.token))
        elif a % 4 == 1 and b % 3 == 0:
            await self.both("release", lambda store: store.agent.release_lease(STEERING, holder, seen.token))
        else:
            token = await self.both("take", lambda store: store.agent.take_lease(STEERING, holder, seen))
            self.lease_token = token or self.lease_token
        self.leases.append(await self.both("lease", lambda store: store.agent.read_lease(STEERING)))

    async def do_look(self, a: int, *_: int) -> None:
        limit = (100, 100, 2, 1, 0)[a % 5]
        seen = await self.both("snapshot", lambda store: _snapshot(store, self.now_s, limit))
        self.snapshots.append(seen)
        for workload in seen.workloads:
            self.seen[f"quarantined {workload.quarantine is not None}"] += 1
            self.seen[f"snapshot {workload.state} {workload.target}"] += 1
        await self.both("heartbeats", lambda store: store.agent.heartbeat_targets(), ordered=False)
        await self.both("unwanted", lambda store: store.agent.unwanted(), ordered=False)
        await self.both("line", lambda store: store.agent.line())
        about = ("workload", WORKLOADS[a % TASKS]) if a % 2 else ("agent", "me")
        await self.both("story", lambda store: store.agent.story(*about, limit=a % 4))
        await self.both("clusters", lambda store: store.agent.clusters(CLUSTERS[:2]), ordered=False)

    async def do_tick(self, a: int, b: int, c: int) -> None:
        """Changes of what a snapshot shows, the latest or an older one, by whoever thinks that it steers."""
        if a % 8:
            await self.do_look(0)
        if not self.snapshots:
            return
        snapshot = self.snapshots[-1 - (0 if a % 8 else b % min(4, len(self.snapshots)))]
        changes = list(self._changes(snapshot, random.Random(f"{a}/{b}/{c}/{self.now_s}")))
        line = HistoryEntry(
            at=at(self.now_s), subject="agent", subject_id="me", event="tick", text=str(self.now_s)
        )
        token = self.lease_token - (c % 13 == 0)
        await self.both("apply", lambda store: store.agent.apply(token, changes, [line]))

    def _changes(self, snapshot: Snapshot, dice: random.Random) -> list[Change]:
        """What an agent could do, now and then twice over, and now and then what no table allows."""
        moves: list[Change] = []
        for workload in snapshot.workloads:
            if dice.random() < 0.7:
                moves += self._moves_of(workload, snapshot, dice)
        for submission in snapshot.submissions:
            if dice.random() < 0.5:
                moves.append(Change(old=submission, new=self._moved(submission, dice)))
        for cluster in snapshot.clusters:
            if dice.random() < 0.3:
                moves.append(Change(old=cluster, new=self._driven(cluster, dice)))
        if dice.random() < 0.3:
            moves.append(Change(old=None, new=self._new_cluster(dice)))
        if dice.random() < 0.15:
            moves += [Change(old=w, new=self._touched(w)) for w in snapshot.workloads[:2]]
        if moves and dice.random() < 0.2:
            again = dice.choice(moves)
            moves.append(Change(old=again.new, new=self._touched(again.new)))
        return moves

    def _moves_of(self, workload: Workload, snapshot: Snapshot, dice: random.Random) -> list[Change]:
        now = at(self.now_s)
        if dice.random() < 0.05:
            return [Change(old=workload, new=replace(workload, state=dice.choice(list(WorkloadState))))]
        if workload.target is WorkloadTarget.CANCEL:
            if workload.state in {"PREPARING", "FINISHING"}:
                return []
            gone = replace(workload, state=WorkloadState.CANCELLED, finished_at=now)
            return [Change(old=workload, new=gone)]
        if workload.state is WorkloadState.READY:
            rides = replace(workload, state=WorkloadState.SUBMITTED, submissions=workload.submissions + 1)
            return [Change(old=workload, new=rides), Change(old=None, new=self._submission(rides, dice))]
        if workload.state is WorkloadState.SUBMITTED and dice.random() < 0.6:
            done = replace(workload, state=WorkloadState.FINISHABLE, outcome=OUTCOME, phase_attempts=0)
            lost = replace(workload, state=WorkloadState.READY, losses=workload.losses + 1, ready_at=now)
            return [Change(old=workload, new=dice.choice([done, done, lost]))]
        return []

    def _submission(self, workload: Workload, dice: random.Random) -> Submission:
        return Submission(
            submission_id=SubmissionId(submission_id_of(workload.workload_id, workload.submissions)),
            workload_id=workload.workload_id,
            n=workload.submissions,
            cluster_uuid=dice.choice(CLUSTERS),
            state=SubmissionState.INTENDED,
            intended_at=at(self.now_s),
        )

    def _moved(self, submission: Submission, dice: random.Random) -> Submission:
        state = dice.choice(list(SubmissionState))
        shown = dice.choice([None, StepState.RUNNING, StepState.COMPLETED])
        return replace(submission, state=state, step_state=shown, step_id=StepId("s-1"), output_chunks=2)

    def _new_cluster(self, dice: random.Random) -> Cluster:
        cluster_uuid = dice.choice(CLUSTERS)
        return Cluster(
            cluster_uuid=cluster_uuid,
            cluster_pool="default",
            name=f"airflow-emr/d/default/{cluster_uuid}",
            template_hash="t",
            slots=2,
            state=ClusterState.INTENDED,
            intended_at=at(self.now_s),
        )

    def _driven(self, cluster: Cluster, dice: random.Random) -> Cluster:
        state = dice.choice(list(ClusterState))
        ended = at(self.now_s) if state.startswith(("TERMINATED", "NEVER")) else None
        target = dice.choice(list(ClusterTarget))
        return replace(cluster, state=state, ended_at=ended, target=target, cluster_id=ClusterId("j-1"))

    def _touched(self, value: Stored) -> Stored:
        match value:
            case Workload():
                held = f"by hand at {self.now_s}" if self.now_s % 2 and value.quarantine is None else None
                return replace(value, not_before=at(self.now_s), quarantine=held)
            case Submission():
                return replace(value, record_mark=f"mark {self.now_s}", cause="exit code 1")
            case Cluster():
                return replace(value, idle_since=at(self.now_s))

    # -- the end ---------------------------------------------------------------------------------

    async def do_purge(self, a: int, *_: int) -> None:
        # Ends lie around a third of the time that has passed: some are as old as what is kept, to the second.
        now, keep_s = at(self.now_s // 3 + a % 5), float(a % 4)
        await self.both("purge", lambda store: store.agent.purge(now, keep_s))

    async def do_rows(self, *_: int) -> None:
        self._compare("rows", self.memory.rows(), self.sql.rows())


async def _answer(call: Callable[[Store], Awaitable[Any]], store: Store) -> Any:
    try:
        return await call(store)
    except EmrExecutorError as e:
        return type(e).__name__


async def _snapshot(store: Store, now_s: int, limit: int) -> Snapshot:
    seen = await store.agent.snapshot(at(now_s), limit)
    return replace(seen, clusters=_sorted(seen.clusters), submissions=_sorted(seen.submissions))


def _sorted(answer: Any) -> Any:
    return tuple(sorted(answer, key=repr)) if isinstance(answer, tuple) else answer
