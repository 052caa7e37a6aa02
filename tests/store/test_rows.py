"""Values come back from the database exactly as they went in."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta, timezone
from enum import EnumType
from types import NoneType
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, insert, select
from sqlalchemy.exc import StatementError

from emr_executor.core.model import (
    Cluster,
    HistoryEntry,
    Identity,
    StepOutcome,
    StepPlan,
    Submission,
    Workload,
)
from emr_executor.store.history_store import append
from emr_executor.store.rows import (
    cluster_from,
    history_entry_from,
    mapping_of,
    submission_from,
    workload_from,
)
from emr_executor.store.schema import CLUSTER, HISTORY, SUBMISSION, WORKLOAD
from tests.store.builders import NOW, a_cluster, a_parked, a_submission, a_workload, store, stored

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
json_objects = st.dictionaries(st.text(max_size=5), json_values, max_size=3)
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12),
    int: st.integers(-(2**31), 2**31 - 1),
    bool: st.booleans(),
    datetime: st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    NoneType: st.none(),
    dict[str, Any]: json_objects,
}
text = st.text(max_size=8)
IN_JSON = PLAIN | {
    str: text,
    float: st.floats(0, 1e9),
    tuple[str, ...]: st.lists(text, max_size=4).map(tuple),
    dict[str, str]: st.dictionaries(text, text, max_size=3),
}


def values_of(kind: Any, plain: dict[Any, st.SearchStrategy[Any]] = PLAIN) -> st.SearchStrategy[Any]:
    """Values of a type, of a dataclass with every field drawn by its annotation."""
    kind = getattr(kind, "__supertype__", kind)
    if kind in plain:
        return plain[kind]
    if isinstance(kind, EnumType):
        return st.sampled_from(kind)
    if dataclasses.is_dataclass(kind):
        its = IN_JSON if kind in {StepPlan, StepOutcome} else plain
        return st.builds(kind, **{name: values_of(hint, its) for name, hint in get_type_hints(kind).items()})
    return st.one_of(*(values_of(one, plain) for one in get_args(kind)))


KINDS = [
    pytest.param(Workload, WORKLOAD, workload_from, id="workload"),
    pytest.param(Submission, SUBMISSION, submission_from, id="submission"),
    pytest.param(Cluster, CLUSTER, cluster_from, id="cluster"),
]


@pytest.mark.parametrize(("kind", "table", "from_row"), KINDS)
def test_values_come_back_as_they_went_in(engine: Engine, kind: Any, table: Any, from_row: Any) -> None:
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(value=values_of(kind))
    def check(value: Any) -> None:
        with engine.connect() as conn:
            store(conn, value)
            assert from_row(conn.execute(select(table)).mappings().one()) == value
            conn.rollback()

    check()


SAMPLES = [
    pytest.param(a_parked(), WORKLOAD, {"reported"}, id="workload"),
    pytest.param(a_submission(a_workload(), a_cluster()), SUBMISSION, set(), id="submission"),
    pytest.param(a_cluster(), CLUSTER, set(), id="cluster"),
]


@pytest.mark.parametrize(
    ("value", "table", "without_field"), SAMPLES, ids=["workload", "submission", "cluster"]
)
def test_each_field_has_its_columns_and_only_what_changed_is_written(
    value: Any, table: Any, without_field: set[str]
) -> None:
    mapping = mapping_of(type(value))
    assert set(mapping.columns(value)) == {c.name for c in table.c} - without_field
    assert mapping.changed_columns(value, dataclasses.replace(value, version=9)) == {}


def test_only_columns_of_changed_fields_are_written() -> None:
    old = a_workload()
    new = dataclasses.replace(old, identity=Identity(hostname="h", unixname="u", pid=1), submissions=1)
    assert mapping_of(Workload).changed_columns(old, new) == {
        "hostname": "h",
        "unixname": "u",
        "pid": 1,
        "submissions": 1,
    }


def test_history_comes_back(conn: Connection) -> None:
    entry = HistoryEntry(at=NOW, subject="cluster", subject_id="c", event="launched", text="for 3 steps")
    append(conn, [entry])
    append(conn, [])
    assert history_entry_from(conn.execute(select(HISTORY)).mappings().one()) == entry


def test_other_time_zones_come_back_as_the_same_moment_in_utc(conn: Connection) -> None:
    workload = a_workload(accepted_at=NOW.astimezone(timezone(timedelta(hours=5, minutes=30))))
    store(conn, workload)
    found = stored(conn, workload.workload_id).accepted_at
    assert found == NOW
    assert found.tzinfo is UTC


def test_a_time_without_a_zone_is_refused(conn: Connection) -> None:
    with pytest.raises(StatementError, match="without a time zone"):
        store(conn, a_workload(accepted_at=NOW.replace(tzinfo=None)))


def test_text_that_databases_refuse_is_cleaned(conn: Connection) -> None:
    cluster = a_cluster(reason="a\x00b\ud800c")
    conn.execute(insert(CLUSTER), [mapping_of(Cluster).columns(cluster)])
    assert conn.execute(select(CLUSTER.c.reason)).scalar_one() == "a\ufffdb?c"
