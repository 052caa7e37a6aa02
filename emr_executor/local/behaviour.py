"""A pure model of EMR: no I/O, no clock, no randomness. Time, faults and the ends of processes are inputs.

One model, two front doors: ``local.server`` drives it with the real clock and real processes, the simulator
with virtual time. Both do the same five things:

1. ``call(operation, request, now)`` for every API call (after asking ``faults.decide`` for its fate);
2. ``advance(now)`` whenever ``next_due`` has come;
3. after each of these, ``take_effects()``: processes to start and to kill, in order;
4. ``process_ended(...)`` once for each process that was started, killed ones included;
5. read ``ledger`` to judge from outside what really happened.

``now`` is epoch seconds and must not go back. Answers are boto3-shaped dicts with epoch seconds for
timestamps. The same inputs give the same answers and ids (``id_seed`` names the world).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from emr_executor.core.states import StepState
from emr_executor.local import views
from emr_executor.local.bootstrap import bootstrap_ended
from emr_executor.local.effects import Effect, KillProcess, StartProcess
from emr_executor.local.entities import OLDEST_READ_S, ClusterEntry, ModelOptions
from emr_executor.local.faults import ApiFaults, LaunchFailureKind, launch_failure
from emr_executor.local.ledger import LedgerEntry
from emr_executor.local.lifecycle import Lifecycle
from emr_executor.local.nodes import lose_cluster, lose_node
from emr_executor.local.operations import OPERATIONS, READS
from emr_executor.local.requests import DEFAULT_INSTANCE_TYPE, EmrApiError
from emr_executor.local.views import FRESH

__all__ = [
    "ApiFaults",
    "Effect",
    "EmrApiError",
    "EmrModel",
    "KillProcess",
    "LaunchFailureKind",
    "ModelOptions",
    "StartProcess",
]


class EmrModel:
    """The whole of one account's EMR in one region."""

    def __init__(self, options: ModelOptions | None = None, *, id_seed: str = "emr") -> None:
        self.options = options or ModelOptions()
        self.faults = ApiFaults()
        self._life = Lifecycle(self.options, id_seed=id_seed)
        self._launch_failures: list[LaunchFailureKind] = []

    # -- the API --------------------------------------------------------------------------------------

    def call(
        self, operation: str, request: Mapping[str, Any], now: float, *, as_of: float | None = None
    ) -> dict[str, Any]:
        """The answer to one API call.

        as_of: ListSteps, DescribeStep, ListClusters and DescribeCluster answer with the state of that moment,
            at most ``OLDEST_READ_S`` ago: what was created later is not there, and an id of it is unknown
        Raises EmrApiError with EMR's code and text; then nothing has changed, except that TerminateJobFlows
        ends the unprotected clusters of its list.
        """
        self._life.advance(now)
        if (read := READS.get(operation)) is not None:
            seen_at = FRESH if as_of is None else max(as_of, self._life.now - OLDEST_READ_S)
            return read(self._life, request, seen_at)
        handler = OPERATIONS.get(operation)
        if handler is None:
            raise EmrApiError(
                "UnknownOperationException", f"The local EMR endpoint does not implement {operation}."
            )
        answer = handler(self._life, request)
        if operation == "RunJobFlow":
            self._apply_launch_failure(self._life.clusters[answer["JobFlowId"]])
        # Zero delays take effect within the call: a cluster without start-up time is up when it is described.
        self._life.advance(now)
        return answer

    # -- time and processes ---------------------------------------------------------------------------

    @property
    def next_due(self) -> float | None:
        """When ``advance`` has something to do next, or None."""
        return self._life.next_due

    def advance(self, now: float) -> None:
        """Let time pass up to ``now``."""
        self._life.advance(now)

    def take_effects(self) -> tuple[Effect, ...]:
        """What is to be done in the world, in order; each effect is handed out once."""
        effects, self._life.effects = tuple(self._life.effects), []
        return effects

    def process_ended(
        self,
        cluster_id: str,
        step_id: str,
        exit_code: int,
        now: float,
        *,
        failure: dict[str, str] | None = None,
    ) -> None:
        """The process of a step and all its descendants are gone. Killed by signal n is exit code -n.

        failure: FailureDetails (Reason, Message, LogFile), used when the step counts as FAILED
        """
        self._life.advance(now)
        cluster = self._life.clusters[cluster_id]
        if step_id in cluster.by_id:
            self._life.process_ended(cluster, cluster.by_id[step_id], exit_code, failure)
        else:
            bootstrap_ended(self._life, cluster, step_id, exit_code)
        self._life.advance(now)

    def mark_busy(self, cluster_id: str, now: float) -> None:
        """EMR's busy marker (``/emr/metricscollector/isbusy``) was touched on the primary."""
        self._life.advance(now)
        self._life.mark_busy(self._cluster(cluster_id))

    # -- faults ---------------------------------------------------------------------------------------

    def fail_launches(self, count: int, kind: LaunchFailureKind = LaunchFailureKind.CAPACITY) -> None:
        """The next ``count`` launches are accepted and then fail in this way."""
        self._launch_failures.extend([kind] * count)

    def forget_launch_failures(self) -> None:
        """Launches succeed again."""
        self._launch_failures.clear()

    def lose_cluster(
        self,
        cluster_id: str,
        now: float,
        *,
        notice_after_s: float = 0.0,
        steps_after_s: float | None = None,
        steps_become: StepState = StepState.CANCELLED,
        reason: tuple[str, str] | None = None,
    ) -> None:
        """The primary node goes away: processes die now, EMR shows it ``notice_after_s`` later.

        steps_after_s: when EMR shows it of the steps, if that is earlier than of the cluster itself
        reason: StateChangeReason code and message; None is INSTANCE_FAILURE with EMR's text
        """
        if steps_become not in (StepState.CANCELLED, StepState.FAILED, StepState.INTERRUPTED):
            raise ValueError(
                f"Steps of a lost cluster become CANCELLED, FAILED or INTERRUPTED, not {steps_become}"
            )
        self._life.advance(now)
        cluster = self._cluster(cluster_id)
        lose_cluster(
            self._life,
            cluster,
            notice_after_s=notice_after_s,
            steps_after_s=notice_after_s if steps_after_s is None else steps_after_s,
            steps_become=steps_become,
            reason=reason,
        )
        self._life.advance(now)

    def lose_node(self, cluster_id: str, now: float) -> str | None:
        """A core or task instance goes away and is replaced; its EC2 id, or None without such an instance.

        Steps go on: what a job makes of a lost node is the job's affair, so end its process to taste.
        """
        self._life.advance(now)
        lost = lose_node(self._life, self._cluster(cluster_id))
        return None if lost is None else lost.ec2_instance_id

    def hold_provisioning(self, now: float) -> None:
        """From now on clusters stay STARTING when their start delay is over."""
        self._life.advance(now)
        self._life.hold_provisioning = True

    def release_provisioning(self, now: float) -> None:
        """Held clusters go on."""
        self._life.advance(now)
        self._life.release_provisioning()
        self._life.advance(now)

    def finish_provisioning(self, cluster_id: str, now: float) -> None:
        """Skip the rest of STARTING and BOOTSTRAPPING."""
        self._life.advance(now)
        self._life.finish_provisioning(self._cluster(cluster_id))
        self._life.advance(now)

    def hang_termination(self, cluster_id: str) -> None:
        """When the cluster is terminated it stays TERMINATING, and its steps live on, until released."""
        self._cluster(cluster_id).termination_hangs = True

    def release_termination(self, cluster_id: str, now: float) -> None:
        """Let a hanging termination go on."""
        self._life.advance(now)
        self._life.release_termination(self._cluster(cluster_id))
        self._life.advance(now)

    # -- looking from outside -------------------------------------------------------------------------

    @property
    def ledger(self) -> Sequence[LedgerEntry]:
        """Everything that happened, oldest first; append-only."""
        return self._life.ledger

    @property
    def live_cluster_ids(self) -> tuple[str, ...]:
        """Clusters in STARTING to WAITING, in the order of their launches."""
        return tuple(cluster.cluster_id for cluster in self._life.open_clusters() if cluster.is_live)

    @property
    def open_cluster_ids(self) -> tuple[str, ...]:
        """Clusters that are not TERMINATED*, in the order of their launches."""
        return tuple(cluster.cluster_id for cluster in self._life.open_clusters() if not cluster.is_over)

    def name_of(self, cluster_id: str) -> str:
        """The cluster's Name. Raises EmrApiError for an unknown id."""
        return self._cluster(cluster_id).name

    @property
    def live_processes(self) -> int:
        """Step processes that were started and not yet reported as ended."""
        return sum(len(cluster.processes) for cluster in self._life.open_clusters())

    def running_steps(self, cluster_id: str) -> tuple[str, ...]:
        """Steps of a cluster whose process lives, in the order of their starts."""
        return tuple(self._cluster(cluster_id).processes)

    def status(self) -> dict[str, Any]:
        """Clusters with their steps, and the faults that are set: for people and tests."""
        return {
            "clusters": [
                views.cluster_detail(cluster, self.options)
                | {
                    "Lost": cluster.lost,
                    "AutoTerminationS": cluster.auto_termination_s,
                    "LiveProcesses": sorted(cluster.processes),
                    "Steps": [views.step_detail(step) for step in cluster.steps],
                }
                for cluster in self._life.clusters.values()
            ],
            "provisioning_held": self._life.hold_provisioning,
            "launch_failures": [str(kind) for kind in self._launch_failures],
            "faults": self.faults.as_dict(),
        }

    def _apply_launch_failure(self, cluster: ClusterEntry) -> None:
        if not self._launch_failures:
            return
        cluster.launch_failure = launch_failure(
            self._launch_failures.pop(0),
            instance_type=cluster.primary.instance_type or DEFAULT_INSTANCE_TYPE,
            instance_id=cluster.primary.ec2_instance_id,
        )

    def _cluster(self, cluster_id: str) -> ClusterEntry:
        cluster = self._life.clusters.get(cluster_id)
        if cluster is None:
            raise EmrApiError("InvalidRequestException", f"Cluster id '{cluster_id}' is not valid.")
        return cluster
