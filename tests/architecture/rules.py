"""Which part may import what: the table that the layers test enforces.

A rule is found by the longest name that a module starts with. ``ours`` are parts of this package,
``theirs`` third-party packages; the standard library is free but for ``stdlib`` where that is given.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """What the modules of one part may import. None means anything.

    ours: names of parts, or of single modules as ``part.module`` (a part may always import itself)
    stdlib: an allow-list; None means all of it
    """

    ours: frozenset[str] | None = frozenset()
    theirs: frozenset[str] | None = frozenset()
    stdlib: frozenset[str] | None = None


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


PURE = _names(
    "__future__ collections dataclasses datetime enum functools itertools math typing types "
    "heapq bisect operator re string textwrap hashlib json"
)
"""No clock, randomness, logging, files, processes or network. datetime: values only (no now())."""

RULES: dict[str, Rule] = {
    "emr_executor": Rule(ours=_names("executor")),
    "emr_executor.errors": Rule(stdlib=PURE),
    "emr_executor.config": Rule(ours=_names("errors"), theirs=_names("pydantic"), stdlib=PURE),
    "emr_executor.core": Rule(ours=_names("errors config"), stdlib=PURE),
    "emr_executor.ports": Rule(ours=_names("core errors config"), stdlib=PURE),
    "emr_executor.policy": Rule(ours=_names("errors"), theirs=_names("airflow pluggy")),
    "emr_executor.provider_info": Rule(ours=_names("config"), stdlib=PURE),
    "emr_executor.emr_request": Rule(theirs=_names("botocore")),
    "emr_executor.launch_rules": Rule(ours=_names("emr_request"), stdlib=PURE),
    "emr_executor.cluster_template": Rule(
        ours=_names("config emr_request launch_rules"), theirs=_names("yaml")
    ),
    "emr_executor.config_load": Rule(
        ours=_names("config errors policy cluster_template"), theirs=_names("airflow pydantic")
    ),
    "emr_executor.store": Rule(
        ours=_names("core errors config"), theirs=_names("sqlalchemy alembic pydantic structlog")
    ),
    "emr_executor.store.db_manager": Rule(
        ours=_names("core errors config"), theirs=_names("sqlalchemy alembic airflow")
    ),
    "emr_executor.store.migrations": Rule(
        ours=_names("core errors config"), theirs=_names("sqlalchemy alembic airflow")
    ),
    "emr_executor.aws": Rule(
        ours=_names("core errors config ports"),
        theirs=_names("aiobotocore botocore boto3 airflow aiohttp structlog"),
    ),
    "emr_executor.task": Rule(
        ours=_names("core errors config ports store aws config_load tolerant_streams"),
        theirs=_names(
            "airflow attrs boto3 botocore httpx pydantic setproctitle sqlalchemy structlog uuid6 tenacity"
        ),
    ),
    "emr_executor.agent": Rule(
        ours=_names("core errors config ports store wrapper aws.layout aws.launch aws.step"),
        theirs=_names("structlog sqlalchemy"),
    ),
    "emr_executor.agent.main": Rule(ours=None, theirs=None),
    "emr_executor.executor": Rule(
        ours=_names(
            "core errors config config_load store agent_process executor_watch airflow_mapping "
            "config_refusal parked_tries"
        ),
        theirs=_names("airflow sqlalchemy"),
    ),
    "emr_executor.executor_watch": Rule(
        ours=_names("agent core errors config store"), theirs=_names("airflow sqlalchemy")
    ),
    "emr_executor.airflow_mapping": Rule(ours=_names("core config"), theirs=_names("airflow sqlalchemy")),
    "emr_executor.agent_process": Rule(),
    "emr_executor.parked_tries": Rule(ours=_names("core store.scheduler_store"), stdlib=PURE),
    "emr_executor.tolerant_streams": Rule(),
    "emr_executor.config_refusal": Rule(
        ours=_names("agent.tasklog errors airflow_mapping store.scheduler_store"),
        theirs=_names("airflow sqlalchemy"),
    ),
    "emr_executor.cli": Rule(ours=None, theirs=_names("airflow rich sqlalchemy botocore")),
    "emr_executor.local": Rule(
        ours=_names("errors core wrapper emr_request launch_rules"),
        theirs=_names("werkzeug botocore structlog psutil"),
    ),
    "tests.simulator": Rule(
        ours=_names(
            "core errors config ports store agent local aws parked_tries wrapper "
            "task.phase_result task.results task.ticker"
        ),
        theirs=_names("sqlalchemy botocore httpx structlog rich tests"),
    ),
    "emr_executor.wrapper": Rule(),
}

ASYNC_ALLOWED = (
    "emr_executor.agent",
    "emr_executor.aws",
    "tests.simulator",
    "emr_executor.task.task_api",
    "emr_executor.task.host",
    "emr_executor.ports",
    "emr_executor.store.agent_store",
    "emr_executor.store.health_store",
    "emr_executor.store.runner",
)
"""Only these may import asyncio or define coroutines: everything else is synchronous."""
