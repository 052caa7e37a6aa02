"""Transactions side by side, one statement at a time, in every order of turns.

Each transaction runs in a thread and a session of its own, through the store's real ``transact``, and stops
before every statement that it sends and before its COMMIT or ROLLBACK. Whose turn is next is somebody's
choice; ``every_order`` makes all of them, one run each. A session that waits for a lock of another has no
turn until it gets it: PostgreSQL itself says who waits for whom, so nothing here waits for time to pass.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from sqlalchemy import Connection, Engine

from emr_executor.errors import StaleWriter, StoreBusy
from emr_executor.store.runner import transact

Work = Callable[[Connection], Any]
Choose = Callable[[tuple[int, ...]], int]
RowKey = tuple[str, str]
"""Table and primary key of a row."""
State = dict[str, list[dict[str, Any]]]
"""All tables with their rows in a fixed order; lines of the story without their numbers."""

_LOOK_AGAIN_S = 0.002
_STUCK_S = 30.0
_ENDS = ("COMMIT", "ROLLBACK")


@dataclass(frozen=True, slots=True)
class Refused:
    """What a transaction answers that ended with an error of the store."""

    error: str
    why: str = field(compare=False)


BUSY = Refused("StoreBusy", "")


@dataclass(frozen=True, slots=True)
class Transaction:
    """A piece of work on the store, in one transaction."""

    work: Work
    read_only: bool = False

    def on(self, engine: Engine) -> Any:
        """Run it; what it returned, or how the store refused it."""
        try:
            return transact(engine, self.work, read_only=self.read_only)
        except (StaleWriter, StoreBusy) as e:
            return Refused(type(e).__name__, str(e))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one run ended. ``ended``: the sessions in the order of their ends; ``turns``: who sent what."""

    answers: tuple[Any, ...]
    state: State
    ended: tuple[int, ...] = ()
    turns: tuple[tuple[int, str], ...] = ()

    def is_like(self, other: Outcome) -> bool:
        """Same answers, same state."""
        return self.answers == other.answers and self.state == other.state

    def told(self) -> str:
        """The run for people."""
        answers = (f"  {'ABC'[who]} -> {answer!r}" for who, answer in enumerate(self.answers))
        return "\n".join([told(self.turns), *answers])


def told(turns: Sequence[tuple[int, str]]) -> str:
    """Who sent what, for people."""
    return "\n".join(f"  {'ABC'[who]}: {' '.join(what.split())[:150]}" for who, what in turns)


class Database(Protocol):
    """What the runs need of a database, beside the sessions under test."""

    plain: Engine
    """For transactions that run alone; one that has to wait for a lock is refused as BUSY."""

    def engine(self, stop: Callable[[str], None]) -> Engine:
        """An engine for one session that calls ``stop`` before each statement and before each end."""
        ...

    def keep(self, fill: Work) -> None:
        """Empty all tables, fill them, and remember this for ``restore``."""
        ...

    def restore(self) -> None:
        """All tables as they were kept."""
        ...

    def state(self) -> State:
        """All tables as they are."""
        ...

    def waits(self, sessions: Collection[int]) -> dict[int, set[int]]:
        """For whose locks each of the sessions waits, by their pids."""
        ...

    def lock(self, rows: Collection[RowKey]) -> int:
        """Lock rows from a session that stands still until ``unlock``; its pid."""
        ...

    def unlock(self) -> None:
        """Let go of these rows."""
        ...


class Session:
    """One connection in a thread of its own that runs transactions, stopping before all that they send.

    at: what it is about to send; None while it is under way and when it has nothing to do
    pid: its process on PostgreSQL
    """

    def __init__(self, database: Database, arrivals: SimpleQueue[tuple[Session, str | None]]) -> None:
        self._arrivals = arrivals
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._turns: SimpleQueue[None] = SimpleQueue()
        self._stepping = False
        self._engine = database.engine(self._stop)
        self.at: str | None = None
        self.answer: Any = None
        self.pid = id(self)
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()
        self._jobs.put(self._connect)
        arrivals.get(timeout=_STUCK_S)

    def start(self, transaction: Transaction) -> None:
        """Begin a transaction; it arrives at its first stop."""

        def job() -> None:
            try:
                self.answer = transaction.on(self._engine)
            except BaseException as e:  # noqa: BLE001 - shown by whoever compares answers
                self.answer = e

        self._turns, self._stepping = SimpleQueue(), True
        self._jobs.put(job)

    def go(self) -> None:
        """On to the next stop, or to the end."""
        self.at = None
        self._turns.put(None)

    def let_go(self) -> None:
        """On to the end without stopping."""
        self._stepping = False
        self._turns.put(None)

    def close(self) -> None:
        """End the thread."""
        self._jobs.put(None)
        self._thread.join(_STUCK_S)
        self._engine.dispose()

    def _connect(self) -> None:
        def who(conn: Connection) -> None:
            if conn.dialect.name == "postgresql":
                self.pid = conn.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()

        transact(self._engine, who)

    def _loop(self) -> None:
        while job := self._jobs.get():
            job()
            self._stepping = False
            self._arrivals.put((self, None))

    def _stop(self, before: str) -> None:
        if self._stepping:
            self._arrivals.put((self, before))
            self._turns.get()


class Stuck(AssertionError):
    """Sessions that neither arrive nor wait for one that stands still."""


class Deadlock(AssertionError):
    """Sessions that wait for each other: PostgreSQL would end one of them."""


class Interleaver:
    """Runs transactions side by side on one database, as chosen turn by turn."""

    def __init__(self, database: Database, sessions: int = 3) -> None:
        self.database = database
        self.leaves_deadlocks = False
        """Leave it to the database to end sessions that wait for each other, where one wants to see that."""
        self._arrivals: SimpleQueue[tuple[Session, str | None]] = SimpleQueue()
        self._all = [Session(database, self._arrivals) for _ in range(sessions)]
        self._sessions: list[Session] = []
        self._running: set[Session] = set()
        self._still: set[int] = set()

    def run(self, transactions: Sequence[Transaction], choose: Choose) -> Outcome:
        """One run from the kept state. ``choose`` names one of the sessions that have a turn."""
        turns: list[tuple[int, str]] = []
        ended: list[int] = []
        with self._started(transactions):
            try:
                while len(ended) < len(transactions):
                    who = choose(tuple(i for i, s in enumerate(self._sessions) if s.at is not None))
                    turns.append((who, self._sessions[who].at or ""))
                    self._step(who)
                    over = [
                        i for i, s in enumerate(self._sessions) if s.at is None and s not in self._running
                    ]
                    ended.extend(i for i in over if i not in ended)
            except AssertionError as e:
                e.add_note(told(turns))
                raise
            answers = tuple(session.answer for session in self._sessions)
        state = self.database.state()
        return _without_random(Outcome(answers=answers, state=state, ended=tuple(ended), turns=tuple(turns)))

    def one_by_one(
        self,
        transactions: Sequence[Transaction],
        order: Sequence[int],
        locked: Mapping[int, Collection[RowKey]] | None = None,
    ) -> Outcome:
        """The outcome of some of the transactions one after another; those left out answer None.

        locked: rows that somebody else has while a transaction runs
        """
        self.database.restore()
        answers: list[Any] = [None] * len(transactions)
        for who in order:
            self.database.lock((locked or {}).get(who, ()))
            try:
                answers[who] = transactions[who].on(self.database.plain)
            finally:
                self.database.unlock()
        return _without_random(
            Outcome(answers=tuple(answers), state=self.database.state(), ended=tuple(order))
        )

    @contextmanager
    def as_far_as_it_can(self, transaction: Transaction, locked: Collection[RowKey] = ()) -> Iterator[bool]:
        """Meanwhile a transaction stands before its end, or waits for a row of ``locked``: whether it waits.

        locked: rows that somebody else has meanwhile
        """
        with self._started([transaction], locked):
            while self._sessions[0].at not in {None, *_ENDS}:
                self._step(0)
            yield self._sessions[0] in self._running

    def close(self) -> None:
        """End all sessions."""
        for session in self._all:
            session.close()

    @contextmanager
    def _started(
        self, transactions: Sequence[Transaction], locked: Collection[RowKey] = ()
    ) -> Iterator[None]:
        self.database.restore()
        self._sessions, self._still = self._all[: len(transactions)], {self.database.lock(locked)}
        for session, transaction in zip(self._sessions, transactions, strict=True):
            session.start(transaction)
            self._running.add(session)
        try:
            self._settle()
            yield
        finally:
            self.database.unlock()
            self._abandon()

    def _step(self, who: int) -> None:
        session = self._sessions[who]
        ends = session.at in _ENDS
        session.go()
        self._running.add(session)
        self._settle(only=None if ends else session)

    def _settle(self, only: Session | None = None) -> None:
        """Wait until all running sessions stop, end or wait for a lock of one that stands still.

        only: the one session that can have moved, since nobody let go of a lock
        """
        deadline = time.monotonic() + _STUCK_S
        while self._running and (only is None or only in self._running):
            try:
                session, at = self._arrivals.get(timeout=_LOOK_AGAIN_S)
            except Empty:
                if self._all_wait():
                    return
                if time.monotonic() > deadline:
                    raise Stuck(f"these neither move nor wait: {[s.at for s in self._sessions]}") from None
            else:
                session.at = at
                self._running.discard(session)

    def _all_wait(self) -> bool:
        """Whether all running sessions wait for one that stands still, at once or through others."""
        waits = self.database.waits({session.pid for session in self._running})
        standing = self._still | {session.pid for session in self._sessions if session.at is not None}
        while more := {pid for pid, others in waits.items() if others & standing} - standing:
            standing |= more
        circle = waits.keys() - standing
        if circle and not self.leaves_deadlocks and all(waits[pid] & circle for pid in circle):
            raise Deadlock("sessions wait for each other")
        return not circle

    def _abandon(self) -> None:
        """End what a failed run left behind; nothing after a whole one."""
        unfinished = {s for s in self._sessions if s in self._running or s.at is not None}
        for session in unfinished:
            session.let_go()
        while unfinished:
            session, at = self._arrivals.get(timeout=_STUCK_S)
            if at is None:
                unfinished.discard(session)
                session.at = None
        self._running.clear()


def every_order(run: Callable[[Choose], Outcome]) -> Iterator[Outcome]:
    """One run for each order of turns."""
    prefix: list[int] = []
    while True:
        taken: list[tuple[int, tuple[int, ...]]] = []
        yield run(_following(prefix, taken))
        while taken:
            pick, ready = taken.pop()
            later = [other for other in ready if other > pick]
            if later:
                prefix = [*(earlier for earlier, _ in taken), later[0]]
                break
        else:
            return


def _following(prefix: Sequence[int], taken: list[tuple[int, tuple[int, ...]]]) -> Choose:
    def choose(ready: tuple[int, ...]) -> int:
        pick = prefix[len(taken)] if len(taken) < len(prefix) else ready[0]
        assert pick in ready, f"the same turns led elsewhere: {pick} has none of {ready}"
        taken.append((pick, ready))
        return pick

    return choose


def _without_random(outcome: Outcome) -> Outcome:
    """The outcome with the one random value that the store makes itself replaced."""
    rows = outcome.state["emr_deployment"]
    made = {row["deployment_id"] for row in rows}
    answers = tuple("the deployment" if isinstance(a, str) and a in made else a for a in outcome.answers)
    state = outcome.state | {"emr_deployment": [{"id": row["id"]} for row in rows]}
    return Outcome(answers=answers, state=state, ended=outcome.ended, turns=outcome.turns)
