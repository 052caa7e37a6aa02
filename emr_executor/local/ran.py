"""What EMR itself says of the steps that ran: asked of the endpoint, not of our own tables."""

from __future__ import annotations

from dataclasses import dataclass

from emr_executor.local.endpoint_component import endpoint_client
from emr_executor.local.process import ReadyInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRan:
    """One step, as ListSteps shows it."""

    task: str
    cluster_id: str
    step_id: str
    state: str
    duration_s: float


def steps_that_ran(endpoint: ReadyInfo, dag_id: str) -> tuple[StepRan, ...]:
    """The steps of a DAG's tasks on all clusters of the endpoint, oldest first.

    A step's Name is ``airflow-emr/<submission>/<dag>.<task>``.
    """
    emr, found = endpoint_client(endpoint, "emr"), []
    for cluster in emr.list_clusters()["Clusters"]:
        for step in emr.list_steps(ClusterId=cluster["Id"])["Steps"]:
            task = step["Name"].rpartition("/")[2]
            if task.startswith(f"{dag_id}."):
                times = step["Status"]["Timeline"]
                start, end = times.get("StartDateTime"), times.get("EndDateTime")
                ran = StepRan(
                    task=task,
                    cluster_id=cluster["Id"],
                    step_id=step["Id"],
                    state=step["Status"]["State"],
                    duration_s=(end - start).total_seconds() if start and end else 0.0,
                )
                found.append((times["CreationDateTime"], ran))
    return tuple(ran for _, ran in sorted(found, key=lambda pair: pair[0]))
