"""Instances that go away: core and task ones are replaced, the primary takes its cluster along."""

from __future__ import annotations

from emr_executor.core.states import StepState
from emr_executor.local.bootstrap import kill_bootstrap
from emr_executor.local.entities import ClusterEntry, InstanceEntry
from emr_executor.local.lifecycle import Lifecycle

PRIMARY_LOST = ("INSTANCE_FAILURE", "The master node was terminated")
ALL_LOST = ("INSTANCE_FAILURE", "All instances in the job flow are terminated")
NODE_LOST = ("INSTANCE_FAILURE", "Instance was terminated.")


def lose_cluster(
    life: Lifecycle,
    cluster: ClusterEntry,
    *,
    notice_after_s: float,
    steps_after_s: float,
    steps_become: StepState,
    reason: tuple[str, str] | None,
) -> None:
    """The primary node is gone now; EMR shows it of the steps and of the cluster that much later."""
    if cluster.is_over or cluster.lost:
        return
    cluster.lost = True
    life.record("cluster_lost", cluster)
    for step in list(cluster.running.values()):
        life.kill(cluster, step, force=True)
    kill_bootstrap(life, cluster)

    def notice_steps() -> None:
        for step in [*cluster.running.values(), *cluster.pending]:
            life.close_step(cluster, step, steps_become, "Job terminated")

    def notice_cluster() -> None:
        notice_steps()
        for instance in cluster.instances:
            if instance.role == "MASTER":
                instance.state, instance.ended_at, instance.reason = "TERMINATED", life.now, NODE_LOST
        life.terminate(cluster, why)

    why = reason or (ALL_LOST if len(cluster.instances) == 1 else PRIMARY_LOST)
    if steps_after_s < notice_after_s:
        life.at(life.now + steps_after_s, notice_steps)
    life.at(life.now + notice_after_s, notice_cluster)


def lose_node(life: Lifecycle, cluster: ClusterEntry) -> InstanceEntry | None:
    """Take one core or task instance away and provision another; None when there is none to lose."""
    for instance in cluster.instances:
        if instance.role != "MASTER" and instance.state == "RUNNING":
            instance.state, instance.ended_at, instance.reason = "TERMINATED", life.now, NODE_LOST
            life.record("node_lost", cluster, detail={"instance_id": instance.ec2_instance_id})
            cluster.instances.append(_replacement(life, instance))
            return instance
    return None


def _replacement(life: Lifecycle, lost: InstanceEntry) -> InstanceEntry:
    return InstanceEntry(
        instance_id=life.ids.next("ci-"),
        ec2_instance_id=life.ids.next_hex("i-"),
        role=lost.role,
        owner_id=lost.owner_id,
        instance_type=lost.instance_type,
        market=lost.market,
        created_at=life.now,
        state="RUNNING",
        ready_at=life.now,
    )
