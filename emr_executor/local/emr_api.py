"""EMR's wire protocol, JSON 1.1, in front of the model: reads, checks against botocore's model, answers.

``X-Amz-Target: ElasticMapReduce.<Operation>``, timestamps as epoch numbers, errors as ``{"__type",
"message"}`` with status 400. An operation that is not implemented is a 400 too: botocore would repeat a 500
four times.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Protocol

from botocore.loaders import Loader
from botocore.model import ServiceModel, Shape
from botocore.validate import ParamValidator
from werkzeug.wrappers import Response

from emr_executor.local.faults import CallFate
from emr_executor.local.requests import EmrApiError

TARGET_PREFIX = "ElasticMapReduce."
CONTENT_TYPE = "application/x-amz-json-1.1"


class EmrCalls(Protocol):
    """What the protocol needs of the engine."""

    def fate_of(self, operation: str) -> CallFate:
        """What the faults that are set do to a call made now."""
        ...

    def call(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        """One API call. Raises EmrApiError."""
        ...


class ConnectionCut(ConnectionError):
    """The answer is not to be sent: the connection is to be closed without a word."""


class EmrApi:
    """Answers EMR's requests. ``sleep`` makes calls slow when the faults say so."""

    def __init__(self, calls: EmrCalls, *, sleep: Callable[[float], None]) -> None:
        self._calls = calls
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
        fate = self._calls.fate_of(operation)
        if fate.delay_s > 0:
            self._sleep(fate.delay_s)
        if fate.throttled:
            raise EmrApiError("ThrottlingException", "Rate exceeded")
        if fate.error is not None:
            code, message, status = fate.error
            raise EmrApiError(code, message, status=status)
        if fate.dropped == "before":
            raise ConnectionCut
        answer = self._calls.call(operation, read_request(operation, body))
        if fate.dropped == "after":
            raise ConnectionCut
        return answer


@cache
def emr_model() -> ServiceModel:
    """EMR as botocore models it."""
    return ServiceModel(Loader().load_service_model("emr", "service-2"), "emr")


def read_request(operation: str, body: bytes) -> dict[str, Any]:
    """The request, checked for types, required members, lengths and enums. Raises EmrApiError."""
    try:
        request = json.loads(body or b"{}")
    except ValueError:
        raise EmrApiError("SerializationException", "The request body is not JSON.") from None
    if not isinstance(request, dict):
        raise EmrApiError("SerializationException", "The request body is not a JSON object.")
    shape = emr_model().operation_model(operation).input_shape
    if shape is None:
        return {}
    report = ParamValidator().validate(request, shape)
    if report.has_errors():
        problems = report.generate_report()
        raise EmrApiError("ValidationException", f"1 validation error detected: {problems}")
    if wrong := list(_wrong_enums(request, shape, "")):
        count = "1 validation error" if len(wrong) == 1 else f"{len(wrong)} validation errors"
        raise EmrApiError("ValidationException", f"{count} detected: {'; '.join(wrong)}")
    return request


def _wrong_enums(value: Any, shape: Shape, at: str) -> Iterator[str]:
    """Texts like AWS's for strings outside of their enum; ``at`` is a path such as ``steps.1.member``."""
    if shape.type_name == "structure":
        for name, member in shape.members.items():
            if value.get(name) is not None:
                yield from _wrong_enums(value[name], member, f"{at}.{name[0].lower()}{name[1:]}".lstrip("."))
    elif shape.type_name == "list":
        for index, item in enumerate(value, start=1):
            yield from _wrong_enums(item, shape.member, f"{at}.{index}.member")
    elif shape.type_name == "map":
        for key, item in value.items():
            yield from _wrong_enums(item, shape.value, f"{at}.{key}")
    elif shape.type_name == "string" and shape.enum and value not in shape.enum:
        yield (
            f"Value '{value}' at '{at}' failed to satisfy constraint: "
            f"Member must satisfy enum value set: [{', '.join(shape.enum)}]"
        )


def _json(members: dict[str, Any], status: int) -> Response:
    return Response(json.dumps(members), status=status, content_type=CONTENT_TYPE)
