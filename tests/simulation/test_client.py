"""Production's EMR client on the simulated EMR: what production makes of each fate of a call."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from emr_executor.aws.budget import EMR_BUCKETS, Budget
from emr_executor.aws.emr import EmrClient
from emr_executor.core.model import ClusterId
from emr_executor.errors import AwsUnavailable, ClusterGone, OutcomeUnknown, Throttled
from emr_executor.ports import NewStep
from tests.local.world import launch_request
from tests.simulation.cloud_world import CloudWorld
from tests.simulation.virtual_time import Story, in_virtual_time
from tests.simulator import client as fates
from tests.simulator.client import CallLimits, CloudClient, Fate
from tests.simulator.cloud import StepScript
from tests.simulator.fault_profile import FaultProfile

NAME = "airflow-emr/d1/default/c1"
PREFIX = "airflow-emr/d1/"


@dataclass
class Agent:
    """Production's client in a world, with the fates that calls are to have, first come first served."""

    world: CloudWorld
    emr: EmrClient
    fates: list[Fate]

    async def launch(self, **changes: Any) -> ClusterId:
        return await self.emr.run_job_flow(
            launch_request(Name=NAME, StepConcurrencyLevel=2, **changes), within_s=60
        )

    async def add(self, cluster_id: ClusterId, *names: str) -> None:
        steps = [NewStep(name=f"airflow-emr/{name}/dag.task", jar="j.jar", args=("a",)) for name in names]
        await self.emr.add_steps(cluster_id, steps, within_s=60)

    def clusters(self) -> int:
        """How many EMR really launched."""
        return len(self.world.events("cluster_launched"))


def with_agent(profile: FaultProfile | None = None) -> Callable[[Story], Callable[..., None]]:
    """A test whose first argument is an agent."""

    def made() -> Agent:
        planned: list[Fate] = []
        world, script = CloudWorld(profile=profile), StepScript(duration_s=30)
        world.cloud._script_of = lambda _: script
        limits = CallLimits(world.cloud, world.profile, EMR_BUCKETS)
        fate_of = None if profile else lambda _: planned.pop(0) if planned else fates.GOOD
        client = CloudClient(world.cloud, world.profile, world.rng, limits, fate_of=fate_of)
        return Agent(world, EmrClient(client, client, Budget(world.clock)), planned)

    return in_virtual_time(made)


@pytest.mark.parametrize(
    ("fate", "error", "launched"),
    [
        (Fate(acts=0, silence=fates.no_connection), AwsUnavailable, 0),
        (Fate(acts=0, silence=fates.connect_timeout, silence_s=10), AwsUnavailable, 0),
        (Fate(acts=0, silence=fates.read_timeout, silence_s=60), OutcomeUnknown, 0),
        (Fate(silence=fates.read_timeout, silence_s=60), OutcomeUnknown, 1),
        (Fate(silence=fates.connection_closed), OutcomeUnknown, 1),
        (Fate(silence=fates.connection_closed, act_late_s=5), OutcomeUnknown, 1),
        (Fate(acts=0, refusal=fates.THROTTLED), OutcomeUnknown, 0),
        (Fate(refusal=fates.THROTTLED), OutcomeUnknown, 1),
        (Fate(acts=0, refusal=fates.BROKEN), OutcomeUnknown, 0),
        (Fate(refusal=fates.BROKEN), OutcomeUnknown, 1),
    ],
)
@with_agent()
async def test_the_fates_of_a_launch(agent: Agent, fate: Fate, error: type[Exception], launched: int) -> None:
    agent.fates.append(fate)
    with pytest.raises(error):
        await agent.launch()
    assert agent.clusters() == (0 if fate.act_late_s else launched)
    await asyncio.sleep(20)
    assert agent.clusters() == launched


@pytest.mark.parametrize(
    ("fate", "error"),
    [
        (Fate(acts=0, silence=fates.no_connection), AwsUnavailable),
        (Fate(silence=fates.read_timeout), AwsUnavailable),
        (Fate(acts=0, refusal=fates.THROTTLED), Throttled),
        (Fate(acts=0, refusal=fates.BROKEN), AwsUnavailable),
    ],
)
@with_agent()
async def test_the_fates_of_a_read(agent: Agent, fate: Fate, error: type[Exception]) -> None:
    cluster_id = await agent.launch()
    agent.fates.append(fate)
    with pytest.raises(error):
        await agent.emr.list_steps(cluster_id)
    assert (await agent.emr.list_steps(cluster_id)).steps == ()


@with_agent()
async def test_a_request_may_be_doubled_on_its_way(agent: Agent) -> None:
    cluster_id = await agent.launch()
    agent.fates.append(Fate(acts=2))
    await agent.add(cluster_id, "w-1")
    steps = (await agent.emr.list_steps(cluster_id)).steps
    assert [step.name for step in steps] == ["airflow-emr/w-1/dag.task"] * 2


@with_agent()
async def test_a_step_may_live_before_its_answer_is_there(agent: Agent) -> None:
    cluster_id = await agent.launch()
    agent.fates.append(Fate(silence=fates.read_timeout, silence_s=60))
    adding = asyncio.ensure_future(agent.add(cluster_id, "w-1"))
    await asyncio.sleep(40)
    assert await agent.world.told("w-1") == ("ENDED", 0, "")
    with pytest.raises(OutcomeUnknown):
        await adding


@with_agent()
async def test_a_read_that_lags_shows_the_state_of_then(agent: Agent) -> None:
    cluster_id = await agent.launch()
    await asyncio.sleep(5)
    await agent.add(cluster_id, "w-1")
    agent.fates += [Fate(lag_s=1), Fate(lag_s=6), Fate(lag_s=6), Fate(lag_s=6)]
    assert (await agent.emr.list_steps(cluster_id)).steps == ()
    assert await agent.emr.describe_cluster(cluster_id) is None
    assert await agent.emr.list_clusters(name_prefix=PREFIX) == ()
    with pytest.raises(ClusterGone):
        await agent.emr.list_steps(cluster_id)
    assert len((await agent.emr.list_steps(cluster_id)).steps) == 1


@with_agent(
    FaultProfile(
        throttled=0.1, emr_error=0.1, dropped_before=0.15, dropped_after=0.15, stale=0.3, stale_s=20.0
    )
)
async def test_bad_weather_brings_every_fate_and_a_calm_day_none(agent: Agent) -> None:
    heard: Counter[str] = Counter()
    for _ in range(400):
        await asyncio.sleep(10)
        try:
            await agent.launch()
            heard["launched"] += 1
        except (AwsUnavailable, OutcomeUnknown) as error:
            heard[type(error).__name__] += 1
    await asyncio.sleep(60)
    assert min(heard["launched"], heard["AwsUnavailable"], heard["OutcomeUnknown"]) > 10
    assert agent.clusters() > heard["launched"] + 10
    agent.world.profile.calm()
    for _ in range(50):
        await asyncio.sleep(10)
        assert len(await agent.emr.list_clusters(name_prefix=PREFIX)) == agent.clusters()


@with_agent(FaultProfile(buckets=True))
async def test_emrs_buckets_refuse_who_does_not_wait(agent: Agent) -> None:
    cluster_id = await agent.launch()
    impatient = agent.emr._client
    refused = 0
    for _ in range(15):
        try:
            await impatient.list_steps(ClusterId=cluster_id)
        except Exception as error:  # noqa: BLE001
            refused += "Rate exceeded" in str(error)
    assert refused == 5
    await asyncio.sleep(60)
    # Production waits for its tokens instead.
    for _ in range(30):
        await agent.emr.list_steps(cluster_id)
