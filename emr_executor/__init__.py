"""emr_executor: the way Spark runs from Airflow on Amazon EMR.

Which process runs which folder:

- scheduler: ``executor`` (accepts workloads, hands back outcomes), over ``store``
- wherever DAGs are parsed: ``policy`` (gives the tasks of an EMR queue to the executor)
- agent (a child of the scheduler, or a service): ``agent``, deciding with ``core``, acting
  through ``aws``, ``store`` and ``task``
- task host and its short-lived children: ``task`` (user code: prepare and finish)
- the primary node of an EMR cluster: ``wrapper``, alone
- ``emr-local`` (development): ``local``
- the ``airflow emr`` commands: ``cli``
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from emr_executor.executor import EmrExecutor

__all__ = ["EmrExecutor", "__version__"]


def __getattr__(name: str) -> Any:
    # Lazy: the policy plugin is imported in every Airflow process and must not drag the executor in.
    if name == "EmrExecutor":
        from emr_executor.executor import EmrExecutor

        return EmrExecutor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
