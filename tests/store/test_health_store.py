"""What agents say of themselves, in the table."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import Connection

from emr_executor.core.health import AgentHealth, Away, Dependency, redacted
from emr_executor.core.model import ClusterId, ClusterUuid
from emr_executor.core.waiting import Hold, Holds
from emr_executor.store.health_store import agents, forget_agent, tell_health
from tests.store.builders import at

FIRST = AgentHealth(
    holder="host-a/17/aa",
    host="host-a",
    pid=17,
    version="0.1.0",
    steering=False,
    started_at=at(0),
    beat=1,
    told_at=at(1),
)


def test_a_row_is_written_anew_and_comes_back_whole(conn: Connection) -> None:
    tell_health(conn, FIRST)
    away = Away(dependency=Dependency.S3, since=at(3), error="no answer")
    hold = Hold(why="EMR refused it: password=secret", until=at(9), longest_s=60.0, may_be_done=True)
    holds = Holds(
        away="Amazon EMR is away",
        launch={"default": hold},
        place={ClusterUuid("c-1"): hold},
        budget_until=at(7),
        not_ended={ClusterId("j-1"): "it is protected"},
    )
    now = replace(FIRST, steering=True, beat=2, told_at=at(5), away=(away,), holds=holds)
    tell_health(conn, now)
    other = replace(FIRST, holder="host-b/1/bb", host="host-b")
    tell_health(conn, other)
    masked = replace(hold, why="EMR refused it: password=***")
    shown = replace(holds, launch={"default": masked}, place={ClusterUuid("c-1"): masked})
    assert agents(conn) == (replace(now, holds=shown), other)


def test_an_agent_that_spoke_in_between_is_not_forgotten(conn: Connection) -> None:
    tell_health(conn, replace(FIRST, beat=2))
    assert not forget_agent(conn, FIRST.holder, 1)
    assert forget_agent(conn, FIRST.holder, 2)
    assert not forget_agent(conn, FIRST.holder)
    assert agents(conn) == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Could not connect to https://emr/ now", "Could not connect to https://emr/ now"),
        ("two\n  lines", "two lines"),
        ("x-amz-security-token:FwoGZXIvYXdz//8=", "x-amz-security-token:***"),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("got token=abc, and more", "got token=***, and more"),
        ("key ASIAQWERTYUIOPASDFGH is invalid", "key *** is invalid"),
        ("jwt eyJhbGci.eyJzdWIi.c2ln here", "jwt *** here"),
        ("postgresql://me:pw@db/airflow", "postgresql://***@db/airflow"),
        ("GET https://b.s3/k?X-Amz-Signature=ab&c=d", "GET https://b.s3/k?***"),
        ('{"password": "p w"}', '{"password": ***}'),
        ("a" * 400, "a" * 297 + "..."),
    ],
)
def test_an_errors_text_is_one_short_line_without_credentials(text: str, told: str) -> None:
    assert redacted(text) == told
