"""Puts what was observed into the tick's state, with its history and its lines in the task logs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime

from emr_executor.agent.tick_state import TickState
from emr_executor.config import Settings
from emr_executor.core.fact_ages import Ages
from emr_executor.core.model import Cluster, ClusterUuid, Submission, SubmissionId, Workload
from emr_executor.core.observe import not_added
from emr_executor.core.settle import lost_because, settle
from emr_executor.core.states import (
    OVER_CLUSTER_STATES,
    ClusterState,
    SubmissionState,
    WorkloadTarget,
)
from emr_executor.core.workload import WorkloadMove, after_submission, never_added


class Outcomes:
    """Transitions of submissions, workloads and clusters, each with one line for people.

    on_cluster_over: called with a cluster that has just ended (launch backoff)
    over: submissions settled since the last ``take_over``; their records can be deleted
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_cluster_over: Callable[[Cluster], None],
        on_cluster_ready: Callable[[Cluster], None],
    ) -> None:
        self._loss_hold_s = settings.loss_hold_s
        self._max_submissions = {pool.name: pool.max_submissions for pool in settings.cluster_pools}
        self._on_cluster_over, self._on_cluster_ready = on_cluster_over, on_cluster_ready
        self._over: list[Submission] = []

    def take_over(self) -> list[Submission]:
        """Submissions that were settled since the last call."""
        over, self._over = self._over, []
        return over

    def started(self, tick: TickState, before: Submission, after: Submission, *, now: datetime) -> None:
        """Put an observed submission; its first sign of running is told."""
        tick.put(after)
        if before.started_at is None and after.started_at is not None:
            workload = tick.workloads.get(after.workload_id)
            cluster = tick.clusters.get(after.cluster_uuid)
            if workload is not None and cluster is not None:
                step = f"as step {after.step_id} " if after.step_id else ""
                text = f"running {step}on {cluster.cluster_id}"
                tick.log_line(now, workload, text)
                tick.add_history(now, "submission", after.submission_id, "running", text)

    def settle_all(
        self,
        tick: TickState,
        ages: Ages,
        *,
        last_polled: Collection[ClusterUuid],
        closed: Callable[[Submission], bool],
        now: datetime,
        blind_s: Mapping[ClusterUuid, float],
        unread: Collection[SubmissionId],
    ) -> None:
        """Settle every live submission that can be settled.

        closed: whether no step of a submission can begin any more
        last_polled: clusters that are over and whose steps were listed for the last time
        blind_s: how long ago the cluster or the records were last seen: the hold goes on for that long
        unread: completed, and their output is not read to its end: they are settled later
        """
        for submission in tick.ending():
            cluster = tick.clusters.get(submission.cluster_uuid)
            is_asked = submission.state is SubmissionState.INTENDED and submission.submission_id in tick.busy
            if cluster is None or is_asked or submission.submission_id in unread:
                continue
            with tick.confined(submission):
                workload = tick.workloads.get(submission.workload_id)
                over = settle(
                    submission,
                    cluster,
                    ages=ages,
                    loss_hold_s=self._loss_hold_s + blind_s[cluster.cluster_uuid],
                    had_last_poll=cluster.cluster_id is None or cluster.cluster_uuid in last_polled,
                    is_wanted=workload is not None and workload.target is WorkloadTarget.RUN,
                    is_closed=closed(submission),
                )
                if over is not None:
                    self._move(tick, replace(over, ended_at=over.ended_at or now), cluster, now=now)

    def never_added(self, tick: TickState, submission: Submission, why: str, *, now: datetime) -> None:
        """An INTENDED submission that EMR certainly does not have: the workload waits again."""
        over = not_added(submission, why, now=now)
        move = self._moved(tick, over, lambda workload: never_added(workload, over, now=now))
        tick.put(over)
        self._over.append(over)
        tick.add_history(now, "submission", over.submission_id, "never_added", why)
        if move is not None:
            self._tell(tick, move, now=now)

    def cluster_seen(self, tick: TickState, before: Cluster, after: Cluster, *, now: datetime) -> None:
        """Put an observed cluster; a change of state is told to those who wait for it."""
        tick.put(after)
        if before.state is after.state:
            return
        name = after.cluster_id or after.cluster_uuid
        text = f"cluster {name} is {after.state}"
        if after.state in OVER_CLUSTER_STATES:
            text = lost_because(after)
            self._on_cluster_over(after)
        tick.add_history(now, "cluster", after.cluster_uuid, after.state.lower(), text)
        if before.ready_at is None and after.ready_at is not None:
            self._on_cluster_ready(after)
        if after.state in (ClusterState.BOOTSTRAPPING, ClusterState.TERMINATING):
            self._tell_waiting(tick, after, text, now=now)

    def _tell_waiting(self, tick: TickState, cluster: Cluster, text: str, *, now: datetime) -> None:
        for submission in tick.live_by_cluster().get(cluster.cluster_uuid, ()):
            workload = tick.workloads.get(submission.workload_id)
            if workload is not None:
                tick.log_line(now, workload, text)

    def _move(self, tick: TickState, over: Submission, cluster: Cluster, *, now: datetime) -> None:
        move = self._moved(
            tick,
            over,
            lambda workload: after_submission(
                workload,
                over,
                cluster_id=cluster.cluster_id,
                max_submissions=self._max_submissions.get(cluster.cluster_pool, 1),
                now=now,
            ),
        )
        tick.put(over)
        self._over.append(over)
        text = f"{over.state.lower()}" + (f": {over.cause}" if over.cause else "")
        tick.add_history(now, "submission", over.submission_id, over.state.lower(), text)
        if move is not None:
            self._tell(tick, move, now=now)

    def _moved(
        self, tick: TickState, over: Submission, move: Callable[[Workload], WorkloadMove]
    ) -> WorkloadMove | None:
        """What the end of a submission makes of its workload; None where nothing is decided on that.

        The end stands in any case: it was observed. A workload that has no edge for it is the one to blame.
        """
        workload = tick.workloads.get(over.workload_id)
        if workload is None or workload.quarantine is not None:
            return None
        with tick.confined(workload):
            return move(workload)
        return None

    def _tell(self, tick: TickState, move: WorkloadMove, *, now: datetime) -> None:
        workload: Workload = move.workload
        tick.put(workload)
        level = "info" if move.event in ("step_succeeded", "requeued") else "warning"
        tick.log_line(now, workload, move.text, level=level)
        tick.add_history(now, "workload", workload.workload_id, move.event, move.text)
