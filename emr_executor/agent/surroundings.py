"""What an agent reaches outside of its own memory; its parts take from here what they need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from emr_executor.agent.dependencies import Dependencies
from emr_executor.agent.retention_s3 import S3Retention
from emr_executor.config import Settings
from emr_executor.core.model import Identity
from emr_executor.ports import Clock, EmrApi, StepRecords, TaskApi, TaskHost, TaskLog
from emr_executor.store.agent_store import AgentStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Everything that an agent reaches outside of its own memory.

    records_uri: where the wrappers of this deployment write, for the steps' arguments
    identity: under which Airflow knows the tries that this agent prepares
    holder: names this agent in the lease, unique for its life
    new_id: a fresh UUID as text, for clusters and claims
    expiry: what ends old objects in S3; None: nothing does
    dependencies: where is kept what cannot be reached; None: the agent keeps its own
    """

    settings: Settings
    clock: Clock
    store: AgentStore
    host: TaskHost
    api: TaskApi
    emr: EmrApi
    records: StepRecords
    records_uri: str
    region: str
    task_log: TaskLog
    identity: Identity
    holder: str
    deployment_id: str
    new_id: Callable[[], str]
    expiry: S3Retention | None = None
    dependencies: Dependencies | None = None
