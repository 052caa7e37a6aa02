"""The control API below ``/_emr_local/``: status, ledger and faults. POST bodies are JSON objects."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from werkzeug.wrappers import Response

from emr_executor.core.states import StepState
from emr_executor.local.engine import Engine
from emr_executor.local.faults import LaunchFailureKind
from emr_executor.local.requests import EmrApiError

DELAY_MAX_S = 3600
CONTROL_PREFIX = "/_emr_local/"

Body = Mapping[str, Any]


class ControlApi:
    """Answers control requests. Errors are ``{"error": text}`` with 400 or 404.

    set_away: makes EMR and S3 go away and come back; the control API stays
    """

    def __init__(self, engine: Engine, set_away: Callable[[bool], None] = lambda _is_away: None) -> None:
        self._engine = engine
        self._gets: dict[str, Callable[[Mapping[str, str]], Any]] = {
            "status": lambda _: engine.do(lambda model, now: model.status() | {"now": now}),
            "ledger": self._ledger,
        }
        self._posts: dict[str, Callable[[Body], Any]] = {
            "lose-cluster": self._lose_cluster,
            "lose-node": self._lose_node,
            "fail-launches": self._fail_launches,
            "hold-provisioning": lambda _: engine.do(lambda model, now: model.hold_provisioning(now)),
            "release-provisioning": lambda _: engine.do(lambda model, now: model.release_provisioning(now)),
            "finish-provisioning": self._finish_provisioning,
            "hang-termination": self._hang_termination,
            "release-termination": self._release_termination,
            "mark-busy": lambda body: engine.do(lambda model, now: model.mark_busy(body["cluster_id"], now)),
            "throttle": self._throttle,
            "use-buckets": self._use_buckets,
            "drop-response": self._drop_response,
            "fail-calls": self._fail_calls,
            "slow": self._slow,
            "go-away": lambda _: set_away(True),
            "come-back": lambda _: set_away(False),
            "clear-faults": lambda _: engine.do(lambda model, _now: model.faults.clear()),
        }

    def handle(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> Response:
        """The answer to one request that is signed well."""
        name = path.removeprefix(CONTROL_PREFIX)
        try:
            if method == "GET" and name in self._gets:
                return _json(self._gets[name](query), 200)
            if method == "POST" and name in self._posts:
                return _json({"result": self._posts[name](json.loads(body or b"{}"))}, 200)
        except EmrApiError as error:
            return _json({"error": error.message}, 400)
        except (LookupError, AttributeError, TypeError, ValueError, OverflowError, RecursionError) as error:
            return _json({"error": f"{name}: {type(error).__name__}: {error}"}, 400)
        known = ", ".join([*self._gets, *self._posts])
        return _json({"error": f"{method} {path} is not served; there are: {known}"}, 404)

    def _ledger(self, query: Mapping[str, str]) -> Any:
        after = int(query.get("after", "0"))
        return {
            "entries": self._engine.do(
                lambda model, _now: [entry.as_dict() for entry in model.ledger[after:]]
            )
        }

    def _lose_cluster(self, body: Body) -> None:
        reason, steps_after_s = body.get("reason"), body.get("steps_after_s")
        self._engine.do(
            lambda model, now: model.lose_cluster(
                body["cluster_id"],
                now,
                notice_after_s=float(body.get("notice_after_s", 0.0)),
                steps_after_s=None if steps_after_s is None else float(steps_after_s),
                steps_become=StepState(body.get("steps_become", StepState.CANCELLED)),
                reason=None if reason is None else (str(reason[0]), str(reason[1])),
            )
        )

    def _lose_node(self, body: Body) -> str | None:
        return self._engine.do(lambda model, now: model.lose_node(body["cluster_id"], now))

    def _fail_launches(self, body: Body) -> None:
        kind = LaunchFailureKind(body.get("kind", LaunchFailureKind.CAPACITY))
        self._engine.do(lambda model, _now: model.fail_launches(int(body.get("count", 1)), kind))

    def _finish_provisioning(self, body: Body) -> None:
        self._engine.do(lambda model, now: model.finish_provisioning(body["cluster_id"], now))

    def _hang_termination(self, body: Body) -> None:
        self._engine.do(lambda model, _now: model.hang_termination(body["cluster_id"]))

    def _release_termination(self, body: Body) -> None:
        self._engine.do(lambda model, now: model.release_termination(body["cluster_id"], now))

    def _throttle(self, body: Body) -> None:
        self._engine.do(
            lambda model, _now: model.faults.throttle_next(body["operation"], int(body.get("count", 1)))
        )

    def _use_buckets(self, body: Body) -> None:
        rows = body.get("buckets")
        buckets = (
            None if rows is None else {name: (float(row[0]), float(row[1])) for name, row in rows.items()}
        )
        self._engine.do(lambda model, now: model.faults.use_buckets(now, buckets))

    def _drop_response(self, body: Body) -> None:
        when = body.get("when", "after")
        if when not in ("before", "after"):
            raise ValueError(f"when is 'before' or 'after', not {when!r}")
        self._engine.do(
            lambda model, _now: model.faults.drop_next(
                body["operation"], int(body.get("count", 1)), when=when
            )
        )

    def _fail_calls(self, body: Body) -> None:
        self._engine.do(
            lambda model, _now: model.faults.fail_next(
                body["operation"],
                int(body.get("count", 1)),
                code=body["code"],
                message=body.get("message", ""),
                status=int(body.get("status", 400)),
            )
        )

    def _slow(self, body: Body) -> None:
        count = body.get("count")
        self._engine.do(
            lambda model, _now: model.faults.slow(
                body["operation"], _delay_s(body["delay_s"]), None if count is None else int(count)
            )
        )


def _delay_s(value: Any) -> float:
    if not 0 <= float(value) <= DELAY_MAX_S:
        raise ValueError(f"delay_s is a number from 0 to {DELAY_MAX_S}")
    return float(value)


def _json(members: Any, status: int) -> Response:
    return Response(json.dumps(members), status=status, content_type="application/json")
