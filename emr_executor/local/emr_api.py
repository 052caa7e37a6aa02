"""EMR's wire protocol, JSON 1.1, in front of the model: reads, checks against botocore's model, answers.

``X-Amz-Target: ElasticMapReduce.<Operation>``, timestamps as epoch numbers, errors as ``{"__type",
"message"}`` with status 400. An operation that is not implemented is a 400 too: botocore would repeat a 500
four times.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from werkzeug.wrappers import Response

from emr_executor.emr_request import emr_model, model_problems
from emr_executor.local.engine import Engine
from emr_executor.local.http import ConnectionCut
from emr_executor.local.requests import EmrApiError

TARGET_PREFIX = "ElasticMapReduce."
CONTENT_TYPE = "application/x-amz-json-1.1"
PROBLEMS_TOLD = 20
_SURROGATE = re.compile("[\ud800-\udfff]")


class EmrApi:
    """Answers EMR's requests. ``sleep`` makes calls slow when the faults say so."""

    def __init__(self, engine: Engine, *, sleep: Callable[[float], None]) -> None:
        self._engine = engine
        self._sleep = sleep

    def handle(self, target: str, body: bytes) -> Response:
        """The answer to one request that is signed well. Raises ConnectionCut."""
        try:
            return _json(self._answer(target, body), 200)
        except EmrApiError as error:
            members = {"__type": error.code, "Message": error.message, "message": error.message}
            if error.error_code is not None:
                members["ErrorCode"] = error.error_code
            return _json(members, error.status)

    def _answer(self, target: str, body: bytes) -> dict[str, Any]:
        operation = target.removeprefix(TARGET_PREFIX)
        if not target.startswith(TARGET_PREFIX) or operation not in emr_model().operation_names:
            raise EmrApiError("UnknownOperationException", f"X-Amz-Target {target!r} is no operation of EMR.")
        fate = self._engine.fate_of(operation)
        if fate.delay_s > 0:
            self._sleep(fate.delay_s)
        if fate.throttled:
            raise EmrApiError("ThrottlingException", "Rate exceeded")
        if fate.error is not None:
            code, message, status = fate.error
            raise EmrApiError(code, message, status=status)
        if fate.dropped == "before":
            raise ConnectionCut
        answer = self._engine.call(operation, read_request(operation, body))
        if fate.dropped == "after":
            raise ConnectionCut
        return answer


def read_request(operation: str, body: bytes) -> dict[str, Any]:
    """The request, checked against the model. Raises EmrApiError."""
    try:
        request = json.loads(body or b"{}", parse_constant=_no_constant)
        wrong = model_problems(operation, request)
    except (ValueError, RecursionError):
        raise EmrApiError("SerializationException", "The request body is not JSON.") from None
    if not isinstance(request, dict):
        raise EmrApiError("SerializationException", "The request body is not a JSON object.")
    if wrong:
        count = "1 validation error" if len(wrong) == 1 else f"{len(wrong)} validation errors"
        told = "; ".join(problem.api for problem in wrong[:PROBLEMS_TOLD])
        raise EmrApiError("ValidationException", f"{count} detected: {told}")
    if any("\0" in text or _SURROGATE.search(text) for text in _texts(request)):
        raise EmrApiError(
            "SerializationException", "The request holds NUL or half of a surrogate pair: no argument can."
        )
    return request


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value if isinstance(value, list) else (*value, *value.values()):
            yield from _texts(inner)


def _json(members: dict[str, Any], status: int) -> Response:
    return Response(json.dumps(members), status=status, content_type=CONTENT_TYPE)
