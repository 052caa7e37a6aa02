"""What the commands say of rows in quarantine: what went wrong, and what a person can do.

The rules behind these sentences are in docs/architecture.md, "Quarantine".
"""

from __future__ import annotations

from collections.abc import Sequence

from emr_executor.cli.formatting import counted
from emr_executor.core.states import WorkloadTarget
from emr_executor.store.queries import Held

SHOWN = 20
"""Rows in quarantine that ``status`` lists."""


def reason(quarantine: str) -> str:
    """The first line: what went wrong. The row's story as it was then is kept under it."""
    return quarantine.partition("\n")[0]


def sentences(
    name: str, quarantine: str, entity: str, *, target: str | None = None, cluster_id: str | None = None
) -> str:
    """What went wrong with a row, what that means, and how a person ends it."""
    its_cluster = cluster_id or "its cluster"
    match entity:
        case "workload" if target == WorkloadTarget.CANCEL:
            remedy = "It is cancelled as soon as no step of it is alive."
        case "workload":
            remedy = (
                "Airflow keeps the try running, since a step of it may be alive. Look at its steps, then "
                "clear the task in Airflow (it runs again) or mark it: its step is cancelled, and the "
                "quarantine ends with it."
            )
        case "submission":
            remedy = (
                f"Its step may be alive, so its task waits until {its_cluster} is over, which takes no more "
                f"steps. To be quicker, terminate {its_cluster} in Amazon EMR: the task then runs elsewhere."
            )
        case _:
            remedy = (
                "It counts against max_clusters, gets no more steps and is not ended by the agent; its EMR "
                "auto-termination ends it when it is idle. To be quicker, terminate "
                f"{its_cluster} in Amazon EMR."
            )
    return f"{name}: {reason(quarantine)}. {remedy}"


def lines(rows: Sequence[Held]) -> list[str]:
    """The rows of ``status``."""
    told = []
    for row in rows[:SHOWN]:
        name = f"{row.entity} {row.key.text if row.key else row.cluster_id or row.row_id} ({row.state})"
        told.append(sentences(name, row.quarantine, row.entity, target=row.target, cluster_id=row.cluster_id))
    if len(rows) > SHOWN:
        told.append(f"and {len(rows) - SHOWN} more (all of them with `-o json`)")
    return told


def wrong(rows: Sequence[Held]) -> list[str]:
    """The sentence that makes ``status`` end with 1."""
    if not rows:
        return []
    are = f"{counted(len(rows), 'row')} {'is' if len(rows) == 1 else 'are'}"
    return [f"{are} in quarantine, which is a bug of the executor: please report what is said of it above"]
