"""Campaigns: resumed by seed, summed up, and told with the command that lives a broken world again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.simulator import campaign
from tests.simulator.__main__ import main
from tests.simulator.campaign import Result, run_campaign

SMALL = 3


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "done.jsonl"


def a_result(seed: int, tasks: int = SMALL, *promises: str) -> Result:
    return Result(
        seed=seed,
        tasks=tasks,
        workloads=10,
        counts={"airflow/queued": 10},
        virtual_s=100.0,
        cpu_s=2.0,
        violations=[{"promise": promise, "subject": "a task", "text": "a text"} for promise in promises],
    )


def run(seeds: range, memory: Path | None = None, tasks: int = SMALL) -> tuple[list[int], campaign.Total]:
    """The seeds that were really run, and the total."""
    ran: list[int] = []
    total = run_campaign(
        seeds, tasks, jobs=1, memory=memory, on_result=lambda result: ran.append(result.seed)
    )
    return ran, total


def remember(memory: Path, *results: Result) -> None:
    with memory.open("a") as file:
        file.writelines(json.dumps(asdict(result)) + "\n" for result in results)


def test_a_second_run_does_what_is_left(memory: Path) -> None:
    first, _ = run(range(2), memory)
    second, total = run(range(1, 4), memory)
    assert (first, second) == ([0, 1], [2, 3])
    assert total.seeds == 3, "those asked for, known or not"
    third, again = run(range(1, 4), memory)
    assert third == []
    assert again == total


def test_another_size_is_another_world(memory: Path) -> None:
    run(range(1), memory)
    assert run(range(1), memory, 4)[0] == [0]
    assert run(range(1), memory)[0] == []


def test_a_torn_last_line_is_run_again(memory: Path) -> None:
    run(range(2), memory)
    text = memory.read_text()
    memory.write_text(text[: len(text) - 40])
    ran, total = run(range(2), memory)
    assert (ran, total.seeds) == ([1], 2)
    assert run(range(2), memory)[0] == [], "and remembered this time"


def test_a_total_is_a_sum(memory: Path) -> None:
    remember(memory, a_result(0), a_result(1, SMALL, "cap_held", "cap_held", "never_lost"), a_result(2))
    ran, total = run(range(3), memory)
    assert ran == []
    assert (total.seeds, total.workloads, total.virtual_s, total.cpu_s) == (3, 30, 300.0, 6.0)
    assert total.counts == {"airflow/queued": 30}
    assert (total.broken, total.promises) == ([1], {"cap_held": 2, "never_lost": 1})


def test_several_processes_come_to_the_same_total(memory: Path) -> None:
    _, alone = run(range(3))
    shared = run_campaign(range(3), SMALL, jobs=2, memory=memory)
    assert (shared.seeds, shared.workloads, shared.counts) == (alone.seeds, alone.workloads, alone.counts)
    assert len(memory.read_text().splitlines()) == 3


def test_an_exception_in_a_world_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(seed: int, *, workloads: int) -> None:
        del seed, workloads
        raise ZeroDivisionError("of a world")

    monkeypatch.setattr(campaign, "run_seed", broken)
    _, total = run(range(1))
    assert (total.broken, total.promises) == ([0], {"no_bug": 1})


# -- the command -------------------------------------------------------------------------------------------


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that breaks no line."""
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.usefixtures("wide")
def test_worlds_without_a_finding_end_with_0(memory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--seeds", "0:2", "--workloads", "3", "--jobs", "1", "--resume", str(memory)]
    assert main(asked) == 0
    told = capsys.readouterr().out
    assert "3 tasks a world" in told
    assert "broken" not in told
    assert len(memory.read_text().splitlines()) == 2


@pytest.mark.usefixtures("wide")
def test_a_finding_ends_with_1_and_tells_how_to_replay_it(
    memory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remember(memory, a_result(0), a_result(1, SMALL, "cap_held"))
    asked = ["--seeds", "0:2", "--workloads", "3", "--jobs", "1"]
    assert main([*asked, "--resume", str(memory)]) == 1
    assert "broken: make simulate SEED=1 WORKLOADS=3" in capsys.readouterr().out


@pytest.mark.usefixtures("wide")
def test_a_finding_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(campaign, "run_one", lambda seed, tasks: a_result(seed, tasks, "never_lost"))
    assert main(["--seeds", "7", "--workloads", "3", "--jobs", "1"]) == 1
    told = capsys.readouterr().out
    assert "seed 7: never_lost: a task: a text" in told
    assert "replay: make simulate SEED=7 WORKLOADS=3" in told


@pytest.mark.usefixtures("wide")
def test_one_world_is_told_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "0", "--workloads", "3"]) == 0
    told = capsys.readouterr().out
    assert "seed 0, 3 tasks; faults: " in told
    assert "0 violations" in told


@pytest.mark.parametrize("asked", [[], ["--seeds", "x:y"], ["--seed", "1", "--seeds", "0:2"]])
def test_what_cannot_be_asked_ends_with_2(asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(asked)
    assert ended.value.code == 2
    assert "usage: " in capsys.readouterr().err
