"""Puts Airflow and the store into a state, and asks the commands' functions about it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from io import StringIO
from typing import Any

from airflow.jobs.job import Job
from airflow.models.dag import DagModel
from airflow.models.pool import Pool
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from rich.console import Console, RenderableType
from sqlalchemy import Engine, insert, inspect, select, update
from sqlalchemy.orm import Session

from emr_executor.cli.explain import Explanation, explanation_view, read_explanation
from emr_executor.cli.read_only import read
from emr_executor.config import Settings
from emr_executor.core.model import HistoryEntry, TaskKey, Workload, WorkloadId
from emr_executor.store.history_store import append
from emr_executor.store.lease_store import LeaseRow, take_lease
from emr_executor.store.schema import STEERING
from tests.store.builders import NOW, a_parked, at, store

WIDTH = 100


def rendered(view: RenderableType, width: int = WIDTH) -> str:
    """What a person sees in a terminal of so many columns, without trailing blanks."""
    console = Console(width=width, record=True, markup=False, highlight=False, emoji=False, file=StringIO())
    console.print(view)
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert max(map(len, lines), default=0) <= width
    return "\n".join(lines)


_COPIED = frozenset(
    {"task_id", "dag_id", "run_id", "pool", "pool_slots", "queue", "dag_version_id", "max_tries"}
)


class World:
    """Airflow and the store on one database."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def run(
        self, run_id: str = "r1", state: DagRunState = DagRunState.RUNNING, after: datetime = NOW
    ) -> None:
        """A DAG run of ``salaries`` with its task instances."""
        with Session(self.engine) as session:
            dag = SerializedDagModel.get_dag("salaries", session=session)
            assert dag is not None
            dag.create_dagrun(
                run_id=run_id,
                run_after=after,
                run_type=DagRunType.MANUAL,
                triggered_by=DagRunTriggeredByType.TEST,
                state=state,
                session=session,
            )
            session.commit()

    def scheduler(self) -> int:
        """A scheduler that is alive; its job's id."""
        with Session(self.engine) as session:
            job = Job(job_type="SchedulerJob", state="running")
            session.add(job)
            session.commit()
            return int(job.id)

    def set_task(self, task_id: str, run_id: str = "r1", **columns: Any) -> str:
        """Change a task instance; its id."""
        of = (TaskInstance.task_id == task_id, TaskInstance.run_id == run_id)
        with Session(self.engine) as session:
            if columns:
                session.execute(update(TaskInstance).where(*of).values(**columns))
            ti_id = session.scalars(select(TaskInstance.id).where(*of)).one()
            session.commit()
            return str(ti_id)

    def map_task(self, task_id: str, states: list[str | None]) -> None:
        """Give a task of run r1 mapped instances, one for each state."""
        of = (TaskInstance.task_id == task_id, TaskInstance.run_id == "r1")
        with Session(self.engine) as session:
            first = session.scalars(select(TaskInstance).where(*of)).one()
            kept = {c.name: getattr(first, c.key) for c in inspect(TaskInstance).columns if c.key in _COPIED}
            first.map_index, first.state = 0, states[0]
            rows = [{**kept, "map_index": i, "state": states[i]} for i in range(1, len(states))]
            session.execute(insert(TaskInstance), rows)
            session.commit()

    def set_dag(self, **columns: Any) -> None:
        with Session(self.engine) as session:
            session.execute(update(DagModel).where(DagModel.dag_id == "salaries").values(**columns))
            session.commit()

    def set_pool(self, slots: int) -> None:
        with Session(self.engine) as session:
            session.execute(update(Pool).where(Pool.pool == "spark").values(slots=slots))
            session.commit()

    def store(self, *values: Any) -> None:
        with self.engine.begin() as conn:
            store(conn, *values)

    def tell(self, subject: str, subject_id: str, event: str, text: str, seconds: float = 0) -> None:
        entry = HistoryEntry(at=at(seconds), subject=subject, subject_id=subject_id, event=event, text=text)
        with self.engine.begin() as conn:
            append(conn, [entry])

    def take_lease(self, holder: str = "host-a/17/aa") -> None:
        with self.engine.begin() as conn:
            take_lease(conn, STEERING, holder, LeaseRow())

    def explain(
        self,
        settings: Settings | None,
        task_id: str = "average",
        *,
        run_id: str | None = None,
        map_index: int | None = None,
        problems: tuple[str, ...] = (),
        dag_id: str = "salaries",
    ) -> Explanation:
        def work(conn: Any) -> Explanation:
            return read_explanation(
                conn,
                dag_id=dag_id,
                task_id=task_id,
                run_id=run_id,
                map_index=map_index,
                settings=settings,
                config_problems=problems,
                now=at(100),
            )

        facts = read(work, engine=self.engine)
        flat = " ".join(rendered(explanation_view(facts)).split())
        for sentence in facts.sentences:
            assert " ".join(sentence.split()) in flat
        return facts


def workload_of(ti_id: str, **changes: Any) -> Workload:
    """The workload of the task instance ``salaries.average``, parked unless changed."""
    key = TaskKey(dag_id="salaries", task_id="average", run_id="r1", try_number=1)
    made = a_parked(key=key, accepted_at=at(10), ready_at=at(20), **changes)
    return replace(made, workload_id=WorkloadId(ti_id))
