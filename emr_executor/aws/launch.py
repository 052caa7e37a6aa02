"""A cluster pool's template as one RunJobFlow request: what we add, and nothing else."""

from __future__ import annotations

import copy
from typing import Any

from emr_executor.config import CLUSTER_TAG_PREFIX, ClusterPool
from emr_executor.core.model import ClusterUuid


def cluster_name_prefix(deployment_id: str) -> str:
    """What every cluster of a deployment begins with, and no other deployment's does."""
    return f"airflow-emr/{deployment_id}/"


def cluster_name(deployment_id: str, cluster_pool: str, cluster_uuid: ClusterUuid) -> str:
    """The Name that carries the identity of one launch: RunJobFlow takes no client token."""
    return f"{cluster_name_prefix(deployment_id)}{cluster_pool}/{cluster_uuid}"


def cluster_uuid_of_name(deployment_id: str, name: str) -> ClusterUuid | None:
    """The launch that a cluster's Name carries, or None for a cluster that is not this deployment's."""
    if not name.startswith(cluster_name_prefix(deployment_id)):
        return None
    return ClusterUuid(name.rpartition("/")[2])


def launch_request(pool: ClusterPool, *, deployment_id: str, cluster_uuid: ClusterUuid) -> dict[str, Any]:
    """The RunJobFlow request of one launch.

    KeepJobFlowAliveWhenNoSteps defaults to false in the API, so a cluster without steps would end
    by itself; AutoTerminationPolicy is the dead man's switch for when no agent lives to end it
    (EMR Management Guide, "Using an auto-termination policy").
    """
    request = copy.deepcopy(pool.template)
    request["Name"] = cluster_name(deployment_id, pool.name, cluster_uuid)
    instances = request.setdefault("Instances", {})
    instances["KeepJobFlowAliveWhenNoSteps"] = True
    request.setdefault("AutoTerminationPolicy", {"IdleTimeout": pool.auto_termination_s})
    own = {"deployment": deployment_id, "pool": pool.name, "cluster": cluster_uuid}
    request["Tags"] = [
        *request.get("Tags", ()),
        *({"Key": f"{CLUSTER_TAG_PREFIX}{key}", "Value": value} for key, value in own.items()),
    ]
    return request
