"""Small ledgers made by hand: two models' stories of a task, for tests of the checkers."""

from __future__ import annotations

from typing import Any

from emr_executor.aws.launch import cluster_name
from emr_executor.core.model import ClusterUuid
from emr_executor.local.ledger import LedgerEntry
from tests.simulator.airflow_ledger import AirflowEntry
from tests.simulator.checkers import Terms, Violation, check

US = "d1"
TASK = "dag.task@run[-1]"


class Ledgers:
    """Two ledgers and the terms; a test writes events and asks what is broken.

    Cluster ``c`` is ours and up from the start; times are seconds that a test gives.
    """

    def __init__(self) -> None:
        self.emr: list[LedgerEntry] = []
        self.airflow: list[AirflowEntry] = []
        self.terms: dict[str, Any] = {
            "deployment_id": US,
            "max_clusters": {"default": 1},
            "max_submissions": 3,
        }
        self._names: dict[str, str] = {}
        self._steps: dict[str, tuple[str, str]] = {}

    def check(self) -> list[Violation]:
        return check(self.emr, self.airflow, Terms(**self.terms))

    def broken(self) -> set[str]:
        """The promises that are broken."""
        return {violation.promise for violation in self.check()}

    # -- EMR ---------------------------------------------------------------------------------------------

    def launch(
        self, at: float = 0.0, cluster: str = "c", *, name: str = "", switch_s: int | None = 60
    ) -> None:
        self._names[cluster] = name or cluster_name(US, "default", ClusterUuid(cluster))
        detail = {} if switch_s is None else {"auto_termination_s": switch_s}
        self._write(at, "cluster_launched", cluster, detail=detail)
        for state in ("STARTING", "RUNNING"):
            self.cluster_is(at, state, cluster)

    def cluster_is(self, at: float, state: str, cluster: str = "c") -> None:
        self._write(at, "cluster_state", cluster, state=state)

    def cluster_ends(self, at: float, cluster: str = "c") -> None:
        self.cluster_is(at, "TERMINATING", cluster)
        self.cluster_is(at + 1, "TERMINATED", cluster)

    def add(self, at: float, step: str, submission: str, cluster: str = "c") -> None:
        """A step of ours, by its submission; ``submission`` empty: somebody else's."""
        name = f"airflow-emr/{submission}/dag.task" if submission else "their step"
        self._steps[step] = (cluster, name)
        self.step(at, step, "step_added", "PENDING")

    def step(self, at: float, step: str, event: str, state: str = "", **detail: Any) -> None:
        cluster, name = self._steps[step]
        self._write(at, event, cluster, step_id=step, step_name=name, state=state, detail=detail or None)

    def start(self, at: float, step: str) -> None:
        self.step(at, step, "process_started")
        self.step(at, step, "step_state", "RUNNING")

    def began(self, at: float, step: str, submission: str, cluster: str = "c") -> None:
        """Added, and started a second later."""
        self.add(at, step, submission, cluster)
        self.start(at + 1, step)

    def end(self, at: float, step: str, exit_code: int = 0, state: str = "") -> None:
        self.step(at, step, "process_ended", exit_code=exit_code)
        self.step(at, step, "step_state", state or ("FAILED" if exit_code else "COMPLETED"))

    def ran(self, since: float, until: float, step: str, submission: str, exit_code: int = 0) -> None:
        """A step's whole life; what its command ended with is known to the world."""
        self.add(since, step, submission)
        self.start(since, step)
        self.end(until, step, exit_code)
        which = "ended_badly" if exit_code else "ended_well"
        self.terms[which] = self.terms.get(which, frozenset()) | {step}

    def _write(self, at: float, event: str, cluster: str, **facts: Any) -> None:
        self.emr.append(LedgerEntry(len(self.emr), at, event, cluster, self._names[cluster], **facts))

    # -- Airflow -----------------------------------------------------------------------------------------

    def airflow_event(
        self, at: float, event: str, ti_id: str = "w1", try_number: int = 1, **detail: Any
    ) -> None:
        self.airflow.append(
            AirflowEntry(
                seq=len(self.airflow),
                at=at,
                event=event,
                ti_id=ti_id,
                task=TASK,
                try_number=try_number,
                state="",
                detail=detail or None,
            )
        )

    def queued(self, at: float, ti_id: str = "w1", try_number: int = 1) -> None:
        self.airflow_event(at, "queued", ti_id, try_number)
        self.airflow_event(at + 1, "started", ti_id, try_number)

    def reported(
        self, at: float, state: str, ti_id: str = "w1", try_number: int = 1, by: str = "finish"
    ) -> None:
        self.airflow_event(at, "reported", ti_id, try_number, state=state, by=by)

    def ends(self, at: float, state: str, ti_id: str = "w1", try_number: int = 1) -> None:
        """Airflow hears the try's state, and soon the cluster is over."""
        self.reported(at, state, ti_id, try_number)
        self.cluster_ends(at + 10)


def a_clean_life() -> Ledgers:
    """A task whose step is lost with its cluster once, fails in its first try and ends well in its second;
    somebody else's cluster stands beside."""
    told = Ledgers()
    told.terms["person_launched"] = frozenset({"theirs"})
    told.launch(0, "theirs", name="airflow-emr/d10/default/x")
    told.add(0, "theirs-1", "", "theirs")
    told.step(1, "theirs-1", "process_started")
    told.launch(0)
    told.queued(5)
    told.add(10, "s1", "w1-1")
    told.start(11, "s1")
    told.emr.append(
        LedgerEntry(len(told.emr), 20, "cluster_lost", "c", cluster_name(US, "default", ClusterUuid("c")))
    )
    told.step(20, "s1", "process_ended", exit_code=None)
    told.cluster_ends(25)
    told.launch(30, "c2")
    told.add(40, "s2", "w1-2", "c2")
    told.start(41, "s2")
    told.end(50, "s2", 1)
    told.terms["ended_badly"] = frozenset({"s2"})
    told.reported(60, "up_for_retry")
    told.queued(70, "w2", 2)
    told.add(80, "s3", "w2-1", "c2")
    told.start(81, "s3")
    told.end(90, "s3", 0)
    told.reported(95, "success", "w2", 2)
    told.cluster_ends(200, "c2")
    return told
