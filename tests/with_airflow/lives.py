"""The lives of a task in which something dies: what is done from outside, and how each must end.

A life takes an arena, runs one task to its end and checks it. It knows nothing of what is killed meanwhile.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psutil

from emr_executor.local.ledger import LedgerEntry
from tests.with_airflow.arena import Arena

Life = Callable[[Arena], None]


def over(
    arena: Arena,
    run_id: str,
    *,
    dag_id: str = "survives",
    state: str = "success",
    run: str | None = None,
    tries: int = 1,
    steps: int = 1,
) -> None:
    """Wait for the end of the run and of everything it caused; then check all of it."""
    arena.wait(lambda: arena.state(run_id, dag_id).is_over, f"the end of {run_id}")
    assert arena.state(run_id, dag_id).state == (run or ("failed" if state == "failed" else "success"))
    arena.wait_until_quiet()
    arena.check(run_id, state=state, tries=tries, steps=steps, dag_id=dag_id)


def plain(arena: Arena) -> None:
    """Its cluster is launched, its step runs, the cluster goes when it is idle."""
    over(arena, arena.trigger())


def long(arena: Arena) -> None:
    """Its step runs so long that EMR's own lists show it."""
    gate = new_gate()
    run_id = arena.trigger(gate=str(arena.bench.gates / gate))
    submission = arena.wait_until_running(run_id)
    uuid = submission["cluster_uuid"]
    arena.wait(lambda: cluster_state(arena, uuid) == "RUNNING", "its cluster to be seen running a step")
    arena.bench.open_gate(gate)
    over(arena, run_id)


def unlisted(life: Life) -> Life:
    """The life while EMR answers no ListSteps: only its wrapper tells how its step goes."""

    def lived(arena: Arena) -> None:
        arena.bench.control.throttle("ListSteps", 5)
        life(arena)

    lived.__name__ = f"{life.__name__}_unlisted"
    return lived


def unheard_launch(arena: Arena) -> None:
    """Nobody hears the answer of RunJobFlow."""
    arena.bench.control.drop_response("RunJobFlow", 1, when="after")
    over(arena, arena.trigger())


def unheard_steps(arena: Arena) -> None:
    """Nobody hears the answer of AddJobFlowSteps."""
    arena.bench.control.drop_response("AddJobFlowSteps", 1, when="after")
    over(arena, arena.trigger())


def unheard_launch_and_death(arena: Arena) -> None:
    """Nobody hears the answer of RunJobFlow, and the agent dies before it looks for the cluster."""
    arena.bench.control.drop_response("RunJobFlow", 1, when="after")
    already = len(events(arena, "cluster_launched"))
    run_id = arena.trigger()
    arena.wait(lambda: len(events(arena, "cluster_launched")) > already, "the launch")
    arena.bench.stack.kill("agent")
    over(arena, run_id)


def unheard_steps_and_death(arena: Arena) -> None:
    """Nobody hears the answer of AddJobFlowSteps, and the agent dies before it looks for the step."""
    arena.bench.control.drop_response("AddJobFlowSteps", 1, when="after")
    already = len(events(arena, "step_added"))
    run_id = arena.trigger()
    arena.wait(lambda: len(events(arena, "step_added")) > already, "the step")
    arena.bench.stack.kill("agent")
    over(arena, run_id)


def unheard_while_starting(arena: Arena) -> None:
    """Nobody hears either answer, and the cluster takes its time."""
    with provisioning_held(arena):
        for operation in ("RunJobFlow", "AddJobFlowSteps"):
            arena.bench.control.drop_response(operation, 1, when="after")
        run_id = arena.trigger()
        arena.wait(lambda: arena.submission(run_id).get("state") == "PENDING", "its step to be found")
    over(arena, run_id)


def lost_at_once(arena: Arena) -> None:
    """The cluster goes as soon as the step is on it."""
    with provisioning_held(arena):
        run_id = arena.trigger()
        arena.wait(lambda: arena.submission(run_id), "its submission")
        arena.wait(lambda: step_is_added(arena, arena.submission(run_id)), "its step")
        arena.bench.control.lose_cluster(arena.submission(run_id)["cluster_id"])
    over(arena, run_id)


def lost_while_starting(arena: Arena) -> None:
    """The cluster goes before it is up, with the step on it."""
    with provisioning_held(arena):
        run_id = arena.trigger()
        arena.wait(lambda: arena.submission(run_id).get("state") == "PENDING", "its step to be added")
        arena.bench.control.lose_cluster(arena.submission(run_id)["cluster_id"])
    over(arena, run_id)


def no_capacity(arena: Arena) -> None:
    """EC2 has no capacity for the first cluster."""
    arena.bench.control.refuse_capacity(1)
    over(arena, arena.trigger())


def up_at_once(arena: Arena) -> None:
    """The cluster is up before anybody looks."""
    gate = new_gate()
    with provisioning_held(arena):
        run_id = arena.trigger(gate=str(arena.bench.gates / gate))
        arena.wait(lambda: arena.submission(run_id).get("state") == "PENDING", "its step to be added")
        arena.bench.control.finish_provisioning(arena.submission(run_id)["cluster_id"])
        uuid = arena.submission(run_id)["cluster_uuid"]
        arena.wait(lambda: cluster_state(arena, uuid) == "RUNNING", "its cluster to run")
    arena.bench.open_gate(gate)
    over(arena, run_id)


def again(arena: Arena) -> None:
    """A second task's step runs on the cluster that the first one left."""
    gates = new_gate(), new_gate(), new_gate()
    first = arena.trigger(gate=str(arena.bench.gates / gates[0]))
    second = arena.trigger(hold=gates[1], gate=str(arena.bench.gates / gates[2]))
    uuid = arena.wait_until_running(first)["cluster_uuid"]
    arena.wait(lambda: cluster_state(arena, uuid) == "RUNNING", "the cluster to run the first step")
    arena.bench.open_gate(gates[0])
    arena.wait(lambda: cluster_state(arena, uuid) != "RUNNING", "the cluster to be idle")
    arena.bench.open_gate(gates[1])
    arena.wait_until_running(second)
    arena.wait(
        lambda: cluster_state(arena, arena.submission(second)["cluster_uuid"]) == "RUNNING",
        "a cluster to run the second step",
    )
    arena.bench.open_gate(gates[2])
    for run_id in (first, second):
        over(arena, run_id)


def refused_launch(arena: Arena) -> None:
    """EMR refuses the first RunJobFlow."""
    arena.bench.control.fail_calls("RunJobFlow", 1, code="ValidationException", message="no such subnet")
    over(arena, arena.trigger())


def never_launched(arena: Arena) -> None:
    """The first RunJobFlow never reaches EMR, and nobody can know."""
    arena.bench.control.drop_response("RunJobFlow", 1, when="before")
    over(arena, arena.trigger())


def refused_steps(arena: Arena) -> None:
    """EMR refuses the first AddJobFlowSteps."""
    arena.bench.control.fail_calls(
        "AddJobFlowSteps", 1, code="ValidationException", message="Maximum number of active steps exceeded"
    )
    over(arena, arena.trigger())


def fails(arena: Arena) -> None:
    """Its step fails by itself: Airflow hears of that, once."""
    over(arena, arena.trigger(exit=3), state="failed")


def loses_cluster(arena: Arena) -> None:
    """Its cluster is lost while the step runs: a second step, elsewhere, and no retry."""
    gate = new_gate()
    run_id = arena.trigger(gate=str(arena.bench.gates / gate))
    submission = arena.wait_until_running(run_id)
    uuid = submission["cluster_uuid"]
    arena.wait(lambda: cluster_state(arena, uuid) == "RUNNING", "its cluster to be seen running a step")
    arena.bench.control.lose_cluster(submission["cluster_id"], notice_after_s=1.0)
    # Its final record could still say that it ended well.
    arena.wait(lambda: not any(arena.bench.lives("survives")), "the step to be dead")
    arena.bench.open_gate(gate)
    over(arena, run_id, steps=2)


def marked(arena: Arena) -> None:
    """A person marks it as a success while its step runs: the step is ended."""
    run_id = arena.trigger(gate=str(arena.bench.gates / "never"))
    arena.wait_until_running(run_id)
    mark(arena, run_id)
    over(arena, run_id)


def cleared(arena: Arena) -> None:
    """A person clears it while its step runs: the next try's step waits for the end of the first."""
    gate = new_gate()
    run_id = arena.trigger(gate=str(arena.bench.gates / gate))
    arena.wait_until_running(run_id)
    body = {"dry_run": False, "task_ids": ["step"], "dag_run_id": run_id, "only_failed": False}
    response = arena.bench.stack.client.call("POST", "/dags/survives/clearTaskInstances", json=body)
    assert response.is_success, response.text
    arena.bench.open_gate(gate)
    over(arena, run_id, tries=2, steps=2)


def skipped(arena: Arena) -> None:
    """It skips itself before its step."""
    over(arena, arena.trigger(skip=True), state="skipped", run="success", steps=0)


def rescheduled(arena: Arena) -> None:
    """Its first prepare asks to be run again later."""
    over(arena, arena.trigger(reschedule=True))


def marked_early(arena: Arena) -> None:
    """A person marks it as a success while it is prepared: there is never a step."""
    gate = new_gate()
    run_id = arena.trigger(hold=gate)
    arena.wait(lambda: arena.state(run_id).states() == {"step": "running"}, "the task to be prepared")
    mark(arena, run_id)
    arena.wait(lambda: arena.workload(run_id).get("state") in ("CANCELLED", "FINISHED"), "its end")
    arena.bench.open_gate(gate)
    over(arena, run_id, steps=0)


def marked_waiting(arena: Arena) -> None:
    """A person marks it while it waits for a cluster."""
    arena.bench.control.fail_calls("RunJobFlow", 9, code="ValidationException", message="no such subnet")
    run_id = arena.trigger()
    arena.wait(lambda: arena.workload(run_id).get("state") == "READY", "the task to wait")
    mark(arena, run_id)
    arena.wait(lambda: arena.workload(run_id)["state"] == "CANCELLED", "its end")
    arena.bench.control.clear_faults()
    over(arena, run_id, steps=0)


def marked_pending(arena: Arena) -> None:
    """A person marks it before its step has begun, on a cluster that then comes up for nothing."""
    with provisioning_held(arena):
        run_id = arena.trigger()
        arena.wait(lambda: arena.submission(run_id).get("state") == "PENDING", "its step to be added")
        mark(arena, run_id)
        arena.wait(lambda: arena.workload(run_id)["state"] == "CANCELLED", "its end")
        arena.bench.control.finish_provisioning(arena.submission(run_id)["cluster_id"])
        uuid = arena.submission(run_id)["cluster_uuid"]
        arena.wait(lambda: cluster_state(arena, uuid) != "STARTING", "the cluster to be up")
    over(arena, run_id, steps=0)


def marked_late(arena: Arena) -> None:
    """A person marks it while user code hears of the outcome."""
    gate = new_gate()
    run_id = arena.trigger(hold_end=gate)
    arena.wait(lambda: arena.workload(run_id).get("state") == "FINISHING", "its finish")
    mark(arena, run_id)
    arena.wait(lambda: arena.workload(run_id)["state"] in ("CANCELLED", "FINISHED"), "its end")
    arena.bench.open_gate(gate)
    over(arena, run_id)


def vanished(arena: Arena) -> None:
    """Its DAG file is away when the step ends."""
    run_id = without_dag_file(arena)
    over(arena, run_id)


def marked_while_vanished(arena: Arena) -> None:
    """A person marks it while it cannot be finished."""
    run_id = without_dag_file(arena, then=lambda run_id: mark(arena, run_id), until=("CANCELLED", "FINISHED"))
    over(arena, run_id)


def silent_end(arena: Arena) -> None:
    """Its step dies without a final record, and the cluster stays whole: the task fails."""
    run_id = arena.trigger(gate=str(arena.bench.gates / "never"))
    submission = arena.wait_until_running(run_id)["submission_id"]
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if submission in words and any("emr_step_wrapper" in word for word in words):
            process.kill()
    over(arena, run_id, state="failed")


def fails_late(arena: Arena) -> None:
    """Its step fails after it was seen running."""
    gate = new_gate()
    run_id = arena.trigger(gate=str(arena.bench.gates / gate), exit=3)
    arena.wait_until_running(run_id)
    arena.bench.open_gate(gate)
    over(arena, run_id, state="failed")


def cancelled_pending(arena: Arena) -> None:
    """A person cancels its step in EMR's console before it has begun."""
    with provisioning_held(arena):
        run_id = arena.trigger()
        arena.wait(lambda: arena.submission(run_id).get("state") == "PENDING", "its step to be added")
        submission = arena.submission(run_id)
        arena.bench.emr.cancel_steps(ClusterId=submission["cluster_id"], StepIds=[submission["step_id"]])
        arena.wait(lambda: arena.state(run_id).is_over, "the task's end")
        arena.bench.control.finish_provisioning(submission["cluster_id"])
    over(arena, run_id, state="failed", steps=0)


def overtime(arena: Arena) -> None:
    """Its step reaches the task's execution_timeout."""
    run_id = arena.trigger("survives_overtime", gate=str(arena.bench.gates / "never"))
    over(arena, run_id, dag_id="survives_overtime", state="failed")


def cancelled_by_hand(arena: Arena) -> None:
    """A person cancels its step in EMR's console: the task fails."""
    run_id = arena.trigger(gate=str(arena.bench.gates / "never"))
    submission = arena.wait_until_running(run_id)
    arena.wait(lambda: arena.submission(run_id)["step_id"], "its step's id to be known")
    submission = arena.submission(run_id)
    arena.bench.emr.cancel_steps(
        ClusterId=submission["cluster_id"],
        StepIds=[submission["step_id"]],
        StepCancellationOption="TERMINATE_PROCESS",
    )
    over(arena, run_id, state="failed")


@contextmanager
def provisioning_held(arena: Arena) -> Iterator[None]:
    arena.bench.control.hold_provisioning()
    try:
        yield
    finally:
        arena.bench.control.release_provisioning()


def without_dag_file(
    arena: Arena, then: Callable[[str], None] = lambda _run_id: None, until: tuple[str, ...] = ("FINISHABLE",)
) -> str:
    gate = new_gate()
    run_id = arena.trigger(gate=str(arena.bench.gates / gate))
    arena.wait_until_running(run_id)
    file, away = arena.bench.dags / "kill_points.py", arena.bench.folder / "kill_points.py.away"
    shutil.move(file, away)
    try:
        arena.bench.open_gate(gate)
        arena.wait(
            lambda: arena.workload(run_id)["state"] == "FINISHABLE" and arena.workload(run_id)["not_before"],
            "a finish that cannot be done",
        )
        then(run_id)
        arena.wait(lambda: arena.workload(run_id)["state"] in until, "what comes of it")
    finally:
        shutil.move(away, file)
    return run_id


def events(arena: Arena, kind: str) -> list[LedgerEntry]:
    return [entry for entry in arena.bench.control.ledger() if entry.event == kind]


def step_is_added(arena: Arena, submission: dict[str, Any]) -> bool:
    name = f"airflow-emr/{submission['submission_id']}/"
    return any((entry.step_name or "").startswith(name) for entry in events(arena, "step_added"))


def cluster_state(arena: Arena, uuid: str) -> str:
    (row,) = arena.bench.rows("select state from emr_cluster where cluster_uuid = :uuid", uuid=uuid)
    return str(row["state"])


def mark(arena: Arena, run_id: str) -> None:
    path = f"/dags/survives/dagRuns/{run_id}/taskInstances/step"
    response = arena.bench.stack.client.call("PATCH", path, json={"new_state": "success"})
    assert response.is_success, response.text


def new_gate() -> str:
    return f"gate-{uuid4().hex[:8]}"
