"""The control API below ``/_emr_local/``: status, ledger and faults. POST bodies are JSON objects."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from werkzeug.wrappers import Response

from emr_executor.core.states import StepState
from emr_executor.local.behaviour import EmrModel
from emr_executor.local.engine import Engine
from emr_executor.local.faults import LaunchFailureKind
from emr_executor.local.requests import EmrApiError

DELAY_MAX_S = 3600
CONTROL_PREFIX = "/_emr_local/"

Body = Mapping[str, Any]
Act = Callable[[EmrModel, float, Body], Any]
"""The model, the time, and the members of a POST's body or of a GET's query."""


class ControlApi:
    """Answers control requests. Errors are ``{"error": text}`` with 400 or 404.

    set_away: makes EMR and S3 go away and come back; the control API stays
    """

    def __init__(self, engine: Engine, set_away: Callable[[bool], None]) -> None:
        self._engine = engine
        self._posts: dict[str, Act] = _POSTS | {
            "go-away": lambda *_: set_away(True),
            "come-back": lambda *_: set_away(False),
        }

    def handle(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> Response:
        """The answer to one request that is signed well."""
        name = path.removeprefix(CONTROL_PREFIX)
        try:
            if method == "GET" and name in _GETS:
                return _json(self._do(_GETS[name], query), 200)
            if method == "POST" and name in self._posts:
                return _json({"result": self._do(self._posts[name], json.loads(body or b"{}"))}, 200)
        except EmrApiError as error:
            return _json({"error": error.message}, 400)
        except (LookupError, AttributeError, TypeError, ValueError, OverflowError, RecursionError) as error:
            return _json({"error": f"{name}: {type(error).__name__}: {error}"}, 400)
        known = ", ".join([*_GETS, *self._posts])
        return _json({"error": f"{method} {path} is not served; there are: {known}"}, 404)

    def _do(self, act: Act, members: Body) -> Any:
        return self._engine.do(lambda model, now: act(model, now, members))


def _lose_cluster(model: EmrModel, now: float, body: Body) -> None:
    reason, steps_after_s = body.get("reason"), body.get("steps_after_s")
    model.lose_cluster(
        body["cluster_id"],
        now,
        notice_after_s=float(body.get("notice_after_s", 0.0)),
        steps_after_s=None if steps_after_s is None else float(steps_after_s),
        steps_become=StepState(body.get("steps_become", StepState.CANCELLED)),
        reason=None if reason is None else (str(reason[0]), str(reason[1])),
    )


def _fail_launches(model: EmrModel, _now: float, body: Body) -> None:
    kind = LaunchFailureKind(body.get("kind", LaunchFailureKind.CAPACITY))
    model.fail_launches(_count(body), kind)


def _use_buckets(model: EmrModel, now: float, body: Body) -> None:
    rows = body.get("buckets")
    buckets = None if rows is None else {name: (float(row[0]), float(row[1])) for name, row in rows.items()}
    model.faults.use_buckets(now, buckets)


def _drop_response(model: EmrModel, _now: float, body: Body) -> None:
    when = body.get("when", "after")
    if when not in ("before", "after"):
        raise ValueError(f"when is 'before' or 'after', not {when!r}")
    model.faults.drop_next(body["operation"], _count(body), when=when)


def _fail_calls(model: EmrModel, _now: float, body: Body) -> None:
    code, message, status = body["code"], body.get("message", ""), int(body.get("status", 400))
    model.faults.fail_next(body["operation"], _count(body), code=code, message=message, status=status)


def _slow(model: EmrModel, _now: float, body: Body) -> None:
    delay_s, count = float(body["delay_s"]), body.get("count")
    if not 0 <= delay_s <= DELAY_MAX_S:
        raise ValueError(f"delay_s is a number from 0 to {DELAY_MAX_S}")
    model.faults.slow(body["operation"], delay_s, None if count is None else int(count))


def _count(body: Body) -> int:
    return int(body.get("count", 1))


_GETS: dict[str, Act] = {
    "status": lambda model, now, _: model.status() | {"now": now},
    "ledger": lambda model, _now, query: {
        "entries": [entry.as_dict() for entry in model.ledger[int(query.get("after", "0")) :]]
    },
}
_POSTS: dict[str, Act] = {
    "lose-cluster": _lose_cluster,
    "lose-node": lambda model, now, body: model.lose_node(body["cluster_id"], now),
    "fail-launches": _fail_launches,
    "hold-provisioning": lambda model, now, _: model.hold_provisioning(now),
    "release-provisioning": lambda model, now, _: model.release_provisioning(now),
    "finish-provisioning": lambda model, now, body: model.finish_provisioning(body["cluster_id"], now),
    "hang-termination": lambda model, _now, body: model.hang_termination(body["cluster_id"]),
    "release-termination": lambda model, now, body: model.release_termination(body["cluster_id"], now),
    "mark-busy": lambda model, now, body: model.mark_busy(body["cluster_id"], now),
    "throttle": lambda model, _now, body: model.faults.throttle_next(body["operation"], _count(body)),
    "use-buckets": _use_buckets,
    "drop-response": _drop_response,
    "fail-calls": _fail_calls,
    "slow": _slow,
    "clear-faults": lambda model, *_: model.faults.clear(),
}


def _json(members: Any, status: int) -> Response:
    return Response(json.dumps(members), status=status, content_type="application/json")
