"""A workload's submission as one EMR step: script-runner starts the step wrapper, which does the rest."""

from __future__ import annotations

from emr_executor.config import EMR_STEP_CHARACTERS
from emr_executor.core.model import ClusterUuid, SubmissionId, Workload
from emr_executor.errors import Bug, StepTooLong
from emr_executor.ports import NewStep

STEP_NAME_PREFIX = "airflow-emr/"
STEP_NAME_CHARACTERS = 256
"""StepConfig.Name is an XmlStringMaxLen256 (botocore emr 2009-03-31)."""


def script_runner_jar(region: str) -> str:
    """EMR's jar that runs a script from S3 (EMR Release Guide, "Run commands and scripts")."""
    return f"s3://{region}.elasticmapreduce/libs/script-runner/script-runner.jar"


def new_step(
    workload: Workload,
    submission_id: SubmissionId,
    cluster_uuid: ClusterUuid,
    *,
    records_uri: str,
    region: str,
) -> NewStep:
    """The step of one submission of a prepared workload. Raises StepTooLong.

    records_uri: ``<staging_uri><deployment_id>/``
    """
    plan = workload.step
    if plan is None or not plan.spec_uri or not plan.wrapper_uri:
        raise Bug(f"workload {workload.workload_id} has no staged step to submit")
    options = {"--spec": plan.spec_uri, "--records": records_uri}
    options |= {"--cluster": cluster_uuid, "--submission": submission_id}
    args = (plan.wrapper_uri, *(word for option in options.items() for word in option))
    jar = script_runner_jar(region)
    length = len(jar) + sum(len(arg) for arg in args)
    if length > EMR_STEP_CHARACTERS:
        raise StepTooLong(
            f"the step of {workload.key.text} holds {length:,} characters and EMR takes"
            f" {EMR_STEP_CHARACTERS:,}: shorten [emr_executor] staging_uri ({records_uri[:80]}...)"
        )
    return NewStep(name=step_name(workload, submission_id), jar=jar, args=args)


def step_name(workload: Workload, submission_id: SubmissionId) -> str:
    """``airflow-emr/<submission_id>/<dag_id>.<task_id>[<map_index>]``, cut to EMR's 256 characters."""
    key = workload.key
    mapped = f"[{key.map_index}]" if key.map_index >= 0 else ""
    return f"{STEP_NAME_PREFIX}{submission_id}/{key.dag_id}.{key.task_id}{mapped}"[:STEP_NAME_CHARACTERS]


def submission_of_step_name(name: str) -> SubmissionId | None:
    """The submission that a step's Name carries, or None for a step that is not ours."""
    if not name.startswith(STEP_NAME_PREFIX):
        return None
    submission_id, mark, _ = name[len(STEP_NAME_PREFIX) :].partition("/")
    return SubmissionId(submission_id) if mark and submission_id else None
