"""Bootstrap actions: scripts that run, one after the other, before a cluster is ready.

EMR runs each on every instance; here the primary is the only machine. One that fails, or takes longer than
``bootstrap_timeout_s``, ends the cluster with BOOTSTRAP_FAILURE in EMR's words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emr_executor.core.states import ClusterState
from emr_executor.local.effects import KillProcess, StartProcess
from emr_executor.local.entities import ClusterEntry
from emr_executor.local.faults import LaunchFailureKind, launch_failure

if TYPE_CHECKING:
    from emr_executor.local.lifecycle import Lifecycle


def start_bootstrap(life: Lifecycle, cluster: ClusterEntry) -> None:
    """Start the bootstrap action that is next, if one is left."""
    if cluster.bootstraps_over == len(cluster.bootstrap_actions):
        return
    action = cluster.bootstrap_actions[cluster.bootstraps_over]["ScriptBootstrapAction"]
    number, process_id = cluster.bootstraps_over + 1, cluster.bootstrap_id
    cluster.processes[process_id] = None
    life.record("bootstrap_started", cluster, detail={"action": number})
    life.effects.append(
        StartProcess(
            cluster_id=cluster.cluster_id,
            step_id=process_id,
            config={
                "HadoopJarStep": {
                    "Jar": "script-runner.jar",
                    "Args": [action["Path"], *action.get("Args", ())],
                }
            },
            log_uri=cluster.request.get("LogUri"),
            log_folder=f"node/{cluster.primary.ec2_instance_id}/bootstrap-actions/{number}",
            configurations=cluster.request.get("Configurations", ()),
        )
    )

    def time_out() -> None:
        if process_id in cluster.processes:
            _fail(life, cluster, number, "timed out executing")

    life.at(life.now + life.options.bootstrap_timeout_s, time_out)


def bootstrap_ended(life: Lifecycle, cluster: ClusterEntry, process_id: str, exit_code: int) -> None:
    """The process of a bootstrap action is gone. A second report changes nothing."""
    if process_id not in cluster.processes:
        return
    del cluster.processes[process_id]
    number = cluster.bootstraps_over + 1
    life.record("bootstrap_ended", cluster, detail={"action": number, "exit_code": exit_code})
    if cluster.state is ClusterState.BOOTSTRAPPING and not cluster.lost:
        if exit_code != 0:
            _fail(life, cluster, number, "returned a non-zero return code")
        else:
            cluster.bootstraps_over += 1
            start_bootstrap(life, cluster)
            if cluster.bootstrap_delay_over:
                life.bootstrapped(cluster)
    life.finish_if_due(cluster)


def kill_bootstrap(life: Lifecycle, cluster: ClusterEntry) -> None:
    """Ask for the end of the bootstrap action that runs, if one does."""
    if cluster.bootstrap_id in cluster.processes:
        life.effects.append(
            KillProcess(cluster_id=cluster.cluster_id, step_id=cluster.bootstrap_id, force=True)
        )


def _fail(life: Lifecycle, cluster: ClusterEntry, number: int, how: str) -> None:
    cluster.launch_failure = launch_failure(
        LaunchFailureKind.BOOTSTRAP,
        instance_type=cluster.primary.instance_type,
        instance_id=cluster.primary.ec2_instance_id,
        action=number,
        how=how,
    )
    life.fail_launch(cluster)
