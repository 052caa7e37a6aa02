"""What listings show of the wrappers' records: the newest, or what S3 lets them show."""

from __future__ import annotations

import asyncio
import itertools

from emr_executor.core.model import StepRecord, SubmissionId
from tests.simulation.cloud_world import CLUSTER, CloudWorld, in_world, marks
from tests.simulator.cloud import StepScript
from tests.simulator.fault_profile import FaultProfile


@in_world()
async def test_changed_shows_what_differs_from_what_is_known_in_the_order_of_the_keys(
    world: CloudWorld,
) -> None:
    cluster_id = world.launch()
    for name in ("w-3", "w-1", "w-2"):
        world.add(cluster_id, name, StepScript(duration_s=10))
    records = await world.records.changed({})
    assert [record.submission_id for record in records] == ["w-1", "w-2", "w-3"]
    known = marks(records[0]) | marks(records[2])
    assert [record.submission_id for record in await world.records.changed(known)] == ["w-2"]
    assert len({record.mark for record in records}) == 3


@in_world()
async def test_a_consumed_record_is_gone_until_its_wrapper_writes_again_and_output_stays(
    world: CloudWorld,
) -> None:
    cluster_id = world.launch()
    world.add(cluster_id, "w-1", StepScript(duration_s=10, chunks=1))
    await asyncio.sleep(6)
    await world.records.consume({SubmissionId("w-1"): CLUSTER})
    await world.records.consume({SubmissionId("w-1"): CLUSTER})
    assert await world.records.changed({}) == ()
    assert await world.records.output(CLUSTER, SubmissionId("w-1"), 1) is not None
    assert await world.records.output(CLUSTER, SubmissionId("w-1"), 2) is None
    await asyncio.sleep(5)
    assert await world.told("w-1") == ("ENDED", 0, "")
    await world.records.consume({SubmissionId("w-1"): CLUSTER})
    assert len(world.cloud.bucket.versions) == 0


@in_world(profile=FaultProfile(records_late_s=60.0))
async def test_a_late_record_is_listed_after_its_lag_and_the_one_before_it_meanwhile(
    world: CloudWorld,
) -> None:
    cluster_id = world.launch()
    world.add(cluster_id, "w-1", StepScript(duration_s=100))
    seen: list[str] = []
    while not seen or seen[-1] != "ENDED":
        record = await world.record("w-1")
        seen.append("nothing" if record is None else str(record.phase))
        await asyncio.sleep(1)
    assert [phase for i, phase in enumerate(seen) if i == 0 or seen[i - 1] != phase] == [
        "nothing",
        "RUNNING",
        "ENDED",
    ]
    assert seen.index("RUNNING") > 1
    assert seen.index("ENDED") > 101


@in_world(profile=FaultProfile(records_stale=0.5))
async def test_a_stale_listing_shows_an_older_record_again_after_a_newer_one(world: CloudWorld) -> None:
    cluster_id = world.launch()
    world.add(cluster_id, "w-1", StepScript(duration_s=5))
    await asyncio.sleep(6)
    seen = [str(record.phase) for _ in range(60) if (record := await world.record("w-1"))]
    assert {"RUNNING", "ENDED"} == set(seen)
    pairs = set(itertools.pairwise(seen))
    assert ("ENDED", "RUNNING") in pairs
    world.profile.calm()
    assert {str((await world.told("w-1") or ("",))[0]) for _ in range(30)} == {"ENDED"}


@in_world(profile=FaultProfile(records_unreadable=1.0))
async def test_an_unreadable_record_is_left_out_and_the_next_one_may_be_read(world: CloudWorld) -> None:
    cluster_id = world.launch()
    world.add(cluster_id, "w-1", StepScript(duration_s=5))
    assert await world.record("w-1") is None
    world.profile.calm()
    await asyncio.sleep(6)
    assert await world.told("w-1") == ("ENDED", 0, "")


@in_world()
async def test_a_listing_costs_what_is_live_and_keeps_few_versions(world: CloudWorld) -> None:
    cluster_id = world.launch()
    world.add(cluster_id, "w-1", StepScript(duration_s=5000))
    await asyncio.sleep(4000)
    versions = world.cloud.bucket.versions[SubmissionId("w-1")]
    assert len(versions) <= 3
    assert isinstance(versions[-1].record, StepRecord)
    assert len(world.cloud.bucket.versions) == 1
