"""What goes wrong in one simulated world, drawn from its seed, until the sky clears.

Each world has a profile of its own: a few kinds of fault are common in it, others rare, most absent, since
faults that always come together hide each other. ``calm`` ends them all; then everything must converge.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

_SLOW_S = {"store": 3.0, "records": 5.0, "emr": 8.0, "api": 8.0, "host": 1.0}
_QUICK_S = {"store": 0.005, "records": 0.03, "emr": 0.05, "api": 0.01, "host": 0.0}
"""Latency of a port's calls on a good day and the longest on a bad one, seconds."""


@dataclass(slots=True, kw_only=True)
class Shares:
    """Faults by the share of what they happen to. ``counts``: how often each did, by its name."""

    counts: Counter[str] = field(default_factory=Counter)

    def happens(self, what: str, rng: random.Random) -> bool:
        """Whether a fault happens now."""
        share: float = getattr(self, what)
        is_so = share > 0.0 and rng.random() < share
        self.counts[what] += is_so
        return is_so

    def calm(self) -> None:
        """No fault from now on."""
        for fault in fields(self):
            if fault.name != "counts":
                setattr(self, fault.name, fault.default)


def _drawn(low: float, high: float) -> Any:
    """Absent, unless ``draw`` gives it a value between these two."""
    return field(default=0.0, metadata={"range": (low, high)})


@dataclass(slots=True, kw_only=True)
class FaultProfile:
    """Probabilities by call, and rates by virtual hour.

    crash, refused, answer_lost, slow: by gated call (``gate``)
    throttled .. stale_s: by call of EMR; adds_doubled: by AddJobFlowSteps that the network doubles
    claims_refused: by step, whose wrapper then starts nothing and writes nothing
    records_*: by submission (silent), by write (late_s, unreadable), or by record of a listing (stale)
    api_*: by call of Airflow's Execution API
    *_per_h: events an hour, at random moments
    down: ports that are away altogether for now
    counts: how often each fault that is drawn by call happened, by its name above
    """

    crash: float = _drawn(0.0002, 0.004)
    refused: float = _drawn(0.001, 0.05)
    answer_lost: float = _drawn(0.001, 0.03)
    slow: float = _drawn(0.01, 0.2)
    throttled: float = _drawn(0.01, 0.3)
    emr_error: float = _drawn(0.005, 0.1)
    dropped_before: float = _drawn(0.01, 0.15)
    dropped_after: float = _drawn(0.01, 0.3)
    stale: float = _drawn(0.05, 0.7)
    stale_s: float = 0.0
    buckets: bool = False
    adds_doubled: float = 0.0
    claims_refused: float = 0.0
    records_silent: float = _drawn(0.02, 1.0)
    records_late_s: float = _drawn(1.0, 60.0)
    records_stale: float = _drawn(0.02, 0.4)
    records_unreadable: float = _drawn(0.01, 0.3)
    api_refused: float = _drawn(0.01, 0.2)
    api_answer_lost: float = _drawn(0.01, 0.15)
    phase_dies: float = _drawn(0.005, 0.1)
    prepare_fails: float = _drawn(0.005, 0.1)
    agent_killed_per_h: float = _drawn(2, 60)
    agent_hangs_per_h: float = _drawn(1, 20)
    scheduler_killed_per_h: float = _drawn(1, 20)
    cluster_lost_per_h: float = _drawn(2, 40)
    storm_per_h: float = _drawn(1, 6)
    node_lost_per_h: float = _drawn(2, 40)
    launch_fails_per_h: float = _drawn(2, 30)
    provisioning_held_per_h: float = _drawn(1, 6)
    termination_hangs_per_h: float = _drawn(1, 10)
    person_ends_cluster_per_h: float = _drawn(1, 10)
    person_cancels_step_per_h: float = _drawn(2, 30)
    cleared_per_h: float = _drawn(5, 120)
    marked_per_h: float = _drawn(2, 60)
    run_timed_out_per_h: float = _drawn(1, 10)
    outage_per_h: float = _drawn(1, 6)
    down: set[str] = field(default_factory=set)
    is_calm: bool = False
    counts: Counter[str] = field(default_factory=Counter)

    def happens(self, what: str, port: str, rng: random.Random) -> bool:
        """Whether a fault that is drawn by call happens now."""
        if self.is_calm:
            return False
        if what == "refused" and port in self.down:
            self.counts[what] += 1
            return True
        chance: float = getattr(self, what)
        if what == "crash" and port == "host":
            # One call there is a whole phase.
            chance *= 4
        if chance > 0.0 and rng.random() < chance:
            self.counts[what] += 1
            return True
        return False

    def delay_s(self, port: str, rng: random.Random) -> float:
        """How long a call of the port takes to get through."""
        if self.is_calm:
            return 0.0
        chance = rng.random()
        quick_s = _QUICK_S.get(port, 0.0)
        if chance >= self.slow:
            # A wait costs the simulator more than the call: some interleave, most go through at once.
            return quick_s if chance >= 1.0 - WAITING_SHARE else 0.0
        self.counts["slow"] += 1
        return rng.uniform(quick_s, _SLOW_S.get(port, quick_s))

    def calm(self) -> None:
        """No fault from now on."""
        self.is_calm = True
        self.down.clear()

    @property
    def may_silence(self) -> bool:
        """Whether it may keep every agent from heartbeating for as long as Airflow waits (300 s)."""
        return bool(
            self.crash
            or self.agent_killed_per_h
            or self.agent_hangs_per_h
            or self.outage_per_h
            or self.api_refused
            or self.api_answer_lost
            or self.refused
        )

    @property
    def may_hinder(self) -> bool:
        """Whether it may keep an agent from seeing how things are, or from acting on it."""
        may_fail = self.throttled or self.emr_error or self.dropped_before or self.dropped_after
        may_be_late = self.slow or self.stale or self.buckets or self.records_silent or self.records_late_s
        may_be_blind = self.records_stale or self.records_unreadable or self.scheduler_killed_per_h
        return bool(self.may_silence or may_fail or may_be_late or may_be_blind)

    def told(self) -> str:
        """The faults of this profile, for the timeline."""
        values = ((one.name, getattr(self, one.name)) for one in fields(self))
        parts = [f"{name}={value:.3g}" for name, value in values if value and isinstance(value, float | bool)]
        return " ".join(parts) or "no faults"


WAITING_SHARE = 0.2
"""Of the calls on a good day."""
STALE_AT_MOST_S = 20.0
"""EMR's reads lag by seconds; the agent waits longer than this (``STEP_UNKNOWN``, ``launch_unknown``)."""


def draw(rng: random.Random) -> FaultProfile:
    """The profile of one world: each kind of fault is absent in most of them."""
    profile = FaultProfile()
    share = rng.choice((0.1, 0.25, 0.5, 0.9))
    for fault in fields(FaultProfile):
        if "range" in fault.metadata and rng.random() < share:
            # Even over orders of magnitude: rare faults meet others in ways that frequent ones never do.
            low, high = fault.metadata["range"]
            setattr(profile, fault.name, low * (high / low) ** rng.random())
    if profile.stale:
        profile.stale_s = rng.uniform(1.0, STALE_AT_MOST_S)
    profile.buckets = rng.random() < share
    own_rng = random.Random(f"adds_doubled/{profile.told()}")
    if own_rng.random() < share:
        profile.adds_doubled = 0.03 * 20 ** own_rng.random()
    if own_rng.random() < share:
        profile.claims_refused = 0.01 * 20 ** own_rng.random()
    return profile
