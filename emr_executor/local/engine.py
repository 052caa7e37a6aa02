"""Drives the model of EMR with the real clock and real processes. One lock; every method returns quickly."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from emr_executor.local.behaviour import EmrModel
from emr_executor.local.effects import KillProcess, StartProcess
from emr_executor.local.faults import CallFate
from emr_executor.local.runner import StepRunner

_T = TypeVar("_T")


class Engine:
    """The model, a clock that never goes back, and a thread that wakes when the model's next timer is due."""

    def __init__(self, model: EmrModel, runner: StepRunner) -> None:
        self._model = model
        self._runner = runner
        self._changed = threading.Condition()
        self._epoch = time.time() - time.monotonic()
        self._closed = False
        self._thread = threading.Thread(target=self._tick, name="emr-local time", daemon=True)

    def start(self) -> None:
        """Let time pass."""
        self._thread.start()

    def close(self, *, timeout_s: float) -> bool:
        """End every cluster, wait for their processes to end, stop the clock. False when some did not."""
        now = self.now()
        with self._changed:
            self._model.release_provisioning(now)
            for cluster_id in self._model.open_cluster_ids:
                self._model.lose_cluster(cluster_id, now)
                self._model.release_termination(cluster_id, now)
            self._carry_out()
            done = self._changed.wait_for(lambda: self._model.live_processes == 0, timeout=timeout_s)
            self._closed = True
            self._changed.notify_all()
        return done

    def now(self) -> float:
        """Epoch seconds that never go back."""
        return self._epoch + time.monotonic()

    def fate_of(self, operation: str) -> CallFate:
        """What the faults that are set do to a call made now."""
        with self._changed:
            return self._model.faults.decide(operation, self.now())

    def call(self, operation: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """One API call. Raises EmrApiError."""
        return self.do(lambda model, now: model.call(operation, request, now))

    def do(self, act: Callable[[EmrModel, float], _T]) -> _T:
        """Act on the model under the lock, then carry its effects out."""
        with self._changed:
            try:
                return act(self._model, self.now())
            finally:
                self._carry_out()

    def process_ended(self, cluster_id: str, step_id: str, exit_code: int, failure: dict[str, str]) -> None:
        """What the runner reports."""
        self.do(lambda model, now: model.process_ended(cluster_id, step_id, exit_code, now, failure=failure))

    def _carry_out(self) -> None:
        for effect in self._model.take_effects():
            match effect:
                case StartProcess():
                    self._runner.start(effect)
                case KillProcess():
                    self._runner.kill(effect)
        self._changed.notify_all()

    def _tick(self) -> None:
        with self._changed:
            while not self._closed:
                due = self._model.next_due
                now = self.now()
                if due is not None and due <= now:
                    self._model.advance(now)
                    self._carry_out()
                    continue
                self._changed.wait(None if due is None else due - now)
