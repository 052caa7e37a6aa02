"""The life of clusters and steps: what time, processes and losses do to them.

    cluster: STARTING -> BOOTSTRAPPING -> WAITING <-> RUNNING -> TERMINATING -> TERMINATED[_WITH_ERRORS]
    step:    PENDING -> RUNNING -> COMPLETED | FAILED
             PENDING | RUNNING -> (CANCEL_PENDING) -> CANCELLED, or INTERRUPTED where so configured

Three rules carry the rest. (1) A step leaves RUNNING or CANCEL_PENDING only when its process has ended,
unless its cluster was lost. (2) A cluster becomes TERMINATED* only when no process of its steps is alive.
(3) Pending steps start in the order in which they were added, as long as ``StepConcurrencyLevel`` has a
slot (EMR's guide on parallel steps).

Time is only what callers pass as ``now``: timers that are due run at their own time, so a late ``advance``
changes no recorded time. Nothing here does I/O; what must be done in the world is left in ``effects``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emr_executor.core.states import ClusterState, StepState
from emr_executor.local.bootstrap import kill_bootstrap, start_bootstrap
from emr_executor.local.effects import Effect, KillProcess, StartProcess
from emr_executor.local.entities import (
    OLDEST_READ_S,
    READY_CLUSTER_STATES,
    ClusterEntry,
    IdSource,
    ModelOptions,
    StepEntry,
)
from emr_executor.local.ledger import LedgerEntry
from emr_executor.local.timers import Timers

USER_REQUEST = ("USER_REQUEST", "Terminated by user request")
STEPS_COMPLETED = ("ALL_STEPS_COMPLETED", "Steps completed")
STEP_FAILED = ("STEP_FAILURE", "Shut down as step failed")


class Lifecycle:
    """Every cluster that was launched, the timers, the ledger, and the effects not yet taken."""

    def __init__(self, options: ModelOptions, *, id_seed: str) -> None:
        self.options = options
        self.ids = IdSource(id_seed)
        self.clusters: dict[str, ClusterEntry] = {}
        self._open: dict[str, ClusterEntry] = {}
        self.ledger: list[LedgerEntry] = []
        self.effects: list[Effect] = []
        self.now = 0.0
        self.hold_provisioning = False
        self._timers = Timers()

    # -- time -----------------------------------------------------------------------------------------

    @property
    def next_due(self) -> float | None:
        """When the next timer is due; None when nothing will change by time alone."""
        return self._timers.next_due

    def advance(self, now: float) -> None:
        """Let time pass up to ``now``; going back is ignored."""
        while (timer := self._timers.pop_due(now)) is not None:
            due, act = timer
            self.now = max(self.now, due)
            act()
        self.now = max(self.now, now)

    def at(self, due: float, act: Callable[[], None]) -> None:
        """Do something when a moment has come."""
        self._timers.add(due, act)

    def open_clusters(self) -> list[ClusterEntry]:
        """Clusters that are not over, and those that a stale read may still show so; oldest launch first."""
        forgotten = self.now - OLDEST_READ_S
        for cluster in [c for c in self._open.values() if c.ended_at is not None and c.ended_at < forgotten]:
            del self._open[cluster.cluster_id]
        return list(self._open.values())

    # -- clusters: up ---------------------------------------------------------------------------------

    def launch(self, cluster: ClusterEntry) -> None:
        """Take a cluster in and start its provisioning."""
        self.clusters[cluster.cluster_id] = self._open[cluster.cluster_id] = cluster
        cluster.number = len(self.clusters)
        self.record("cluster_launched", cluster, detail={"auto_termination_s": cluster.auto_termination_s})
        self._enter(cluster, ClusterState.STARTING)
        self.at(self.now + self.options.start_delay_s, lambda: self._provisioned(cluster))

    def _provisioned(self, cluster: ClusterEntry) -> None:
        if cluster.state is not ClusterState.STARTING or cluster.lost:
            return
        if self.hold_provisioning:
            cluster.provisioning_held = True
            self.record("cluster_held", cluster)
            return
        failure = cluster.launch_failure
        if failure is not None and failure.stage == "provision":
            self.fail_launch(cluster)
            return
        for instance in cluster.instances:
            instance.state = "BOOTSTRAPPING"
        self._enter(cluster, ClusterState.BOOTSTRAPPING)
        start_bootstrap(self, cluster)
        self.at(self.now + self.options.bootstrap_delay_s, lambda: self.bootstrapped(cluster))

    def bootstrapped(self, cluster: ClusterEntry) -> None:
        """Its delay is over, or its last bootstrap action: it is ready when both are."""
        if cluster.state is not ClusterState.BOOTSTRAPPING or cluster.lost:
            return
        if cluster.launch_failure is not None:
            self.fail_launch(cluster)
            return
        cluster.bootstrap_delay_over = True
        if cluster.bootstraps_over < len(cluster.bootstrap_actions):
            return
        cluster.ready_at = cluster.idle_since = self.now
        for instance in cluster.instances:
            instance.state, instance.ready_at = "RUNNING", self.now
        self.schedule(cluster)

    def fail_launch(self, cluster: ClusterEntry) -> None:
        """End a cluster as its launch failure says."""
        failure = cluster.launch_failure
        if failure is None:
            return
        if failure.error_code is not None:
            cluster.error_details = [
                {
                    "ErrorCode": failure.error_code,
                    "ErrorMessage": failure.message,
                    "ErrorData": [dict(failure.error_data)],
                }
            ]
        self.terminate(cluster, (failure.code, failure.message))

    def release_provisioning(self) -> None:
        """Let clusters that were held in STARTING go on."""
        self.hold_provisioning = False
        for cluster in self.open_clusters():
            if cluster.provisioning_held:
                cluster.provisioning_held = False
                self._provisioned(cluster)

    def finish_provisioning(self, cluster: ClusterEntry) -> None:
        """Skip what is left of STARTING and BOOTSTRAPPING; held clusters go on too."""
        held, self.hold_provisioning = self.hold_provisioning, False
        cluster.provisioning_held = False
        self._provisioned(cluster)
        self.bootstrapped(cluster)
        self.hold_provisioning = held

    # -- steps ----------------------------------------------------------------------------------------

    def add_step(self, cluster: ClusterEntry, step: StepEntry) -> None:
        """Queue a step behind the others; call ``schedule`` after the last one."""
        cluster.steps.append(step)
        cluster.by_id[step.step_id] = step
        cluster.pending.append(step)
        self.record("step_added", cluster, step, state=StepState.PENDING)
        if self.options.step_start_delay_s > 0:
            self.at(self.now + self.options.step_start_delay_s, lambda: self.schedule(cluster))

    def schedule(self, cluster: ClusterEntry) -> None:
        """Start what fits, then say RUNNING or WAITING, then see whether the cluster has to end."""
        if cluster.ready_at is None or not cluster.is_live or cluster.lost:
            return
        while cluster.pending and len(cluster.running) + cluster.blocked_slots < cluster.step_concurrency:
            if cluster.pending[0].created_at + self.options.step_start_delay_s > self.now:
                break
            self._start_step(cluster, cluster.pending.popleft())
        if cluster.running:
            if cluster.state is not ClusterState.RUNNING:
                self._enter(cluster, ClusterState.RUNNING)
        elif cluster.state is not ClusterState.WAITING:
            fresh = cluster.state is ClusterState.BOOTSTRAPPING
            text = "Waiting for steps to run" if fresh else "Waiting after step completed"
            cluster.idle_since = self.now
            self._enter(cluster, ClusterState.WAITING, ("", text))
        if not cluster.active_steps and not cluster.keep_alive:
            self.terminate(cluster, STEPS_COMPLETED)
            return
        self.watch_idle(cluster)

    def _start_step(self, cluster: ClusterEntry, step: StepEntry) -> None:
        cluster.running[step.step_id] = step
        cluster.processes[step.step_id] = None
        step.started_at = cluster.idle_since = self.now
        self._step_state(cluster, step, StepState.RUNNING)
        self.record("process_started", cluster, step)
        self.effects.append(
            StartProcess(
                cluster_id=cluster.cluster_id,
                step_id=step.step_id,
                config=step.config,
                log_uri=cluster.request.get("LogUri"),
                log_folder=f"steps/{step.step_id}",
                configurations=cluster.request.get("Configurations", ()),
            )
        )

    def process_ended(
        self, cluster: ClusterEntry, step: StepEntry, exit_code: int, failure: dict[str, str] | None
    ) -> None:
        """The process of a step is gone with all its descendants. A second report changes nothing."""
        if step.step_id not in cluster.processes:
            return
        del cluster.processes[step.step_id]
        self.record("process_ended", cluster, step, detail={"exit_code": exit_code})
        if not step.is_over and not cluster.lost:
            self._end_step(cluster, step, exit_code, failure)
        self.finish_if_due(cluster)

    def finish_if_due(self, cluster: ClusterEntry) -> None:
        """A cluster whose time to terminate came is over once none of its processes lives."""
        if cluster.termination_due:
            self._finish_termination(cluster)

    def _end_step(
        self, cluster: ClusterEntry, step: StepEntry, exit_code: int, failure: dict[str, str] | None
    ) -> None:
        was_cancelled = step.state is StepState.CANCEL_PENDING
        if step.ends_as is not None:
            state, message = step.ends_as, "Job terminated"
        elif exit_code == 0:
            state, message = StepState.COMPLETED, ""
        else:
            state, message = StepState.FAILED, ""
            step.failure = failure
        self.close_step(cluster, step, state, message)
        if was_cancelled and not self.options.cancelled_step_frees_slot:
            cluster.blocked_slots += 1
        if state is StepState.FAILED and cluster.is_live:
            self._act_on_failure(cluster, step)
        self.schedule(cluster)

    def _act_on_failure(self, cluster: ClusterEntry, step: StepEntry) -> None:
        # With parallel steps, ActionOnFailure of earlier steps no longer fires; back at level 1 with others
        # still running, only TERMINATE_CLUSTER may (EMR's guide on parallel steps).
        if cluster.step_concurrency > 1:
            return
        action = step.action_on_failure
        if action in ("TERMINATE_CLUSTER", "TERMINATE_JOB_FLOW"):
            self.terminate(cluster, STEP_FAILED)
        elif action == "CANCEL_AND_WAIT" and not cluster.running:
            while cluster.pending:
                self.close_step(cluster, cluster.pending[0], StepState.CANCELLED, "Job terminated")

    def cancel_step(self, cluster: ClusterEntry, step: StepEntry, *, force: bool) -> bool:
        """Ask for the end of one step; False when it is over already."""
        if step.is_over:
            return False
        if step.state is StepState.PENDING:
            self.close_step(cluster, step, StepState.CANCELLED, "Job terminated")
            self.schedule(cluster)
            return True
        already_asked = step.state is StepState.CANCEL_PENDING
        step.ends_as = StepState.CANCELLED
        if not already_asked:
            self._step_state(cluster, step, StepState.CANCEL_PENDING)
        if force or not already_asked:
            self.kill(cluster, step, force=force)
        return True

    def close_step(self, cluster: ClusterEntry, step: StepEntry, state: StepState, message: str) -> None:
        """The step is over; its process, if it lives, is another matter."""
        if step.state is StepState.PENDING:
            cluster.pending.remove(step)
        cluster.running.pop(step.step_id, None)
        step.ended_at, step.reason_message = self.now, message
        self._step_state(cluster, step, state)

    def kill(self, cluster: ClusterEntry, step: StepEntry, *, force: bool) -> None:
        """Ask for the end of a step's process, if it has one."""
        if step.step_id not in cluster.processes:
            return
        self.record("kill_sent", cluster, step, detail={"force": force})
        self.effects.append(KillProcess(cluster_id=cluster.cluster_id, step_id=step.step_id, force=force))

    # -- clusters: idle, loss and end -----------------------------------------------------------------

    def watch_idle(self, cluster: ClusterEntry) -> None:
        """Set the timer of the auto-termination policy, if one applies now."""
        if cluster.auto_termination_s is None or not self._is_idle(cluster):
            return
        due = max(self.now, cluster.idle_since + cluster.auto_termination_s)
        if cluster.idle_timer_due is None or due < cluster.idle_timer_due:
            cluster.idle_timer_due = due
            self.at(due, lambda: self._look_whether_idle(cluster, due))

    def _look_whether_idle(self, cluster: ClusterEntry, due: float) -> None:
        if cluster.idle_timer_due != due:
            return
        cluster.idle_timer_due = None
        timeout_s = cluster.auto_termination_s
        if timeout_s is None or not self._is_idle(cluster):
            return
        if self.now < cluster.idle_since + timeout_s:
            self.watch_idle(cluster)
        # Termination protection also holds against the policy (the guide on auto-termination).
        elif not cluster.protected:
            self.terminate(cluster, self.options.auto_termination_reason)

    def _is_idle(self, cluster: ClusterEntry) -> bool:
        if cluster.state not in READY_CLUSTER_STATES or cluster.lost or cluster.pending:
            return False
        return not (cluster.running and self.options.running_steps_are_busy)

    def mark_busy(self, cluster: ClusterEntry) -> None:
        """EMR's busy marker was touched on the primary: the idle time starts again."""
        cluster.idle_since = self.now
        self.watch_idle(cluster)

    def terminate(self, cluster: ClusterEntry, reason: tuple[str, str]) -> None:
        """Begin to end a cluster; nothing happens when it is ending or over."""
        if not cluster.is_live:
            return
        graceful = reason[0] in ("USER_REQUEST", "ALL_STEPS_COMPLETED")
        cluster.end = ClusterState.TERMINATED if graceful else ClusterState.TERMINATED_WITH_ERRORS
        self._enter(cluster, ClusterState.TERMINATING, reason)
        if not cluster.termination_hangs:
            self._shut_down(cluster)

    def _shut_down(self, cluster: ClusterEntry) -> None:
        for step in [*cluster.pending, *cluster.running.values()]:
            if step.step_id in cluster.processes:
                if step.ends_as is None:
                    step.ends_as = self.options.running_step_on_terminate
                self.kill(cluster, step, force=False)
            else:
                self.close_step(cluster, step, StepState.CANCELLED, "Job terminated")
        kill_bootstrap(self, cluster)
        self.at(self.now + self.options.terminate_delay_s, lambda: self._termination_due(cluster))

    def _termination_due(self, cluster: ClusterEntry) -> None:
        cluster.termination_due = True
        self._finish_termination(cluster)

    def _finish_termination(self, cluster: ClusterEntry) -> None:
        if cluster.processes or cluster.is_over:
            return
        for step in [*cluster.running.values(), *cluster.pending]:
            self.close_step(cluster, step, StepState.CANCELLED, "Job terminated")
        cluster.ended_at = self.now
        for instance in cluster.instances:
            if instance.state != "TERMINATED":
                instance.state, instance.ended_at = "TERMINATED", self.now
                instance.reason = ("CLUSTER_TERMINATED", "Job flow terminated")
        self._enter(cluster, cluster.end, cluster.reason)

    def release_termination(self, cluster: ClusterEntry) -> None:
        """Let a cluster end whose TERMINATING was made to hang."""
        cluster.termination_hangs = False
        if cluster.state is ClusterState.TERMINATING:
            self._shut_down(cluster)

    # -- records --------------------------------------------------------------------------------------

    def _enter(self, cluster: ClusterEntry, state: ClusterState, reason: tuple[str, str] = ("", "")) -> None:
        cluster.enter(state, reason, self.now)
        self.record("cluster_state", cluster, state=state, detail={"reason": list(reason)})

    def _step_state(self, cluster: ClusterEntry, step: StepEntry, state: StepState) -> None:
        step.state = state
        if state is StepState.CANCEL_PENDING:
            step.cancel_pending_at = self.now
        self.record("step_state", cluster, step, state=state)

    def record(
        self,
        event: str,
        cluster: ClusterEntry,
        step: StepEntry | None = None,
        *,
        state: str = "",
        detail: dict[str, Any] | None = None,
    ) -> None:
        """Append to the ledger."""
        self.ledger.append(
            LedgerEntry(
                seq=len(self.ledger) + 1,
                at=self.now,
                event=event,
                cluster_id=cluster.cluster_id,
                cluster_name=cluster.name,
                step_id=None if step is None else step.step_id,
                step_name=None if step is None else step.name,
                state=str(state),
                detail=detail,
            )
        )
