"""Weathers: drawn from a seed, most kinds of fault absent in most of them, and all of them end."""

from __future__ import annotations

import random
from dataclasses import fields

import pytest

from tests.simulator.chaos import KINDS
from tests.simulator.fault_profile import STALE_AT_MOST_S, FaultProfile, draw
from tests.simulator.scenario import draw_scenario

DRAWN = [draw(random.Random(seed)) for seed in range(300)]
_STATE = {"down", "is_calm", "counts"}
FAULTS = [one.name for one in fields(FaultProfile) if one.name not in _STATE]


def test_one_seed_is_one_weather() -> None:
    assert draw(random.Random(7)) == draw(random.Random(7))
    assert draw(random.Random(7)) != draw(random.Random(8))


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_in_some_weathers_and_absent_in_others(fault: str) -> None:
    present = sum(bool(getattr(profile, fault)) for profile in DRAWN)
    assert 0.2 < present / len(DRAWN) < 0.8


def test_shares_are_shares_and_rates_are_not_negative() -> None:
    for profile in DRAWN:
        for fault in FAULTS:
            value = getattr(profile, fault)
            assert value >= 0
            if not fault.endswith(("_s", "_per_h")):
                assert value <= 1
        assert profile.stale_s <= STALE_AT_MOST_S


def test_some_weathers_are_quiet_and_some_are_full() -> None:
    faults = [sum(bool(getattr(profile, fault)) for fault in FAULTS) for profile in DRAWN]
    assert min(faults) <= len(FAULTS) * 0.1
    assert max(faults) >= len(FAULTS) * 0.9


def test_every_kind_of_chaos_has_its_rate() -> None:
    rates = {fault.removesuffix("_per_h") for fault in FAULTS if fault.endswith("_per_h")}
    assert set(KINDS) == rates


def test_under_a_clear_sky_nothing_happens() -> None:
    profile = FaultProfile(crash=1.0, refused=1.0, slow=1.0, down={"store"})
    rng = random.Random(1)
    assert profile.happens("refused", "store", rng)
    assert profile.counts["refused"] == 1
    profile.calm()
    assert not any(profile.happens(what, "store", rng) for what in ("crash", "refused", "answer_lost"))
    assert profile.delay_s("emr", rng) < 0.1
    assert profile.counts["refused"] == 1


def test_happens_is_as_often_as_it_says() -> None:
    profile, rng = FaultProfile(stale=0.25), random.Random(1)
    seen = sum(profile.happens("stale", "emr", rng) for _ in range(4000))
    assert 900 < seen < 1100
    assert profile.counts["stale"] == seen


def test_an_outage_refuses_at_its_port_only() -> None:
    profile, rng = FaultProfile(down={"records"}), random.Random(1)
    assert profile.happens("refused", "records", rng)
    assert not profile.happens("refused", "store", rng)


@pytest.mark.parametrize("fault", ["crash", "agent_killed_per_h", "outage_per_h", "api_refused", "refused"])
def test_what_may_silence_every_agent(fault: str) -> None:
    assert FaultProfile(**{fault: 0.1}).may_silence
    assert not FaultProfile(stale=0.5, throttled=0.5, cluster_lost_per_h=9).may_silence


def test_a_weather_tells_of_its_faults() -> None:
    assert FaultProfile().told() == "no faults"
    assert FaultProfile(stale=0.5, buckets=True).told() == "stale=0.5 buckets=1"


def test_one_seed_is_one_scenario() -> None:
    assert draw_scenario(4, workloads=50) == draw_scenario(4, workloads=50)
    scenario = draw_scenario(4, workloads=50)
    assert len(scenario.tasks) == len({task.key for task in scenario.tasks}) == 50
    assert scenario.cap == scenario.settings.cluster_pools[0].max_clusters
