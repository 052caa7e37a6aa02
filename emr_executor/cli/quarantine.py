"""What ``status`` and ``explain`` say of rows in quarantine: what went wrong, and what a person can do.

The rules behind these sentences are in docs/architecture.md, "Quarantine".
"""

from __future__ import annotations

from emr_executor.cli.formatting import counted
from emr_executor.core.states import WorkloadTarget
from emr_executor.store.queries import Held

SHOWN = 20
"""Rows in quarantine that ``status`` lists."""


def reason(quarantine: str) -> str:
    """The first line: what went wrong. The row's story is kept under it."""
    return quarantine.split("\n", 1)[0]


def kept_story(quarantine: str) -> list[str]:
    """The row's past as it was when it came into quarantine; history itself is purged by age."""
    return quarantine.split("\n")[1:]


def what_to_do(entity: str, *, target: str | None = None, cluster_id: str | None = None) -> str:
    """What the quarantine of such a row means, and how a person ends it."""
    its_cluster = cluster_id or "its cluster"
    match entity:
        case "workload" if target == WorkloadTarget.CANCEL:
            return "It is cancelled as soon as no step of it is alive."
        case "workload":
            return (
                "Airflow keeps the try running, since a step of it may be alive. Look at its steps, then "
                "clear the task in Airflow (it runs again) or mark it: its step is cancelled, and the "
                "quarantine ends with it."
            )
        case "submission":
            return (
                f"Its step may be alive, so its task waits until {its_cluster} is over, which takes no more "
                f"steps. To be quicker, terminate {its_cluster} in Amazon EMR: the task then runs elsewhere."
            )
        case _:
            return (
                "It counts against max_clusters, gets no more steps and is not ended by the agent; its EMR "
                "auto-termination ends it when it is idle. To be quicker, terminate "
                f"{its_cluster} in Amazon EMR."
            )


def about(held: Held) -> str:
    """Which row it is, for people."""
    name = held.key.text if held.key else held.cluster_id or held.row_id
    return f"{held.entity} {name} ({held.state})"


def line(held: Held) -> str:
    """One row of ``status``."""
    remedy = what_to_do(held.entity, target=held.target, cluster_id=held.cluster_id)
    return f"{about(held)}: {reason(held.quarantine)}. {remedy}"


def wrong(held: tuple[Held, ...]) -> list[str]:
    """The sentence that makes ``status`` end with 1."""
    if not held:
        return []
    rows = f"{counted(len(held), 'row')} {'is' if len(held) == 1 else 'are'}"
    return [f"{rows} in quarantine, which is a bug of the executor: please report what is said of it above"]
