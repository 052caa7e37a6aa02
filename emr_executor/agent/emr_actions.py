"""Every call with an effect on EMR: made after its intent was saved, its result written at once.

An act runs beside the tick and owns the rows named in its intent until it ends (``busy``), so
that a slow call holds up nothing else. What stays unknown is looked up by the tracker: a
submission by the step's Name, a cluster by its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog

from emr_executor.agent.launch_backoff import LaunchBackoff
from emr_executor.agent.placement_backoff import (
    FIRST_HOLD_S,
    MOST_REFUSALS,
    Pair,
    PlacementBackoff,
    Refusals,
    hold_after_s,
)
from emr_executor.agent.surroundings import Surroundings
from emr_executor.agent.tasklog import agent_line
from emr_executor.aws.launch import launch_request
from emr_executor.aws.step import new_step
from emr_executor.core.model import (
    Cluster,
    ClusterId,
    ClusterUuid,
    HistoryEntry,
    StepId,
    Submission,
    SubmissionId,
    Workload,
)
from emr_executor.core.observe import added, gone, launched, not_added
from emr_executor.core.transitions import ClusterEvent
from emr_executor.core.workload import never_added, refused
from emr_executor.errors import (
    BudgetSpent,
    EmrExecutorError,
    LaunchRefused,
    OutcomeUnknown,
    StaleWriter,
    StepsRefused,
    StoreBusy,
    ThrottledUnknown,
    TryAgain,
    TryElsewhere,
)
from emr_executor.ports import NewStep
from emr_executor.store.change_store import Change

TERMINATE_AT_ONCE = 10
"""TerminateJobFlows takes at most 10 ids (botocore emr)."""
RESULT_ATTEMPTS = 5
ADD_WITHIN_S = 10.0
LAUNCH_WITHIN_S = 30.0
"""An act that could not begin by then is not begun: a successor may already take it for never made."""

log = structlog.get_logger(__name__)


class EmrActions:
    """Starts acts and knows which rows they own.

    not_ended: clusters that TerminateJobFlows did not end when it was last asked, and what it answered
    ended: how many acts have ended
    throttled_launches, throttled_steps: whose last call EMR throttled, and has hardly ever carried out
    """

    def __init__(
        self,
        around: Surroundings,
        holds: LaunchBackoff,
        placing: PlacementBackoff,
        *,
        wake: Callable[[], None],
    ) -> None:
        self._deployment_id, self._region = around.deployment_id, around.region
        self._records_uri, self._wake = around.records_uri, wake
        self._emr, self._store, self._clock = around.emr, around.store, around.clock
        self._task_log, self._settings = around.task_log, around.settings
        self._holds, self._placing, self._refusals = holds, placing, Refusals()
        self._busy: set[str] = set()
        self.not_ended: dict[ClusterId, str] = {}
        self.throttled_launches: set[ClusterUuid] = set()
        self.throttled_steps: set[SubmissionId] = set()
        self.ended = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> frozenset[str]:
        """Ids of submissions and clusters whose act has not ended."""
        return frozenset(self._busy)

    def may_send_again(self, submission: Submission) -> bool:
        """Whether EMR has not refused what the submission's step is."""
        return not self._refusals.has(submission.workload_id)

    async def settle(self) -> None:
        """Wait for every act that is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def launch(self, lease_token: int, cluster: Cluster, intended_at: float) -> None:
        """RunJobFlow for a cluster that was saved as INTENDED, not before ``intended_at`` (monotonic)."""
        self._start({cluster.cluster_uuid}, self._launch(lease_token, cluster, intended_at))

    def add_steps(
        self,
        lease_token: int,
        cluster: Cluster,
        pairs: Sequence[Pair],
        intended_at: float,
        *,
        again: bool = False,
    ) -> None:
        """AddJobFlowSteps, in one call unless EMR refuses it, for submissions saved as INTENDED.

        intended_at: when that was, at the earliest (monotonic)
        again: nobody knows what became of an earlier call, so no answer says that a step is not there
        """
        owned = {submission.submission_id for _, submission in pairs}
        self._start(owned, self._add_steps(lease_token, cluster, pairs, intended_at, again=again))

    def _left_s(self, within_s: float, intended_at: float) -> float:
        return within_s - (self._clock.monotonic() - intended_at)

    def cancel(self, cluster_id: ClusterId, step_ids: Sequence[StepId]) -> None:
        """CancelSteps; asked again by the plan when it had no effect."""
        self._start((), self._emr.cancel_steps(cluster_id, tuple(step_ids)))

    def terminate(self, cluster_ids: Sequence[ClusterId]) -> None:
        """TerminateJobFlows; asked again by the plan when it had no effect."""
        for start in range(0, len(cluster_ids), TERMINATE_AT_ONCE):
            self._start((), self._terminate(cluster_ids[start : start + TERMINATE_AT_ONCE]))

    async def _terminate(self, cluster_ids: Sequence[ClusterId]) -> None:
        try:
            await self._emr.terminate_clusters(cluster_ids)
        except EmrExecutorError as error:
            self.not_ended.update(dict.fromkeys(cluster_ids, str(error)))
            raise
        for cluster_id in cluster_ids:
            self.not_ended.pop(cluster_id, None)

    def _start(self, owned: Collection[str], act: Awaitable[None]) -> None:
        self._busy.update(owned)
        task = asyncio.ensure_future(self._guarded(owned, act))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, owned: Collection[str], act: Awaitable[None]) -> None:
        try:
            await act
        except EmrExecutorError as error:
            log.warning("act_failed", error=str(error), kind=type(error).__name__)
        except Exception:
            log.exception("act_failed_unexpectedly")
        finally:
            self._busy.difference_update(owned)
            self.ended += 1
            self._wake()

    async def _launch(self, lease_token: int, cluster: Cluster, intended_at: float) -> None:
        now = self._clock.now
        try:
            request = self._launch_request(cluster)
            within_s = self._left_s(LAUNCH_WITHIN_S, intended_at)
            cluster_id = await self._emr.run_job_flow(request, within_s=within_s)
        except OutcomeUnknown as error:
            log.warning("launch_unknown", cluster_uuid=cluster.cluster_uuid, error=str(error))
            if isinstance(error, ThrottledUnknown):
                self.throttled_launches.add(cluster.cluster_uuid)
                self._holds.throttled(cluster.cluster_pool)
            return
        except (LaunchRefused, TryAgain) as error:
            over = gone(cluster, ClusterEvent.REFUSED, str(error), now=now())
            if isinstance(error, TryAgain):
                self._holds.not_sent(cluster.cluster_pool, str(error))
                log.warning("launch_not_sent", cluster_pool=cluster.cluster_pool, error=str(error))
            else:
                self._holds.cluster_over(over)
                log.error("launch_refused", cluster_pool=cluster.cluster_pool, error=str(error))
            await self._write(
                lease_token, [Change(old=cluster, new=over)], "cluster", "never_launched", str(error)
            )
            return
        up = launched(cluster, cluster_id)
        text = f"RunJobFlow gave {cluster_id}"
        await self._write(lease_token, [Change(old=cluster, new=up)], "cluster", "starting", text)

    def _launch_request(self, cluster: Cluster) -> dict[str, Any]:
        """Raises LaunchRefused: no request can be made, so none is."""
        pool = self._settings.pool_named(cluster.cluster_pool)
        if pool is None:
            raise LaunchRefused(f"cluster pool {cluster.cluster_pool!r} is no longer configured")
        try:
            return launch_request(pool, deployment_id=self._deployment_id, cluster_uuid=cluster.cluster_uuid)
        except Exception as error:
            log.exception("launch_not_built", cluster_pool=pool.name)
            raise LaunchRefused(f"no launch can be made of the cluster template: {error!r}") from error

    async def _add_steps(
        self, lease_token: int, cluster: Cluster, pairs: Sequence[Pair], intended_at: float, *, again: bool
    ) -> None:
        cluster_id = cluster.cluster_id
        if cluster_id is None:
            return
        steps = await self._built(lease_token, cluster_id, pairs)
        parts = deque(self._refusals.parts([pair for pair in pairs if pair[1].submission_id in steps]))
        while parts:
            part = parts.popleft()
            sent = [steps[submission.submission_id] for _, submission in part]
            try:
                within_s = self._left_s(ADD_WITHIN_S, intended_at)
                step_ids = await self._emr.add_steps(cluster_id, sent, within_s=within_s)
            except StepsRefused as error:
                if len(part) > 1:
                    parts.extendleft(reversed(self._refusals.together(part)))
                else:
                    await self._refused_alone(lease_token, cluster_id, part[0], str(error), again=again)
            except (OutcomeUnknown, TryElsewhere, TryAgain) as error:
                if isinstance(error, BudgetSpent):
                    self._placing.budget_spent()
                else:
                    self._placing.refused(cluster.cluster_uuid, str(error))
                if isinstance(error, OutcomeUnknown):
                    await self._unheard(cluster, part, error, again=again)
                else:
                    parts.appendleft(part)
                if not again:
                    await self._not_added(lease_token, [pair for left in parts for pair in left], str(error))
                return
            else:
                await self._added(lease_token, cluster, part, step_ids)

    async def _unheard(
        self, cluster: Cluster, pairs: Sequence[Pair], error: OutcomeUnknown, *, again: bool
    ) -> None:
        log.warning("add_steps_unknown", cluster_id=cluster.cluster_id, error=str(error))
        is_throttled = isinstance(error, ThrottledUnknown)
        if is_throttled:
            self.throttled_steps.update(submission.submission_id for _, submission in pairs)
        if again:
            return
        name = f"the step for cluster {cluster.cluster_id}"
        text = f"EMR gave no answer on {name}: it is sent again when EMR does not show it"
        if is_throttled:
            text = f"EMR throttled AddJobFlowSteps: {name} is sent again, in {FIRST_HOLD_S:g} s or later"
        line = agent_line(self._clock.now(), text, level="warning")
        await self._task_log.append({workload.log_path: [line] for workload, _ in pairs})

    async def _built(
        self, lease_token: int, cluster_id: ClusterId, pairs: Sequence[Pair]
    ) -> dict[SubmissionId, NewStep]:
        """The steps of all rides but those of which none can be made: their tasks fail."""
        steps: dict[SubmissionId, NewStep] = {}
        for workload, submission in pairs:
            try:
                steps[submission.submission_id] = new_step(
                    workload,
                    submission.submission_id,
                    submission.cluster_uuid,
                    records_uri=self._records_uri,
                    region=self._region,
                )
            except Exception as error:
                log.exception("step_not_built", submission=submission.submission_id)
                why = f"no step can be made of the task: {error}"
                await self._refused(lease_token, cluster_id, (workload, submission), why)
        return steps

    async def _added(
        self, lease_token: int, cluster: Cluster, pairs: Sequence[Pair], step_ids: Sequence[StepId]
    ) -> None:
        self._placing.added(cluster.cluster_uuid)
        self._refusals.over([workload.workload_id for workload, _ in pairs])
        now = self._clock.now()
        changes = [
            Change(old=submission, new=added(submission, step_id, now=now))
            for (_, submission), step_id in zip(pairs, step_ids, strict=True)
        ]
        await self._write(lease_token, changes, "submission", "added", f"added to {cluster.cluster_id}")
        await self._task_log.append(
            {
                workload.log_path: [agent_line(now, f"queued on {cluster.cluster_id} as step {step_id}")]
                for (workload, _), step_id in zip(pairs, step_ids, strict=True)
            }
        )

    async def _refused_alone(
        self, lease_token: int, cluster_id: ClusterId, pair: Pair, why: str, *, again: bool
    ) -> None:
        workload, _ = pair
        refusals = self._refusals.alone(workload.workload_id)
        if again:
            return
        if refusals >= MOST_REFUSALS:
            text = f"EMR refused the step {refusals} times: {why}"
            await self._refused(lease_token, cluster_id, pair, text)
            return
        now = self._clock.now()
        again_at = now + timedelta(seconds=hold_after_s(refusals))
        text = f"EMR refused the step ({refusals} of {MOST_REFUSALS} times, then the task fails): {why}"
        await self._not_added(lease_token, [pair], text, not_before=again_at)
        line = agent_line(now, f"{text}; it is asked again at {again_at:%H:%M:%S} UTC", level="warning")
        await self._task_log.append({workload.log_path: [line]})

    async def _refused(self, lease_token: int, cluster_id: ClusterId, pair: Pair, why: str) -> None:
        now = self._clock.now()
        workload, submission = pair
        over = not_added(submission, why, now=now)
        self._refusals.over([workload.workload_id])
        move = refused(workload, over, cluster_id=cluster_id, now=now)
        changes = [Change(old=submission, new=over), Change(old=workload, new=move.workload)]
        told = HistoryEntry(
            at=now, subject="workload", subject_id=workload.workload_id, event=move.event, text=move.text
        )
        await self._write(lease_token, changes, "submission", "never_added", why, told)
        await self._task_log.append({workload.log_path: [agent_line(now, move.text, level="error")]})

    async def _not_added(
        self, lease_token: int, pairs: Sequence[Pair], why: str, *, not_before: datetime | None = None
    ) -> None:
        now = self._clock.now()
        changes: list[Change] = []
        for workload, submission in pairs:
            over = not_added(submission, why, now=now)
            ready = never_added(workload, over, now=now, not_before=not_before).workload
            changes += [Change(old=submission, new=over), Change(old=workload, new=ready)]
        if changes:
            await self._write(lease_token, changes, "submission", "never_added", why)

    async def _write(
        self,
        lease_token: int,
        changes: Sequence[Change],
        subject: str,
        event: str,
        text: str,
        *also: HistoryEntry,
    ) -> None:
        now = self._clock.now()
        history = [
            HistoryEntry(at=now, subject=subject, subject_id=_id_of(change.new), event=event, text=text)
            for change in changes
            if isinstance(change.new, Submission | Cluster)
        ]
        history.extend(also)
        for attempt in range(RESULT_ATTEMPTS):
            try:
                await self._store.apply(lease_token, changes, history)
            except StoreBusy:
                await self._clock.sleep(min(10.0, 2.0**attempt))
                continue
            except StaleWriter as stale:
                if len(pairs := _by_pair(changes)) > 1:
                    # News of one of them came first, and takes nothing from the others.
                    for pair in pairs:
                        await self._write(lease_token, pair, subject, event, text)
                    return
                # The tracker finds the truth by the Name that the act carried.
                log.warning("act_result_dropped", what=event, why=str(stale))
            return


def _by_pair(changes: Sequence[Change]) -> list[list[Change]]:
    """The changes by the submission that each begins with."""
    pairs: list[list[Change]] = []
    for change in changes:
        if isinstance(change.new, Workload) and pairs:
            pairs[-1].append(change)
        else:
            pairs.append([change])
    return pairs


def _id_of(value: Submission | Cluster) -> str:
    return value.submission_id if isinstance(value, Submission) else value.cluster_uuid
