"""A simulated world: production agents and their store between the two models, from the first task to calm.

What is real: ``agent``, ``core``, ``store`` on SQLite in memory, ``aws.emr`` with its budget and its
reading of errors. What is modelled: EMR, Airflow, the processes of phases, S3, time. The world starts
processes, starts them again when they die, lets ``chaos`` happen, clears the sky, waits until everything has
come to rest, and hands the two ledgers to the checkers.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from emr_executor.agent.compose import compose
from emr_executor.agent.surroundings import Surroundings
from emr_executor.aws.budget import EMR_BUCKETS, Budget
from emr_executor.aws.emr import EmrClient
from emr_executor.core.model import HistoryEntry, Identity, SubmissionId
from emr_executor.ports import PhaseJob
from tests.simulator.airflow import AirflowModel
from tests.simulator.airflow_api import AGENT_TIMEOUT_S, ApiFaults, ExecutionApi
from tests.simulator.airflow_entities import FinishEnd
from tests.simulator.airflow_session import SchedulerSession, SessionFaults
from tests.simulator.checkers import Terms, Violation, check
from tests.simulator.client import CallLimits, CloudClient
from tests.simulator.clock import VirtualClock
from tests.simulator.cloud import Cloud, StepScript
from tests.simulator.error_capture import ErrorCapture
from tests.simulator.fault_proxy import through
from tests.simulator.host import PhaseFaults, SimTaskHost
from tests.simulator.process import SimProcess, task_factory
from tests.simulator.records import SimRecords
from tests.simulator.scenario import DEPLOYMENT, Scenario
from tests.simulator.scheduler import ModelScheduler, SchedulerPace
from tests.simulator.stores import Stores
from tests.simulator.supervisor import PhaseSurroundings
from tests.simulator.task_api import SimTaskApi
from tests.simulator.timeline import timeline_of

RESTART_S = (0.5, 40.0)
"""A process that died is started again within this time."""
LOOK_AT_CLOCK_S = 1e-5
"""What passes on a host with each look at its clock."""
LOOK_S = 20.0
"""How often the world looks whether everything has come to rest."""
REST_WITHIN_S = 3 * 3600.0
"""Everything must have ended so long after the sky cleared."""
HINDRANCES_LAST_S = 600.0
"""Holds, and call budgets that have learnt of throttling, are over so long after the sky cleared."""
STORIES = 3
STORY_LINES = 30
Plant = Callable[[Surroundings], Surroundings]
"""Changes what an agent of the world reaches: how a test plants a bug for the checkers to find."""
_RANDOM_PARTS = ("airflow", "cloud", "agents", "phases", "schedulers", "chaos", "ids")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a world.

    stories: what the ledgers tell of each violation's subject
    counts: what happened how often, by name
    virtual_s: how long it lived
    """

    seed: int
    violations: tuple[Violation, ...]
    stories: dict[str, list[str]]
    counts: Counter[str]
    virtual_s: float


class NullTaskLog:
    """``ports.TaskLog`` that counts lines."""

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts

    async def append(self, lines: Mapping[str | None, Sequence[dict[str, Any]]]) -> None:
        """Count them."""
        self._counts["log_lines"] += sum(map(len, lines.values()))


class World:
    """Everything of one seed; to be made and lived inside of its virtual loop.

    person_did: ids of steps and clusters that people of this world cancelled or ended
    foreign: ids of clusters that others launched
    """

    def __init__(
        self, scenario: Scenario, stores: Stores, errors: ErrorCapture, plant: Plant | None = None
    ) -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(task_factory)
        self.scenario, self.profile, self.stores = scenario, scenario.profile, stores
        self.errors, self._plant = errors, plant
        self.rngs = {name: random.Random(f"{name}/{scenario.seed}") for name in _RANDOM_PARTS}
        self.clock = VirtualClock(loop)
        self.counts: Counter[str] = Counter()
        self.person_did: set[str] = set()
        self.foreign: set[str] = set()
        self.refused: set[str] = set()
        self.airflow = AirflowModel(
            now_s=self.clock.epoch_s, rng=self.rngs["airflow"], mirror=stores.task_instances
        )
        self.api_faults = ApiFaults(
            refused=self.profile.api_refused, answer_lost=self.profile.api_answer_lost
        )
        self.phase_faults = PhaseFaults(
            prepare_raises=self.profile.prepare_fails,
            prepare_dies=self.profile.phase_dies,
            finish_dies=self.profile.phase_dies,
            finish_held=self.profile.phase_dies / 2,
            s3_fails=self.profile.prepare_fails,
        )
        self.session_faults = SessionFaults(
            accept_fails=self.profile.refused,
            commit_fails=self.profile.refused,
            adopt_fails=self.profile.refused,
        )
        self.cloud = Cloud(
            clock=self.clock,
            options=scenario.model,
            profile=self.profile,
            rng=self.rngs["cloud"],
            script_of=self._script_of,
            refuses=self._refuses,
        )
        self.limits = CallLimits(self.cloud, self.profile, EMR_BUCKETS)
        self.agents: dict[int, SimProcess] = {}
        self.schedulers: dict[int, SimProcess] = {}
        self.phases: set[SimProcess] = set()
        self._unhindered_from = 0.0
        self._births = 0
        self._is_over = False

    # -- life --------------------------------------------------------------------------------------------

    async def live(self) -> Outcome:
        """From the first task to rest; what the checkers say of it."""
        from tests.simulator.chaos import Chaos

        started = self.clock.monotonic()
        chaos = Chaos(self)
        chaos.settle_foreign_clusters()
        for place in range(self.scenario.schedulers):
            self._start_scheduler(place)
        for place in range(len(self.scenario.skews_s)):
            self._start_agent(place)
        triggers = asyncio.ensure_future(self._trigger_runs())
        chaos.begin()
        await asyncio.sleep(self.scenario.stormy_s)
        self._clear_the_sky(chaos)
        await triggers
        is_at_rest = await self._rest()
        self._is_over = True
        outcome = await self._judge(is_at_rest=is_at_rest, virtual_s=self.clock.monotonic() - started)
        for process in [*self.agents.values(), *self.schedulers.values(), *self.phases]:
            process.kill("the end")
        return outcome

    def _clear_the_sky(self, chaos: Any) -> None:
        if self.profile.may_hinder:
            self._unhindered_from = self.clock.epoch_s() + HINDRANCES_LAST_S
        self.profile.calm()
        chaos.end()
        for faults in (self.api_faults, self.phase_faults, self.session_faults):
            faults.calm()

    async def _trigger_runs(self) -> None:
        begun = self.clock.monotonic()
        for task in self.scenario.tasks:
            wait_s = begun + task.at_s - self.clock.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            self.airflow.add(task.key, task.script)

    async def _rest(self) -> bool:
        """Wait until nothing is open and nothing of ours is left; False when that takes too long."""
        deadline = self.clock.monotonic() + REST_WITHIN_S
        while self.clock.monotonic() < deadline:
            if not self.airflow.open_tries() and not self._our_clusters():
                return True
            await asyncio.sleep(LOOK_S)
        return False

    def _our_clusters(self) -> list[str]:
        open_ids = self.cloud.model.open_cluster_ids
        return [cluster_id for cluster_id in open_ids if self.is_ours(cluster_id)]

    def is_ours(self, cluster_id: str) -> bool:
        """Whether a cluster carries this deployment's name."""
        return self.cloud.model.name_of(cluster_id).startswith(f"airflow-emr/{DEPLOYMENT}/")

    async def _judge(self, *, is_at_rest: bool, virtual_s: float) -> Outcome:
        scenario = self.scenario
        terms = Terms(
            deployment_id=DEPLOYMENT,
            max_clusters={pool.name: scenario.cap for pool in scenario.settings.cluster_pools},
            max_submissions=scenario.max_submissions,
            person_cancelled=frozenset(self.person_did),
            person_launched=frozenset(self.foreign),
            not_begun=frozenset(self.cloud.not_begun),
            stood_back=frozenset(self.cloud.stood_back),
            ended_well=frozenset(self.cloud.ended_well),
            ended_badly=frozenset(self.cloud.ended_badly),
            refused=frozenset(self.refused),
            fails_after=frozenset(self._fails_after()),
            open_tries=self.airflow.open_tries(),
            may_be_purged=self.profile.may_silence,
            slots={pool.name: pool.slots for pool in scenario.settings.cluster_pools},
            # A slot that a cancelled step blocks is free for the ledger, and for nobody else.
            unhindered_from=self._unhindered_from if scenario.model.cancelled_step_frees_slot else None,
        )
        violations = check(self.cloud.model.ledger, self.airflow.ledger, terms)
        violations += [
            Violation(promise="no_bug", subject=what, text=text) for what, text in self.errors.told
        ]
        if not is_at_rest and not violations:
            text = f"not at rest {REST_WITHIN_S:.0f} s after the sky cleared"
            violations.append(Violation(promise="never_lost", subject="world", text=text))
        self._count()
        subjects = list(dict.fromkeys(violation.subject for violation in violations))[:STORIES]
        return Outcome(
            seed=scenario.seed,
            violations=tuple(violations),
            stories={subject: await self._story(subject) for subject in subjects},
            counts=self.counts,
            virtual_s=virtual_s,
        )

    async def _story(self, subject: str) -> list[str]:
        emr, airflow = self.cloud.model.ledger, self.airflow.ledger
        workloads = list(dict.fromkeys(entry.ti_id for entry in airflow if entry.task == subject))
        ours: list[HistoryEntry] = []
        for workload_id in workloads:
            ours += await self.stores.agent.story("workload", workload_id, STORY_LINES)
            for n in range(1, 12):
                ours += await self.stores.agent.story("submission", f"{workload_id}-{n}", STORY_LINES)
        return timeline_of(subject, emr, airflow, ours)

    def _fails_after(self) -> Iterable[str]:
        """Task instances whose script fails in the finish phase."""
        for ti_id in {entry.ti_id for entry in self.airflow.ledger if entry.event == "reported"}:
            script = self.airflow.script_of(ti_id)
            if script is not None and script.finish is FinishEnd.RAISES:
                yield ti_id

    def _count(self) -> None:
        for entry in self.cloud.model.ledger:
            self.counts[f"emr/{entry.event}"] += 1
        for told in self.airflow.ledger:
            self.counts[f"airflow/{told.event}"] += 1
        self.counts["fault/records_stale"] += self.cloud.bucket.stale_shown
        for source in (self.profile, self.api_faults, self.phase_faults, self.session_faults):
            for name, times in source.counts.items():
                self.counts[f"fault/{name}"] += times
        self.counts["workloads"] = len({e.ti_id for e in self.airflow.ledger if e.event == "queued"})

    def _script_of(self, submission_id: SubmissionId) -> StepScript | None:
        script = self.airflow.script_of(submission_id.rpartition("-")[0])
        return None if script is None else script.step

    def _refuses(self, submission_id: SubmissionId) -> bool:
        workload_id = submission_id.rpartition("-")[0]
        chance = random.Random(f"refused/{self.scenario.seed}/{workload_id}").random()
        if chance >= self.scenario.refused_share:
            return False
        self.refused.add(workload_id)
        return True

    # -- processes ---------------------------------------------------------------------------------------

    def new_id(self) -> str:
        """A UUID from the seed."""
        return str(uuid.UUID(int=self.rngs["ids"].getrandbits(128), version=4))

    def _name(self, what: str) -> str:
        self._births += 1
        return f"{what}#{self._births}"

    def _again(self, start: Any, place: int, process: SimProcess, where: str) -> None:
        self.counts[f"died/{process.name.partition('#')[0]}"] += 1
        del where
        if not self._is_over:
            delay_s = self.rngs["agents"].uniform(*RESTART_S)
            asyncio.get_running_loop().call_later(delay_s, start, place)

    def _start_agent(self, place: int) -> None:
        if self._is_over:
            return
        rng, loop = self.rngs["agents"], asyncio.get_running_loop()
        clock = VirtualClock(
            loop, skew_s=self.scenario.skews_s[place], boot_s=1000.0 * (place + 1), look_s=LOOK_AT_CLOCK_S
        )
        host: SimTaskHost | None = None

        def on_end(process: SimProcess, where: str) -> None:
            if host is not None:
                host.die()
            self._again(self._start_agent, place, process, where)

        process = SimProcess(self._name(f"agent{place}"), self.profile, rng, on_end=on_end)
        gate = process.gate
        host = SimTaskHost(
            capacity=self.scenario.settings.task_runner_parallelism,
            script_of=self.airflow.script_of,
            enter=partial(self._enter_phase, clock),
            spawn=self._spawn_phase,
            rng=self.rngs["phases"],
            faults=self.phase_faults,
        )
        client = CloudClient(self.cloud, self.profile, rng, self.limits)
        api = ExecutionApi(
            self.airflow, clock=clock, rng=rng, faults=self.api_faults, timeout_s=AGENT_TIMEOUT_S
        )
        around = Surroundings(
            settings=self.scenario.settings,
            clock=clock,
            store=through(gate, "store", self.stores.agent, self.counts),
            host=through(gate, "host", host),
            api=through(gate, "api", SimTaskApi(api), self.counts),
            emr=through(gate, "emr", EmrClient(client, client, Budget(clock)), self.counts),
            records=through(
                gate, "records", SimRecords(self.cloud.bucket, self.clock, self.profile, rng), self.counts
            ),
            records_uri="s3://sim/staging/records/",
            region="us-east-1",
            task_log=NullTaskLog(self.counts),
            identity=Identity(hostname=f"host{place}", unixname="airflow", pid=self._births),
            holder=process.name,
            deployment_id=DEPLOYMENT,
            new_id=self.new_id,
        )
        agent = compose(around if self._plant is None else self._plant(around))
        self.agents[place] = process
        process.start(agent.run())

    def _start_scheduler(self, place: int) -> None:
        if self._is_over:
            return
        rng = self.rngs["schedulers"]
        process = SimProcess(
            self._name(f"scheduler{place}"),
            self.profile,
            rng,
            on_end=partial(self._again, self._start_scheduler, place),
        )
        session = SchedulerSession(self.airflow, self.stores.scheduler, rng=rng, faults=self.session_faults)
        clock = VirtualClock(asyncio.get_running_loop(), boot_s=77.0 * (place + 1), look_s=LOOK_AT_CLOCK_S)
        pace = SchedulerPace(queued_a_loop=64)
        scheduler = ModelScheduler(through(process.gate, "session", session), clock, pace)
        self.schedulers[place] = process
        process.start(scheduler.run())

    def _enter_phase(self, clock: VirtualClock, job: PhaseJob, on_killed: Any) -> PhaseSurroundings:
        del job

        def on_end(process: SimProcess, where: str) -> None:
            del where
            self.counts["died/phase"] += 1
            self.phases.discard(process)
            on_killed()

        rng = self.rngs["phases"]
        process = SimProcess("phase", self.profile, rng, on_end=on_end)
        self._newborn = process
        api = ExecutionApi(self.airflow, clock=clock, rng=rng, faults=self.api_faults)
        return PhaseSurroundings(
            store=through(process.gate, "store", self.stores.phase),
            api=through(process.gate, "api", api),
            clock=clock,
        )

    def _spawn_phase(self, main: Any) -> object:
        process = self._newborn
        self.phases.add(process)
        task = process.start(main)
        task.add_done_callback(lambda _: self.phases.discard(process))
        return task
