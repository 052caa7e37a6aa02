"""Weathers: drawn from a seed, most kinds of fault absent in most of them, and all of them end."""

from __future__ import annotations

import random
from dataclasses import fields

import pytest

from tests.simulator.fault_profile import FaultProfile, draw

DRAWN = [draw(random.Random(seed)) for seed in range(300)]
_STATE = {"down", "is_calm", "counts"}
FAULTS = [one.name for one in fields(FaultProfile) if one.name not in _STATE]


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_in_some_weathers_and_absent_in_others(fault: str) -> None:
    present = sum(bool(getattr(profile, fault)) for profile in DRAWN)
    assert 0.2 < present / len(DRAWN) < 0.8


def test_under_a_clear_sky_nothing_happens() -> None:
    profile = FaultProfile(crash=1.0, refused=1.0, slow=1.0, down={"store"})
    rng = random.Random(1)
    assert profile.happens("refused", "store", rng)
    assert profile.counts["refused"] == 1
    profile.calm()
    assert not any(profile.happens(what, "store", rng) for what in ("crash", "refused", "answer_lost"))
    assert profile.delay_s("emr", rng) < 0.1
    assert profile.counts["refused"] == 1


@pytest.mark.parametrize("fault", ["crash", "agent_killed_per_h", "outage_per_h", "api_refused", "refused"])
def test_what_may_silence_every_agent(fault: str) -> None:
    assert FaultProfile(**{fault: 0.1}).may_silence
    assert not FaultProfile(stale=0.5, throttled=0.5, cluster_lost_per_h=9).may_silence
