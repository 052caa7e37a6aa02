"""What a run of interleaved transactions may end in, and what must hold whatever happens.

A run is right when its answers and its end state are those of the same transactions one after another, in
some order. Two exceptions, both by design and both said here exactly:

- **Passing over.** A claim, a purge and the reading of outcomes leave rows alone that another transaction has
  locked (SKIP LOCKED), and find them at their next call. Such a run is right when it is that of the
  transactions one after another, while somebody else has locked some of the rows that the others lock.
- **Row by row.** Accepting, cancelling and adopting several workloads is one call for convenience: no rule
  ties the workloads to each other. Such a run is right when it is that of one-workload calls in some order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import chain, combinations, permutations, product
from typing import Any

from emr_executor.core.states import WorkloadState, WorkloadTarget
from emr_executor.store.change_store import apply
from emr_executor.store.clauses import OVER_WORKLOAD_STATES
from emr_executor.store.history_store import purge
from emr_executor.store.lease_store import take_lease
from emr_executor.store.phase_store import CLAIMED_FROM, claim
from emr_executor.store.scheduler_store import accept, take_outcomes
from tests.store.interleaving import BUSY, Interleaver, Outcome, Refused, RowKey, State
from tests.store.interleaving_operations import Operation

PASSING_OVER = frozenset({claim, purge, take_outcomes})
UNGUARDED = frozenset({"priority_weight", "scheduler_job_id", "claim_beat", "reported", "version"})
"""Columns that change without a new version, by the rule in ``store.schema``."""
VERSIONED = {"emr_workload": "workload_id", "emr_submission": "submission_id", "emr_cluster": "cluster_uuid"}


class Rules:
    """Judges the runs of some operations against each other, in the situation that the database keeps."""

    def __init__(self, interleaver: Interleaver, operations: Sequence[Operation]) -> None:
        self._interleaver = interleaver
        self._operations = operations
        self._transactions = [operation.by(side) for side, operation in enumerate(operations)]
        self._right: list[Outcome] = []
        self._alone: dict[tuple[int, ...], Outcome] = {}
        self._more = chain(self._one_by_one(), self._row_by_row(), self._passing_over())
        interleaver.database.restore()
        self._start = interleaver.database.state()

    def check(self, run: Outcome) -> None:
        """Nothing that must hold is broken, and the run is one of the right ones."""
        for answer in run.answers:
            assert not isinstance(answer, BaseException), f"{answer!r}\n{run.told()}"
            assert answer != BUSY, f"refused as busy or as a deadlock: {answer}\n{run.told()}"
        check_invariants(self._start, run, self._operations)
        if not self._is_right(run):
            raise AssertionError(self._explained(run))

    def check_refusing(self, run: Outcome) -> None:
        """On SQLite: as if those that were refused for a lock had not been there."""
        check_invariants(self._start, run, self._operations)
        left = [i for i, answer in enumerate(run.answers) if answer != BUSY]
        assert left, run.told()
        for order in permutations(left):
            if order not in self._alone:
                self._alone[order] = self._interleaver.one_by_one(self._transactions, order)
            alone = self._alone[order]
            if alone.state == run.state and all(alone.answers[i] == run.answers[i] for i in left):
                return
        raise AssertionError(self._explained(run))

    def _is_right(self, run: Outcome) -> bool:
        if any(run.is_like(right) for right in self._right):
            return True
        for right in self._more:
            self._right.append(right)
            if run.is_like(right):
                return True
        return False

    def _one_by_one(self) -> Iterator[Outcome]:
        for order in permutations(range(len(self._operations))):
            yield self._interleaver.one_by_one(self._transactions, order)

    def _row_by_row(self) -> Iterator[Outcome]:
        if sum(bool(operation.each) for operation in self._operations) < 2:
            return
        pieces = [
            (side, piece.by(side))
            for side, operation in enumerate(self._operations)
            for piece in operation.each or (operation,)
        ]
        for order in permutations(range(len(pieces))):
            sides = [[i for i in order if pieces[i][0] == side] for side in range(len(self._operations))]
            if all(own == sorted(own) for own in sides):
                run = self._interleaver.one_by_one([piece for _, piece in pieces], order)
                answers = tuple(_together([run.answers[i] for i in own]) for own in sides)
                yield Outcome(answers=answers, state=run.state)

    def _passing_over(self) -> Iterator[Outcome]:
        """All orders with all choices of rows that each of those who pass over finds locked."""
        choices = [
            list(_subsets(self._locked_by_others(side))) if operation.of in PASSING_OVER else [()]
            for side, operation in enumerate(self._operations)
        ]
        for locked in product(*choices):
            if any(locked):
                for order in permutations(range(len(self._operations))):
                    yield self._interleaver.one_by_one(self._transactions, order, dict(enumerate(locked)))

    def _locked_by_others(self, side: int) -> list[RowKey]:
        locked: set[RowKey] = set()
        for other, transaction in enumerate(self._transactions):
            if other != side:
                with self._interleaver.as_far_as_it_can(transaction):
                    locked |= self._interleaver.database.locked_rows()
        return sorted(locked)

    def _explained(self, run: Outcome) -> str:
        lines = ["no order of the transactions ends like this run:", run.told()]
        for right in self._right:
            lines.append(f"order {right.ended}: answers {right.answers!r}")
            lines += _differences(right.state, run.state)
        return "\n".join(lines)


def check_invariants(start: State, run: Outcome, operations: Sequence[Operation]) -> None:
    """What holds after whatever run."""
    called = {operation.of for operation in operations}
    for broken in chain(
        _broken_claims(run.state),
        _broken_versions(start, run.state, purged=purge in called),
        _broken_ends(start, run.state, accepted=accept in called),
        _broken_submissions(run.state),
        _broken_leases(start, run, operations),
    ):
        raise AssertionError(f"{broken}\n{run.told()}")


def _broken_claims(state: State) -> Iterator[str]:
    tokens = [row["claim_token"] for row in state["emr_workload"] if row["claim_token"]]
    if len(tokens) != len(set(tokens)):
        yield f"two hold one claim: {tokens}"
    for row in state["emr_workload"]:
        if (row["claim_token"] is not None) != (row["state"] in CLAIMED_FROM):
            yield f"claimed without a phase, or a phase without a claim: {row}"


def _broken_versions(start: State, state: State, *, purged: bool) -> Iterator[str]:
    for table, key in VERSIONED.items():
        now = {row[key]: row for row in state[table]}
        for row in start[table]:
            later = now.get(row[key])
            if later is None or (purged and later["version"] == 0):
                if not purged:
                    yield f"{table}: {row[key]} is gone"
                continue
            changed = {name for name in row if row[name] != later[name]} - UNGUARDED
            if later["version"] < row["version"] or (changed and later["version"] == row["version"]):
                yield f"{table}: {row[key]} changed {changed} at version {row['version']}->{later['version']}"


def _broken_ends(start: State, state: State, *, accepted: bool) -> Iterator[str]:
    over = {row["workload_id"] for row in start["emr_workload"] if row["state"] in OVER_WORKLOAD_STATES}
    for row in state["emr_workload"]:
        if row["state"] not in OVER_WORKLOAD_STATES:
            if row["reported"]:
                yield f"alive, and its end will not be read: {row}"
            if row["workload_id"] in over and not accepted:
                yield f"over, and alive again: {row}"
        elif row["state"] == WorkloadState.CANCELLED and row["target"] == WorkloadTarget.RUN:
            yield f"cancelled, and wanted: {row}"


def _broken_submissions(state: State) -> Iterator[str]:
    made = {row["workload_id"]: row["submissions"] for row in state["emr_workload"]}
    seen: set[tuple[str, int]] = set()
    for row in state["emr_submission"]:
        this = (row["workload_id"], row["n"])
        if this in seen or row["n"] > made.get(row["workload_id"], row["n"]):
            yield f"submission {this} twice, or not counted: {row}"
        seen.add(this)


def _broken_leases(start: State, run: Outcome, operations: Sequence[Operation]) -> Iterator[str]:
    before = {row["name"]: row for row in start["emr_lease"]}
    for row in run.state["emr_lease"]:
        was = before.get(row["name"], {"token": 0, "holder": None})
        if row["token"] < was["token"] or (row["holder"] != was["holder"] and row["token"] == was["token"]):
            yield f"the lease went from {was} to {row}"
    fenced = False
    for who in run.ended:
        operation, answer = operations[who], run.answers[who]
        old_token = operation.of is apply and "by the next" not in operation.name
        if operation.of is take_lease and isinstance(answer, int):
            fenced = True
        elif fenced and old_token and not isinstance(answer, Refused):
            yield f"{operation.name} was written with the old token after the lease had changed hands"


def _together(answers: list[Any]) -> Any:
    if len(answers) == 1:
        return answers[0]
    if all(answer is None for answer in answers):
        return None
    return reduce(lambda one, two: one | two if isinstance(one, set) else one + two, answers)


def _subsets(rows: Sequence[RowKey]) -> Iterator[tuple[RowKey, ...]]:
    return chain.from_iterable(combinations(rows, size) for size in range(len(rows) + 1))


def _differences(right: State, state: State) -> Iterator[str]:
    for table, rows in right.items():
        for mark, these, those in (("-", rows, state[table]), ("+", state[table], rows)):
            yield from (f"  {mark} {table}: {row}" for row in these if row not in those)
