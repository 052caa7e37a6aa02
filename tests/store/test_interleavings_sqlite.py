"""The same meetings on SQLite, where a transaction that would have to wait for another is refused.

With the store's own patience (30 s) taken away, the second writer is refused as StoreBusy at its first
statement, whatever the first one does, and has written nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import combinations_with_replacement
from pathlib import Path

import pytest

from emr_executor.store.scheduler_store import ask_cancel
from tests.store.interleaving import BUSY, Interleaver, every_order
from tests.store.interleaving_databases import Sqlite
from tests.store.interleaving_rules import Rules
from tests.store.interleaving_situations import SITUATIONS, Situation


@pytest.fixture(scope="module")
def interleaver(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interleaver]:
    path = tmp_path_factory.mktemp("interleaved") / "airflow.db"
    shutil.copy(sqlite_template, path)
    database = Sqlite(str(path))
    made = Interleaver(database, sessions=2)
    yield made
    made.close()
    database.close()


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.name)
def test_who_is_refused_has_written_nothing(interleaver: Interleaver, situation: Situation) -> None:
    interleaver.database.keep(situation.fill)
    refused = 0
    for pair in combinations_with_replacement(situation.operations, 2):
        if any(one.read_only for one in pair) and not any(one.of is ask_cancel for one in pair):
            # A reader holds nobody up, so it meets all others in too many orders: one will do.
            continue
        rules = Rules(interleaver, pair)
        transactions = [operation.by(side) for side, operation in enumerate(pair)]
        for run in every_order(lambda choose, both=transactions: interleaver.run(both, choose)):
            rules.check_refusing(run)
            refused += run.answers.count(BUSY)
    assert refused
