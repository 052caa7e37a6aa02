"""Airflow's tables in memory: task instances and scheduler jobs, each change mirrored and told once.

Rules of Airflow 3.3.2 are cited as SJR (jobs/scheduler_job_runner.py), TI (models/taskinstance.py), TIH
(models/taskinstancehistory.py) and API (api_fastapi/execution_api/routes/task_instances.py).
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from emr_executor.core.model import TaskKey
from emr_executor.errors import Bug
from tests.simulator.airflow_entities import FINISHED, Job, SimTaskInstance, TaskScript, TaskState, TryScript
from tests.simulator.airflow_ledger import AirflowEntry
from tests.simulator.sql_task_instances import SqlTaskInstances


class AirflowTables:
    """The rows, their mirror in the store's world, and the ledger.

    now_s: epoch seconds on the clock of the API server and the database
    mirror: where the store reads task instances
    """

    def __init__(self, *, now_s: Callable[[], float], rng: random.Random, mirror: SqlTaskInstances) -> None:
        self.now_s, self._rng, self._mirror = now_s, rng, mirror
        self.ledger: list[AirflowEntry] = []
        self.jobs: dict[int, Job] = {}
        self._rows: dict[str, SimTaskInstance] = {}
        self._former: dict[str, SimTaskInstance] = {}
        self._try_of: dict[str, int] = {}
        self._by_task: dict[str, SimTaskInstance] = {}
        # Dicts as ordered sets: their order is part of a seed's story.
        self._in_state: dict[TaskState | None, dict[SimTaskInstance, None]] = {
            None: {},
            **{state: {} for state in TaskState},
        }
        self._number = 0

    # -- reading -----------------------------------------------------------------------------------------

    def find(self, ti_id: str) -> SimTaskInstance | None:
        """The row that has this id now."""
        return self._rows.get(ti_id)

    def owner_of(self, ti_id: str) -> SimTaskInstance | None:
        """The task instance that has, or once had, this id."""
        return self._rows.get(ti_id) or self._former.get(ti_id)

    def task(self, task: str) -> SimTaskInstance | None:
        """The row of a task, named ``dag.task@run[map_index]``."""
        return self._by_task.get(task)

    def in_state(self, *states: TaskState | None) -> list[SimTaskInstance]:
        """Rows in any of the states, by the time they got there."""
        return [ti for state in states for ti in self._in_state[state]]

    def count(self, state: TaskState | None) -> int:
        """How many rows are in a state."""
        return len(self._in_state[state])

    def open_tries(self) -> tuple[str, ...]:
        """Tasks that Airflow still wants something of."""
        return tuple(
            ti.task for state, rows in self._in_state.items() if state not in FINISHED for ti in rows
        )

    def of_run(self, dag_id: str, run_id: str) -> list[SimTaskInstance]:
        """The rows of one DAG run."""
        return [ti for ti in self._rows.values() if (ti.key.dag_id, ti.key.run_id) == (dag_id, run_id)]

    def script_of(self, ti_id: str) -> TryScript | None:
        """What the try with this id does, also when the id is history by now."""
        ti = self.owner_of(ti_id)
        if ti is None:
            return None
        return ti.script.of_try(self._try_of.get(ti_id, ti.try_number))

    # -- writing -----------------------------------------------------------------------------------------

    def add(self, key: TaskKey, script: TaskScript) -> SimTaskInstance:
        """A task instance of a new DAG run, in no state; ``key.try_number`` is not looked at."""
        task = task_name(key)
        if task in self._by_task:
            raise Bug(f"{task} exists already")
        self._number += 1
        ti = SimTaskInstance(
            ti_id=self.new_id(),
            task=task,
            key=replace(key, try_number=0),
            script=script,
            number=self._number,
            max_tries=script.retries,
        )
        self._rows[ti.ti_id] = self._by_task[task] = ti
        self._in_state[None][ti] = None
        self.mirror(ti)
        return ti

    def set_state(self, ti: SimTaskInstance, state: TaskState | None) -> None:
        """Another state, mirrored."""
        self._in_state[ti.state].pop(ti, None)
        ti.state = state
        self._in_state[state][ti] = None
        self.mirror(ti)

    def next_try(self, ti: SimTaskInstance) -> None:
        """None or UP_FOR_RETRY -> SCHEDULED with the next number (models/dagrun.py:2129)."""
        self._try_of[ti.ti_id] = ti.try_number + 1
        ti.key = replace(ti.key, try_number=ti.try_number + 1)
        ti.times_stuck = 0
        self.set_state(ti, TaskState.SCHEDULED)

    def archive(self, ti: SimTaskInstance) -> None:
        """TI.prepare_db_for_next_try (TI:1047): the try goes to the history, the row gets a new id.

        A try is archived once (TIH.record_ti): a second time only the id changes, and the id before it is
        found nowhere.
        """
        if ti.try_number not in ti.archived_tries:
            ti.archived_tries.add(ti.try_number)
            ti.archived_ids.append(ti.ti_id)
        del self._rows[ti.ti_id]
        self._former[ti.ti_id] = ti
        ti.ti_id = self.new_id()
        self._rows[ti.ti_id] = ti

    def mirror(self, ti: SimTaskInstance) -> None:
        """The row as it is now, for the store."""
        self._mirror.put(ti.ti_id, ti.key, ti.state)

    def tell(
        self,
        event: str,
        ti: SimTaskInstance | None,
        *,
        ti_id: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """One line of the ledger. ti_id: its id before the event, where that changed."""
        self.ledger.append(
            AirflowEntry(
                seq=len(self.ledger) + 1,
                at=self.now_s(),
                event=event,
                ti_id=ti_id or (ti.ti_id if ti else ""),
                task=ti.task if ti else "",
                try_number=ti.try_number if ti else 0,
                state=(ti.state or "") if ti else "",
                detail=detail,
            )
        )

    def new_id(self) -> str:
        """A UUID from the seed."""
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))


def task_name(key: TaskKey) -> str:
    """``dag.task@run[map_index]``."""
    mapped = f"[{key.map_index}]" if key.map_index >= 0 else ""
    return f"{key.dag_id}.{key.task_id}@{key.run_id}{mapped}"
