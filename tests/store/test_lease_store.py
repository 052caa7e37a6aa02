"""One holder at a time, and what an old holder still writes is refused."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import Connection, Engine

from emr_executor.errors import StaleWriter
from emr_executor.store.lease_store import (
    LeaseRow,
    beat_lease,
    hold_lease,
    read_lease,
    release_lease,
    take_lease,
)
from emr_executor.store.schema import STEERING


def test_a_free_lease_is_taken_by_the_first(conn: Connection) -> None:
    seen = read_lease(conn, STEERING)
    assert seen == LeaseRow()
    token = take_lease(conn, STEERING, "a", seen)
    assert token == 1
    assert take_lease(conn, STEERING, "b", seen) is None
    assert read_lease(conn, STEERING) == LeaseRow(holder="a", token=1, beat=0)


def test_a_beat_since_it_was_seen_keeps_the_lease(conn: Connection) -> None:
    token = take_lease(conn, STEERING, "a", LeaseRow())
    assert token is not None
    seen = read_lease(conn, STEERING)
    assert beat_lease(conn, STEERING, "a", token)
    assert take_lease(conn, STEERING, "b", seen) is None


def test_a_silent_lease_changes_hands_and_its_old_holder_is_told(conn: Connection) -> None:
    old = take_lease(conn, STEERING, "a", LeaseRow())
    assert old is not None
    new = take_lease(conn, STEERING, "b", read_lease(conn, STEERING))
    assert new is not None
    assert new > old
    assert not beat_lease(conn, STEERING, "a", old)
    hold_lease(conn, new)
    with pytest.raises(StaleWriter, match="another agent has taken over"):
        hold_lease(conn, old)


def test_a_released_lease_is_free_and_its_token_never_comes_back(conn: Connection) -> None:
    token = take_lease(conn, STEERING, "a", LeaseRow())
    assert token is not None
    release_lease(conn, STEERING, "b", token)
    assert read_lease(conn, STEERING).holder == "a"
    release_lease(conn, STEERING, "a", token)
    free = read_lease(conn, STEERING)
    assert free.holder is None
    with pytest.raises(StaleWriter):
        hold_lease(conn, token)
    again = take_lease(conn, STEERING, "b", free)
    assert again is not None
    assert again > free.token > token


def test_a_takeover_waits_for_the_transaction_that_holds_the_lease(postgres: Engine) -> None:
    with postgres.begin() as conn:
        token = take_lease(conn, STEERING, "a", LeaseRow())
        assert token is not None
    taken: list[int | None] = []

    def take_over() -> None:
        with postgres.begin() as conn:
            taken.append(take_lease(conn, STEERING, "b", read_lease(conn, STEERING)))

    with postgres.begin() as conn:
        hold_lease(conn, token)
        successor = threading.Thread(target=take_over)
        successor.start()
        successor.join(timeout=0.2)
        assert taken == []
    successor.join(timeout=10)
    assert taken == [token + 1]
