"""What expires in S3 and what does not: ages, live steps, two deployments, and the race with staging."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from emr_executor.agent import retention_s3
from emr_executor.agent.retention_s3 import Expired
from emr_executor.aws import layout
from emr_executor.core.model import ClusterUuid, SubmissionId
from emr_executor.errors import AwsUnavailable
from emr_executor.task.messages import LocalFile, Park
from tests.agent.staging_area import DAY_S, Area, Deployment

SHA = "0123456789abcdef" * 4
MINE = SubmissionId("w-1")


@pytest.fixture
def area() -> Area:
    return Area()


@pytest.fixture
def dep(area: Area) -> Deployment:
    return Deployment(area, "dep", keep_days=14)


def job_in(folder: Path, name: str) -> Park:
    path = folder / f"{name}.py"
    path.write_text(name)
    return Park(
        translator="spark_submit",
        command=["spark-submit", "@token-0@#alias"],
        env={},
        files=[LocalFile(token="@token-0@", argument="application", path=str(path))],
        execution_timeout_s=None,
        rendered_fields={},
    )


@pytest.fixture
def job(tmp_path: Path) -> Park:
    return job_in(tmp_path, "job")


def output(n: int, submission: str = MINE, deployment: str = "dep") -> str:
    return layout.output_key(deployment, ClusterUuid("c"), SubmissionId(submission), n)


async def test_what_is_old_and_needed_by_nobody_goes(area: Area, dep: Deployment) -> None:
    old = [f"files/2025-12-01/{SHA}/x.py", f"specs/2025-12-01/{SHA}.json", output(1), output(2)]
    old.append(layout.claim_key("dep", ClusterUuid("c"), MINE))
    area.put(*old, days_ago=14.1)
    young = [f"wrapper/2025-12-19/{SHA}/emr_step_wrapper.py", output(3, "w-2")]
    area.put(*young, days_ago=13.9)
    did = await dep.walk()
    assert set(area.written) == set(young)
    assert (did.objects, did.refreshed, did.listings) == (5, 0, 6)


async def test_a_record_left_over_goes_after_a_day_and_that_of_a_live_step_stays(
    area: Area, dep: Deployment
) -> None:
    states = [layout.state_key("dep", ClusterUuid("c"), SubmissionId(s)) for s in ("gone", "live", "new")]
    area.put(*states[:2], days_ago=1.5)
    area.put(states[2], days_ago=0.5)
    dep.submissions = {SubmissionId("live")}
    await dep.walk()
    assert set(area.written) == set(states[1:])


async def test_output_of_a_live_step_stays_however_old(area: Area, dep: Deployment) -> None:
    area.put(output(1, "live"), output(1, "over"), days_ago=400)
    dep.submissions = {SubmissionId("live")}
    await dep.walk()
    assert set(area.written) == {output(1, "live")}


async def test_what_is_not_ours_is_left_alone(area: Area, dep: Deployment) -> None:
    strange = [
        "files/my-own-table.csv",
        "specs/notes.txt",
        "dep/output/readme",
        "dep/other/w-1/000001",
        output(1, deployment="another"),
        layout.state_key("another", ClusterUuid("c"), MINE),
        "elsewhere/x",
    ]
    area.put(*strange, days_ago=400)
    assert (await dep.walk()).objects == 0
    assert set(area.written) == set(strange)


async def test_a_step_that_waits_for_months_keeps_what_it_names(
    area: Area, dep: Deployment, job: Park
) -> None:
    dep.park("waits", job)
    for _ in range(90):
        area.passed_s += DAY_S
        await dep.walk()
        assert dep.missing() == set()
    del dep.steps["waits"]
    area.passed_s += 15 * DAY_S
    assert (await dep.walk()).objects == 3
    assert area.written == {}


async def test_the_own_steps_are_safe_also_after_an_absence_of_the_agent(
    area: Area, dep: Deployment, job: Park
) -> None:
    dep.park("waits", job)
    area.passed_s += 100 * DAY_S
    area.refuse = {"refresh": AwsUnavailable("S3 is away")}
    did = Expired()
    dep.expiry.begin()
    with pytest.raises(AwsUnavailable):
        await dep.expiry.round(did)
    area.refuse = {}
    await dep.walk()
    assert dep.missing() == set()


async def test_nothing_is_deleted_for_ever_and_what_others_could_delete_is_refreshed(
    area: Area, job: Park
) -> None:
    for_ever, other = Deployment(area, "for-ever", keep_days=0), Deployment(area, "other", keep_days=7)
    for_ever.park("waits", job)
    area.put(output(1, deployment="for-ever"))
    for _ in range(30):
        area.passed_s += DAY_S
        await for_ever.walk()
        await other.walk()
    assert for_ever.missing() == set()
    assert output(1, deployment="for-ever") in area.written


async def test_a_shorter_retention_than_allowed_does_not_reach_shared_objects(area: Area) -> None:
    hasty = Deployment(area, "hasty", keep_days=0.01)
    area.put(f"files/2025-12-28/{SHA}/x.py", days_ago=6.9)
    assert (await hasty.walk()).objects == 0


async def test_a_round_is_bounded_and_the_next_goes_on(area: Area, dep: Deployment) -> None:
    area.page_size = 10
    area.put(*(output(n) for n in range(1, 201)), days_ago=20)
    dep.expiry.begin()
    rounds = []
    while dep.expiry.is_walking:
        area.calls.clear()
        await dep.expiry.round(did := Expired())
        rounds.append(did.objects)
        assert len(area.calls) <= 2 * retention_s3.PAGES_A_ROUND
    assert sum(rounds) == 200
    assert max(rounds) == 50
    assert area.written == {}


async def test_an_error_loses_no_place_and_no_count(area: Area, dep: Deployment) -> None:
    area.page_size = 1
    area.put(*(output(n) for n in range(1, 4)), days_ago=20)
    deletions = iter([None, AwsUnavailable("SlowDown")])

    def before(operation: str) -> None:
        area.refuse = {}
        if operation == "delete" and (error := next(deletions, None)):
            area.refuse = {"delete": error}

    area.before = before
    did = Expired()
    dep.expiry.begin()
    with pytest.raises(AwsUnavailable):
        await dep.expiry.round(did)
    assert did.objects == 1
    while dep.expiry.is_walking:
        await dep.expiry.round(did)
    assert did.objects == 3
    assert area.written == {}


async def test_an_object_that_s3_never_copies_is_told_and_does_not_stop_the_walk(
    area: Area, dep: Deployment, job: Park
) -> None:
    dep.park("waits", job)
    area.passed_s += 5 * DAY_S
    area.refuse = {"refresh": AwsUnavailable("InvalidRequest: larger than 5 GB")}
    dep.expiry.begin()
    failures = 0
    with capture_logs() as logs:
        while dep.expiry.is_walking:
            try:
                await dep.expiry.round(Expired())
            except AwsUnavailable:
                failures += 1
    assert failures == 3 * retention_s3.REFRESH_ATTEMPTS
    assert [entry["event"] for entry in logs] == ["staged_object_not_refreshed"] * 3


async def test_a_live_step_without_its_object_is_told(area: Area, dep: Deployment, job: Park) -> None:
    dep.park("waits", job)
    area.passed_s += 5 * DAY_S
    area.written.clear()
    with capture_logs() as logs:
        await dep.walk()
    assert [entry["event"] for entry in logs] == ["staged_object_missing"] * 3


# -- the race with staging -----------------------------------------------------------------------------


@pytest.mark.parametrize("late", ["own", "other"])
@pytest.mark.parametrize("point", ["page", "needs", "delete", "refresh"])
def test_a_step_staged_at_any_moment_of_a_walk_keeps_its_objects(
    tmp_path: Path, job: Park, point: str, late: str
) -> None:
    """The same file was staged before, at every age; a prepare phase comes before each call of a walk."""
    met = 0
    for quarters, nth in itertools.product(range(0, 4 * 20, 3), range(1, 8)):
        area, own, other = with_an_old_step(tmp_path, job, days=quarters / 4)

        async def stage(late: Deployment = {"own": own, "other": other}[late]) -> None:
            late.park("late", job)

        met += interrupted(area, own.walk(), point, nth, stage())
        assert own.missing() | other.missing() == set(), (quarters, nth)
    assert met > 20


@pytest.mark.parametrize("point", ["head", "put"])
def test_a_walk_in_the_midst_of_staging_takes_nothing_away(tmp_path: Path, job: Park, point: str) -> None:
    met = 0
    for quarters, nth in itertools.product(range(4 * 20), range(1, 4)):
        area, own, other = with_an_old_step(tmp_path, job, days=quarters / 4)

        async def stage(own: Deployment = own) -> None:
            own.park("late", job)

        async def walks(own: Deployment = own, other: Deployment = other) -> None:
            await own.walk()
            await other.walk()

        met += interrupted(area, stage(), point, nth, walks())
        assert own.missing() == set(), quarters
    assert met > 100


def with_an_old_step(folder: Path, job: Park, *, days: float) -> tuple[Area, Deployment, Deployment]:
    """Two deployments; in one a step with these files is over since so many days, and another step lives."""
    area = Area()
    own, other = Deployment(area, "own", keep_days=7), Deployment(area, "other", keep_days=7)
    own.park("lives on", job_in(folder, "another"))
    own.park("over", job)
    del own.steps["over"]
    area.passed_s += days * DAY_S
    return area, own, other


def interrupted(
    area: Area, one: Coroutine[Any, Any, Any], point: str, nth: int, other: Coroutine[Any, Any, Any]
) -> bool:
    """Run one, and before the nth time that it calls ``point`` the other; whether there was such a call."""
    calls = itertools.count(1)
    met = False

    def before(operation: str) -> None:
        nonlocal met
        if not met and operation == point and next(calls) == nth:
            met = True
            to_its_end(other)

    area.before = before
    to_its_end(one)
    other.close()
    return met


def to_its_end(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run what waits for nothing, also from within another of its kind."""
    with pytest.raises(StopIteration):
        coroutine.send(None)


@pytest.mark.parametrize("seed", range(4))
def test_deployments_with_one_staging_area_never_miss_an_object(tmp_path: Path, seed: int) -> None:
    """Six weeks: steps that live for minutes or weeks, hosts whose clocks differ by hours, agents away."""
    dice = random.Random(seed)
    area = Area()
    area.page_size = 5
    deployments = [Deployment(area, name, keep_days=keep) for name, keep in (("a", 7), ("b", 14), ("c", 0))]
    back_at = dict.fromkeys(("a", "b", "c"), 0.0)
    ends: list[tuple[float, Deployment, str]] = []
    jobs = [job_in(tmp_path, f"job-{n}") for n in range(4)]
    for hour in range(24 * 45):
        area.passed_s = hour * 3600.0
        for end in [e for e in ends if e[0] <= area.passed_s]:
            ends.remove(end)
            end[1].steps.pop(end[2])
        if dice.random() < 0.3:
            dep, name = dice.choice(deployments), f"{hour}"
            dep.park(name, dice.choice(jobs), skew_s=dice.uniform(-6, 6) * 3600)
            ends.append((area.passed_s + dice.choice([0.01, 1, 10, 30]) * DAY_S, dep, name))
        for dep in deployments:
            if area.passed_s >= back_at[dep.name] + DAY_S and dice.random() < 0.005:
                back_at[dep.name] = area.passed_s + 1.9 * DAY_S
            if area.passed_s >= back_at[dep.name] and not hour % 24:
                asyncio.run(dep.walk())
        assert not any(dep.missing() for dep in deployments), hour
    assert len(area.written) < 300
