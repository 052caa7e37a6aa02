"""Core and task instances that go away and are replaced, while their cluster lives on."""

from __future__ import annotations

from emr_executor.local.entities import ClusterEntry, InstanceEntry
from emr_executor.local.lifecycle import NODE_LOST, Lifecycle


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
