"""``airflow emr explain``: why a task is where it is, in a few sentences, and how it got there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text
from sqlalchemy import Connection

from emr_executor.cli.airflow_facts import AirflowFacts, read_airflow
from emr_executor.cli.airflow_text import airflow_sentences
from emr_executor.cli.emr_facts import OurFacts, read_ours
from emr_executor.cli.emr_text import our_sentences
from emr_executor.cli.formatting import clock, labelled, task_name
from emr_executor.config import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The facts on one task instance and the sentences that they make."""

    now: datetime
    airflow: AirflowFacts
    ours: OurFacts
    sentences: tuple[str, ...]


def read_explanation(
    conn: Connection,
    *,
    dag_id: str,
    task_id: str,
    run_id: str | None,
    map_index: int | None,
    settings: Settings | None,
    config_problems: tuple[str, ...],
    now: datetime,
) -> Explanation:
    """Everything on one task instance, of one moment. Raises CannotTell where Airflow does not know it."""
    airflow = read_airflow(conn, dag_id=dag_id, task_id=task_id, run_id=run_id, map_index=map_index)
    ours = read_ours(conn, airflow, settings, config_problems, now)
    sentences = (*airflow_sentences(airflow, now), *our_sentences(airflow, ours, now))
    return Explanation(now=now, airflow=airflow, ours=ours, sentences=sentences)


def explanation_view(facts: Explanation) -> RenderableType:
    """The sentences, and under them the story with its times."""
    parts: list[RenderableType] = [Text(f"{task_name(facts.airflow)} of run {facts.airflow.run_id}", "bold")]
    parts.extend(Padding(sentence, (0, 0, 0, 2)) for sentence in facts.sentences)
    if kept := _kept_story(facts.ours):
        parts.extend(("", Text("What happened before its quarantine (UTC)", "bold"), *kept))
    if facts.ours.story:
        lines = [(clock(entry.at, facts.now), entry.text) for entry in facts.ours.story]
        parts.extend(("", Text("What happened (UTC)", "bold"), labelled(lines)))
    return Group(*parts)


def _kept_story(ours: OurFacts) -> list[str]:
    """What the quarantined workload keeps of its past under its bug, where the history is purged."""
    workload = ours.workload
    if workload is None or workload.quarantine is None:
        return []
    is_told = any(line.event == "quarantined" and line.subject == "workload" for line in ours.story)
    return [] if is_told else workload.quarantine.split("\n")[1:]
