"""A stack whose processes die where a test says, and are started again as systemd or Kubernetes would."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from sqlalchemy import text

from emr_executor.core.states import StepState
from emr_executor.local.ledger import cluster_intervals, most_clusters_at_once, overlapping_steps
from tests.airflow_stack.airflow_client import RunState
from tests.airflow_stack.stack import LocalStack
from tests.postgres import fresh_database
from tests.with_airflow.conftest import HERE, Bench
from tests.with_airflow.kill_injector.sitecustomize import name_of

LIFE_TIMEOUT_S = 150.0
RUN_FAST = {
    "lease_timeout": "4",
    "claim_timeout": "12",
    "task_heartbeat_interval": "10",
    "idle_timeout": "3",
    "cluster_poll_interval": "1",
    "step_poll_interval": "4",
    "loss_hold": "4",
    "tick_interval": "0.3",
    "launch_unknown_timeout": "10",
}
_SUBMIT = """#!/bin/sh
for word in "$@"; do
  case "$word" in --gate=*) gate="${word#--gate=}" ;; --exit=*) code="${word#--exit=}" ;; esac
done
echo "driver pid $$"
while [ -n "$gate" ] && [ ! -e "$gate" ]; do sleep 0.1; done
exit "$code"
"""
"""What a step runs in place of Spark, which takes seconds of both cores to start."""
_MARKS = {
    "workload": ("workload_id", "target", "airflow_state", "reported"),
    "submission": ("submission_id", "cancel_asked_at", "wrapper_ended"),
    "cluster": ("cluster_uuid", "target", "end_asked_at"),
}
"""Key, and the columns that are written without a change of state: what is wanted, meant, and told."""
_TRIGGERS = """
create schema killpoints;
create table killpoints.log (
  id bigserial primary key, xid bigint not null default txid_current(),
  entity text not null, row_id text not null, event text not null);
create function killpoints.note() returns trigger language plpgsql as $$
declare was jsonb; is_now jsonb := to_jsonb(new); mark text;
begin
  if tg_op = 'UPDATE' then was := to_jsonb(old); end if;
  if was->>'state' is distinct from is_now->>'state' then
    insert into killpoints.log (entity, row_id, event) values (tg_argv[0], is_now->>tg_argv[1],
      tg_argv[0] || ' ' || coalesce(was->>'state', 'nothing') || '>' || (is_now->>'state'));
  end if;
  foreach mark in array tg_argv[2:] loop
    if tg_op = 'UPDATE' and is_now->>mark is not null and was->>mark is distinct from is_now->>mark then
      insert into killpoints.log (entity, row_id, event) values (tg_argv[0], is_now->>tg_argv[1],
        tg_argv[0] || ' ' || mark || case when mark like '%_at' then '' else '=' || (is_now->>mark) end);
    end if;
  end loop;
  return null;
end $$;
"""


class Arena:
    """A bench, the points that are armed, and who starts again what died.

    keep_running: the processes of the stack that are started again
    """

    def __init__(self, bench: Bench, sabotage: Path, keep_running: Sequence[str]) -> None:
        self.bench, self._sabotage, self._keep_running = bench, sabotage, tuple(keep_running)
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._ledger_at = 0
        self._make_triggers()

    def __enter__(self) -> Self:
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._keeper.join()

    def _make_triggers(self) -> None:
        with self.bench.engine.begin() as connection:
            connection.execute(text(_TRIGGERS.replace(":=", "\\:=")))
            for entity, (key, *marks) in _MARKS.items():
                words = ", ".join(f"'{word}'" for word in (entity, key, *marks))
                connection.execute(
                    text(
                        f"create trigger killpoints after insert or update on emr_{entity}"
                        f" for each row execute function killpoints.note({words})"
                    )
                )

    def _keep(self) -> None:
        while not self._over.wait(0.1):
            for name in self._keep_running:
                component = self.bench.stack._components[name]
                if not component.is_running:
                    component.start()

    # -- points

    def arm(self, *points: str) -> None:
        """Let each point kill once, from now on; no other one does."""
        for point in points:
            (self._sabotage / "fired" / name_of(point)).unlink(missing_ok=True)
        # Renamed, so that nobody reads half of it.
        new = self._sabotage / "plan.new"
        new.write_text("".join(f"{point}\n" for point in points))
        new.rename(self._sabotage / "plan")

    def has_fired(self, point: str) -> bool:
        return (self._sabotage / "fired" / name_of(point)).exists()

    def reached(self) -> set[str]:
        """Every ``<who> <event>`` that happened so far."""
        file = self._sabotage / "reached"
        return set(file.read_text().splitlines()) if file.exists() else set()

    # -- runs

    def trigger(self, dag_id: str = "survives", **conf: Any) -> str:
        return self.bench.stack.trigger(dag_id, conf)

    def state(self, run_id: str, dag_id: str = "survives") -> RunState:
        return self.bench.stack.client.run(dag_id, run_id)

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        self.bench.wait(condition, what, timeout_s=LIFE_TIMEOUT_S)

    def workload(self, run_id: str) -> dict[str, Any]:
        """The last workload of a run, or nothing."""
        rows = self.bench.rows(
            "select * from emr_workload where run_id = :run_id order by accepted_at desc", run_id=run_id
        )
        return rows[0] if rows else {}

    def submission(self, run_id: str) -> dict[str, Any]:
        """The last submission of a run with its cluster's id, or nothing."""
        rows = self.bench.rows(
            "select s.*, c.cluster_id from emr_submission s join emr_workload w using (workload_id)"
            " join emr_cluster c using (cluster_uuid) where w.run_id = :run_id order by s.intended_at desc",
            run_id=run_id,
        )
        return rows[0] if rows else {}

    def wait_until_running(self, run_id: str) -> dict[str, Any]:
        self.wait(lambda: self.submission(run_id).get("state") == "RUNNING", f"the step of {run_id} to run")
        return self.submission(run_id)

    def wait_until_quiet(self) -> None:
        """All of ours and all of EMR's is over, and everything that died is back."""
        over = "('FINISHED', 'CANCELLED')"
        self.wait(
            lambda: (
                not self.bench.rows(
                    f"select 1 from emr_workload where state not in {over} union all"
                    " select 1 from emr_submission where state in ('INTENDED', 'PENDING', 'RUNNING')"
                    " union all"
                    " select 1 from emr_cluster where state !~ '^(TERMINATED|NEVER)'"
                )
            ),
            "everything to be over",
        )
        ledger = self.bench.control.ledger()
        assert all(interval.until is not None for interval in cluster_intervals(ledger))

    def check(self, run_id: str, *, state: str, tries: int, steps: int, dag_id: str = "survives") -> None:
        """What Airflow has in the end, and what EMR's own ledger says of the run and of all clusters."""
        run = self.state(run_id, dag_id)
        (task,) = run.tasks
        assert (task.state, task.try_number) == (state, tries), run
        ledger = self.bench.control.ledger()
        names = {
            f"airflow-emr/{row['submission_id']}/{dag_id}.step": row["was_moved"]
            for row in self.bench.rows(
                "select submission_id, exists (select 1 from emr_history where subject_id = submission_id"
                " and event = 'moving') as was_moved"
                " from emr_submission join emr_workload using (workload_id) where run_id = :run_id",
                run_id=run_id,
            )
        }
        its = [entry for entry in ledger if entry.step_name in names]
        # A step that waits is cancelled where a slot is free elsewhere, and may begin in that very moment.
        hit = {
            entry.step_name
            for entry in its
            if entry.state == StepState.CANCELLED and names[entry.step_name or ""]
        }
        began = [entry for entry in its if entry.event == "process_started" and entry.step_name not in hit]
        assert len(began) == steps, its
        added = [entry.step_name for entry in its if entry.event == "step_added"]
        assert len(added) == len(set(added)), added
        assert overlapping_steps(ledger, lambda name: name.split("/")[1].rsplit("-", 1)[0]) == ()
        rows = self.bench.rows("select cluster_id from emr_cluster where cluster_id is not null")
        launched = [entry.cluster_id for entry in ledger if entry.event == "cluster_launched"]
        assert sorted(launched) == sorted(row["cluster_id"] for row in rows)
        assert most_clusters_at_once(ledger) <= self.bench.max_clusters
        assert not self.bench.rows(
            "select 1 from emr_workload where quarantine is not null union all"
            " select 1 from emr_submission where quarantine is not null union all"
            " select 1 from emr_cluster where quarantine is not null"
        )


@contextmanager
def running_arena(
    folder: Path,
    *,
    emr_executor: Mapping[str, str] | None = None,
    also: Mapping[str, tuple[str, ...]] | None = None,
    max_clusters: int = 1,
) -> Iterator[Arena]:
    """A stack with one agent as a service; also: more processes by name, with airflow's arguments."""
    sabotage = folder / "sabotage"
    for part in ("dags", "jobs"):
        shutil.copytree(HERE / part, folder / part)
    for part in (sabotage / "fired", folder / "gates"):
        part.mkdir(parents=True)
    url = fresh_database()
    options = {**RUN_FAST, "agent": "service", "max_clusters": str(max_clusters), **(emr_executor or {})}
    stack = LocalStack(
        folder / "home",
        dags=[folder / "dags"],
        database_url=url,
        sections={
            "emr_executor": options,
            "scheduler": {"scheduler_health_check_threshold": "10", "orphaned_tasks_check_interval": "5"},
        },
        env={
            "EMR_TEST_EVENTS": str(folder / "events"),
            "EMR_TEST_GATES": str(folder / "gates"),
            "EMR_TEST_SABOTAGE": str(sabotage),
            "PYTHONPATH": str(HERE / "kill_injector"),
        },
        emr_args=["--start-delay-s", "0.5", "--bootstrap-delay-s", "1.5", "--terminate-delay-s", "2.5"],
    )
    with stack:
        submit = stack.home / "emr" / "run" / "bin" / "spark3-submit"
        submit.parent.mkdir(parents=True, exist_ok=True)
        submit.write_text(_SUBMIT)
        submit.chmod(0o755)
        more = {"agent": ("emr", "agent")} if also is None else dict(also)
        bench = Bench(stack, url, folder, max_clusters=max_clusters)
        for name, command in more.items():
            stack.start_another(name, *command)
        with Arena(bench, sabotage, ["scheduler", *more]) as made:
            yield made
        bench.engine.dispose()
