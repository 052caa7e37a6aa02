"""Puts Airflow and the store into a state, and asks the commands' functions about it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from functools import partial
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
from sqlalchemy import Engine, Executable, insert, inspect, select, update
from sqlalchemy.orm import Session

from emr_executor.cli.explain import Explanation, explanation_view, read_explanation
from emr_executor.cli.formatting import as_json
from emr_executor.cli.read_only import read
from emr_executor.cli.status import StatusFacts, read_status, status_view
from emr_executor.config import Settings
from emr_executor.core.health import AgentHealth
from emr_executor.core.model import Cluster, ClusterId, HistoryEntry, TaskKey, Workload, WorkloadId
from emr_executor.core.waiting import Holds
from emr_executor.store.health_store import tell_health
from emr_executor.store.history_store import append
from emr_executor.store.lease_store import LeaseRow, take_lease
from emr_executor.store.schema import STEERING
from tests.store.builders import NOW, a_cluster, a_parked, at, store

HOLDER = "host-a/17/aa"


def rendered(view: RenderableType, width: int = 100) -> str:
    """What a person sees in a terminal of so many columns, without trailing blanks."""
    console = Console(width=width, record=True, markup=False, highlight=False, emoji=False, file=StringIO())
    console.print(view)
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert max(map(len, lines), default=0) <= width
    return "\n".join(lines)


def flat(text: str) -> str:
    """The text in one line."""
    return " ".join(text.split())


def shows(view: RenderableType, sentences: tuple[str, ...]) -> None:
    """The view has all the sentences."""
    shown = flat(rendered(view))
    assert [text for text in sentences if flat(text) not in shown] == []


def plain(value: Any) -> Any:
    """What a program reads."""
    return json.loads(as_json(value))


class World:
    """Airflow and the store on one database."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.settings: Settings | None = settings

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
        self.execute(update(TaskInstance).where(*of).values(**columns))
        with Session(self.engine) as session:
            return str(session.scalars(select(TaskInstance.id).where(*of)).one())

    def scheduled(self, run_id: str = "r1", seconds: float = 40, **columns: Any) -> None:
        """The task ``average`` is scheduled, so its upstream is done."""
        self.set_task("extract", run_id, state="success")
        self.set_task("average", run_id, state="scheduled", scheduled_dttm=at(seconds), **columns)

    def parked(self) -> str:
        """The task ``average`` of run r1 as Airflow has it while its step is parked; its id."""
        self.scheduler()
        self.run()
        columns = {"start_date": at(10), "try_number": 1, "max_tries": 2, "queue": "emr"}
        return self.set_task("average", state="running", **columns)

    def map_task(self, task_id: str, states: list[str | None]) -> None:
        """Give a task of run r1 mapped instances, one for each state."""
        of = (TaskInstance.task_id == task_id, TaskInstance.run_id == "r1")
        copied = ["task_id", "dag_id", "run_id", "pool", "pool_slots", "queue", "dag_version_id", "max_tries"]
        with Session(self.engine) as session:
            first = session.scalars(select(TaskInstance).where(*of)).one()
            kept = {c.name: getattr(first, c.key) for c in inspect(TaskInstance).columns if c.key in copied}
            first.map_index, first.state = 0, states[0]
            rows = [{**kept, "map_index": i, "state": states[i]} for i in range(1, len(states))]
            session.execute(insert(TaskInstance), rows)
            session.commit()

    def set_dag(self, **columns: Any) -> None:
        self.execute(update(DagModel).where(DagModel.dag_id == "salaries").values(**columns))

    def set_pool(self, slots: int) -> None:
        self.execute(update(Pool).where(Pool.pool == "spark").values(slots=slots))

    def execute(self, statement: Executable) -> None:
        with self.engine.begin() as conn:
            conn.execute(statement)

    def store(self, *values: Any) -> None:
        with self.engine.begin() as conn:
            store(conn, *values)

    def tell(self, subject: str, subject_id: str, event: str, text: str, seconds: float = 0) -> None:
        entry = HistoryEntry(at=at(seconds), subject=subject, subject_id=subject_id, event=event, text=text)
        with self.engine.begin() as conn:
            append(conn, [entry])

    def cluster(self, name: str, **changes: Any) -> Cluster:
        """A cluster that runs, launched from the pool's template."""
        assert self.settings is not None
        template_hash = self.settings.cluster_pools[0].template_hash
        return a_cluster(cluster_id=ClusterId(name), template_hash=template_hash, **changes)

    def take_lease(self) -> None:
        with self.engine.begin() as conn:
            take_lease(conn, STEERING, HOLDER, LeaseRow())

    def an_agent(self, holder: str = HOLDER, told: float = 95, **changes: Any) -> None:
        """What an agent has told of itself; the one that steers unless changed."""
        values = {"host": "host-a", "pid": 17, "version": "0.1.0", "steering": True, "started_at": at(0)}
        agent = AgentHealth(holder=holder, beat=3, told_at=at(told), **(values | changes))
        with self.engine.begin() as conn:
            tell_health(conn, agent)

    def holding(self, **holds: Any) -> None:
        """What the agent that steers does not ask of EMR."""
        self.an_agent(holds=Holds(**holds))

    def status(self, *problems: str, seconds: float = 100) -> StatusFacts:
        work = partial(read_status, settings=self.settings, config_problems=problems, now=at(seconds))
        facts = read(work, self.engine)
        shows(status_view(facts), facts.wrong)
        return facts

    def explain(
        self,
        task_id: str = "average",
        *,
        run_id: str | None = None,
        map_index: int | None = None,
        problems: tuple[str, ...] = (),
        dag_id: str = "salaries",
    ) -> Explanation:
        work = partial(
            read_explanation,
            dag_id=dag_id,
            task_id=task_id,
            run_id=run_id,
            map_index=map_index,
            settings=self.settings,
            config_problems=problems,
            now=at(100),
        )
        facts = read(work, self.engine)
        shows(explanation_view(facts), facts.sentences)
        return facts


def workload_of(ti_id: str, **changes: Any) -> Workload:
    """The workload of the task instance ``salaries.average``, parked unless changed."""
    key = TaskKey(dag_id="salaries", task_id="average", run_id="r1", try_number=1)
    made = a_parked(key=key, accepted_at=at(10), ready_at=at(20), **changes)
    return replace(made, workload_id=WorkloadId(ti_id))
