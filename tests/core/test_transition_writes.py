"""No code of core, agent or store changes a state past the tables: every write in the source is looked at."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from emr_executor.core.states import ClusterState, SubmissionState, WorkloadState
from emr_executor.core.transitions import CLUSTER, SUBMISSION, WORKLOAD

ROOT = Path(__file__).parents[2]
ENUMS = {
    "WorkloadState": (WORKLOAD, WorkloadState),
    "SubmissionState": (SUBMISSION, SubmissionState),
    "ClusterState": (CLUSTER, ClusterState),
}
CHECKED_BY_THE_TABLES = {"core/observe.py: state", "core/settle.py: state", "core/workload.py: state"}
"""Names that hold what ``transition`` or ``apply_observation`` said, a few lines above."""
ELSEWHERE = {
    "store/phase_store.py: kind": "a key of CLAIMED_FROM, which is made from the table",
    "store/phase_store.py: case((_NO_STEP, _GONE[WorkloadState.PREPARING]), "
    "else_=_GONE[WorkloadState.FINISHING])": "_GONE is made from the table",
    "store/unreadable.py: WorkloadState.SUBMITTED": "a stand-in of a row that cannot be read, never written",
    "store/unreadable.py: SubmissionState.RUNNING": "the same",
    "store/unreadable.py: ClusterState.RUNNING": "the same",
    "store/queries.py: row['state']": "read, not written",
    "store/queries.py: WorkloadState(row['state'])": "read, not written",
    "store/rows.py: _enum('state', WorkloadState)": "how the column is read",
    "store/rows.py: _enum('state', SubmissionState)": "how the column is read",
    "store/rows.py: _enum('state', ClusterState)": "how the column is read",
    "store/scheduler_store.py: WorkloadState(row.state)": "read, not written",
    "store/snapshot_store.py: WorkloadState(row.state)": "read, not written",
}
ASKS = (
    "transition(",
    "apply_observation(",
    "moved(",
    "_after(",
    "_ends(",
    "_transition(",
    "_apply(",
    "_move(",
)


def written_states() -> Iterator[tuple[str, ast.expr]]:
    """Each value that some call of core, agent or store gives to a keyword ``state``, or a column of it."""
    for part in ("core", "agent", "store"):
        for path in sorted((ROOT / "emr_executor" / part).rglob("*.py")):
            name = str(path.relative_to(ROOT / "emr_executor"))
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    yield from ((name, word.value) for word in node.keywords if word.arg == "state")
                elif isinstance(node, ast.Dict):
                    pairs = zip(node.keys, node.values, strict=True)
                    yield from (
                        (name, v) for k, v in pairs if isinstance(k, ast.Constant) and k.value == "state"
                    )
                elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    for target in targets:
                        if isinstance(target, ast.Attribute) and target.attr == "state":
                            yield name, node.value
                        if isinstance(target, ast.Subscript) and ast.unparse(target.slice) == "'state'":
                            yield name, node.value


def members(value: ast.expr) -> list[tuple[str, str]]:
    """Members of our state enums that an expression names."""
    return [
        (node.value.id, node.attr)
        for node in ast.walk(value)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ENUMS
    ]


def asks_a_table(value: ast.expr) -> bool:
    return ast.unparse(value).startswith(ASKS)


def test_every_state_that_is_written_is_the_end_of_an_edge() -> None:
    unknown, found = [], 0
    for name, value in written_states():
        found += 1
        text = f"{name}: {ast.unparse(value)}"
        named = members(value)
        if asks_a_table(value) or text in CHECKED_BY_THE_TABLES or text in ELSEWHERE:
            continue
        if not named:
            unknown.append(text)
        for enum, member in named:
            table, states = ENUMS[enum]
            # Literals may only make new rows; every move asks the table.
            if (None, states[member]) not in table.pairs:
                unknown.append(text)
    assert unknown == [], "ask core.transitions (transition) for the state, or say here why not"
    assert found > 20


def test_a_write_past_the_tables_would_be_found() -> None:
    value = ast.parse("replace(w, state=WorkloadState.FINISHED)").body[0].value.keywords[0].value  # type: ignore[attr-defined]
    assert members(value) == [("WorkloadState", "FINISHED")]
    assert not asks_a_table(value)
