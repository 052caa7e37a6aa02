"""What AWS answers, in our words: API dicts to core values, botocore's errors to ours. Pure.

How an error is judged (the error's class is the caller's next move, see ``errors``):

- a request that was never sent (no connection, no credentials, refused as unsigned) had no effect;
- RunJobFlow and AddJobFlowSteps have no idempotency token. Where they may have been carried out (connection
  lost, 5xx, an answer that cannot be read, and also *throttled*: a throttled RunJobFlow was seen to have
  launched, aws-sdk-ruby issue 825) the outcome is unknown;
- AccessDenied on RunJobFlow is LaunchRefused, since it may come from the template (iam:PassRole);
  anywhere else it is CredentialsMissing and names the permission: it heals when somebody grants it;
- a validation error of AddJobFlowSteps is about the cluster (over, 256 active steps, in no state for steps)
  where its words say so, else about the steps: StepsRefused;
- EMR's messages are matched in few, loose words: AWS reserves the right to change them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from botocore import exceptions as boto

from emr_executor.core.model import ClusterId, ObservedCluster, ObservedStep, StepId
from emr_executor.core.states import ClusterState, StepState
from emr_executor.errors import (
    AwsUnavailable,
    ClusterGone,
    CredentialsMissing,
    EmrExecutorError,
    LaunchRefused,
    OutcomeUnknown,
    StepLimitReached,
    StepsRefused,
    Throttled,
    ThrottledUnknown,
    TryElsewhere,
)

UNREPEATABLE = frozenset({"RunJobFlow", "AddJobFlowSteps"})
"""Operations with an effect and without a client token (botocore emr 2009-03-31)."""


def _codes(text: str) -> frozenset[str]:
    return frozenset(text.split())


THROTTLED_CODES = _codes("""
    BandwidthLimitExceeded PriorRequestNotComplete ProvisionedThroughputExceededException
    RequestLimitExceeded RequestThrottled RequestThrottledException SlowDown ThrottledException Throttling
    ThrottlingException TooManyRequestsException
""")
CREDENTIAL_CODES = _codes("""
    AuthFailure ExpiredToken ExpiredTokenException IncompleteSignature InvalidAccessKeyId
    InvalidClientTokenId InvalidSignatureException InvalidToken MissingAuthenticationToken
    MissingAuthenticationTokenException RequestExpired RequestTimeTooSkewed SignatureDoesNotMatch
    TokenRefreshRequired UnrecognizedClientException
""")
INVALID_CODES = _codes("""
    InvalidParameterException InvalidRequestException SerializationException ValidationError
    ValidationException
""")
DENIED_CODES = _codes("AccessDenied AccessDeniedException UnauthorizedOperation")
NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.SSOError,
    boto.ProfileNotFound,
)
NEVER_SENT = (
    boto.EndpointConnectionError,
    boto.ConnectTimeoutError,
    boto.ProxyConnectionError,
    boto.SSLError,
)

_CLUSTER_GONE = re.compile(
    r"shutting down|terminated, or finished|cluster id .* is not valid|job ?flow .*(does not exist|not valid)"
    r"|NoSuchCluster",
    re.IGNORECASE | re.DOTALL,
)
_STEP_LIMIT = re.compile(r"maximum number of active steps", re.IGNORECASE)
_NO_STATE_FOR_STEPS = re.compile(r"\bnot in an? \w+ state\b", re.IGNORECASE)
_PROTECTED = re.compile(r"termination.?protected", re.IGNORECASE)

_SERVER_FAULT = 500
_State = TypeVar("_State", StepState, ClusterState)


def error_of(
    fault: BaseException, operation: str, *, service: str = "elasticmapreduce", cluster_id: str | None = None
) -> EmrExecutorError:
    """Our error for what an aiobotocore call raised, to be raised ``from`` it."""
    if isinstance(fault, EmrExecutorError):
        return fault
    if isinstance(fault, boto.ClientError):
        return _answered_error(fault, operation, service, cluster_id)
    return _unanswered_error(fault, operation)


def code_of(fault: BaseException) -> str:
    """The code of an error that AWS answered with; empty for any other."""
    return str(_error(fault).get("Code") or "Unknown") if isinstance(fault, boto.ClientError) else ""


def is_refused_credential(fault: BaseException) -> bool:
    """Whether other credentials might have been accepted."""
    return isinstance(fault, NO_CREDENTIALS) or code_of(fault) in CREDENTIAL_CODES


def _unanswered_error(fault: BaseException, operation: str) -> EmrExecutorError:
    said = f"{operation}: {str(fault) or 'no answer came in time'}"
    if isinstance(fault, NO_CREDENTIALS):
        return CredentialsMissing(
            f"{said}. Give the agent AWS credentials (environment, profile, role or"
            " [emr_executor] aws_conn_id); it goes on by itself when they are there"
        )
    if isinstance(fault, boto.ParamValidationError) and operation == "RunJobFlow":
        return LaunchRefused(f"the cluster template is no RunJobFlow request: {fault}")
    if isinstance(fault, boto.ParamValidationError) and operation == "AddJobFlowSteps":
        return StepsRefused(str(fault))
    never_sent = isinstance(fault, (*NEVER_SENT, boto.ParamValidationError))
    if operation in UNREPEATABLE and not never_sent:
        return OutcomeUnknown(f"{said}: whether it was done is not known")
    return AwsUnavailable(said)


def _answered_error(
    fault: boto.ClientError, operation: str, service: str, cluster_id: str | None
) -> EmrExecutorError:
    code, status = code_of(fault), _status(fault)
    said = f"{operation}: {code}: {_message(fault)}"
    unrepeatable = operation in UNREPEATABLE
    if code in THROTTLED_CODES:
        return ThrottledUnknown(said) if unrepeatable else Throttled(said)
    if code in CREDENTIAL_CODES:
        return CredentialsMissing(f"{said}. Renew the agent's AWS credentials; it goes on by itself")
    if code in DENIED_CODES:
        return _denied(said, operation, service)
    if status >= _SERVER_FAULT or code.startswith(("Internal", "ServiceUnavailable")):
        return OutcomeUnknown(said) if unrepeatable else AwsUnavailable(said)
    return _refused(fault, said, operation, cluster_id)


def _refused(fault: boto.ClientError, said: str, operation: str, cluster_id: str | None) -> EmrExecutorError:
    """A 4xx answer that is about what was asked for."""
    message = _message(fault)
    if operation == "RunJobFlow":
        return LaunchRefused(f"EMR refused the cluster template: {code_of(fault)}: {message}")
    if operation == "TerminateJobFlows" and _PROTECTED.search(message):
        how = "aws emr modify-cluster-attributes --no-termination-protected"
        return AwsUnavailable(f"{said}. Switch the protection off: {how}")
    if cluster_id is not None and _STEP_LIMIT.search(message):
        return StepLimitReached(said, cluster_id=cluster_id)
    if cluster_id is not None and _CLUSTER_GONE.search(f"{message} {_inner_code(fault)}"):
        return ClusterGone(said, cluster_id=cluster_id)
    if cluster_id is not None and operation == "AddJobFlowSteps":
        if code_of(fault) not in INVALID_CODES or _NO_STATE_FOR_STEPS.search(message):
            return TryElsewhere(said, cluster_id=cluster_id)
        return StepsRefused(f"{code_of(fault)}: {message}")
    if operation == "ListSteps" and code_of(fault) in INVALID_CODES:
        return StepsRefused(said)
    advice = ". Create it, or correct [emr_executor] staging_uri" if code_of(fault) == "NoSuchBucket" else ""
    return AwsUnavailable(said + advice)


def _denied(said: str, operation: str, service: str) -> EmrExecutorError:
    permission = f"{service}:{operation}"
    if operation == "RunJobFlow":
        return LaunchRefused(
            f"{said}. The agent's AWS identity needs {permission},"
            " and iam:PassRole for the roles of the template"
        )
    return CredentialsMissing(f"{said}. Grant {permission} to the agent's AWS identity")


def _error(fault: boto.ClientError) -> Mapping[str, Any]:
    found = fault.response.get("Error") if isinstance(fault.response, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _inner_code(fault: boto.ClientError) -> str:
    # InvalidRequestException carries a second, finer code of its own (botocore emr, ErrorCode).
    return str(fault.response.get("ErrorCode") or "") if isinstance(fault.response, Mapping) else ""


def _message(fault: boto.ClientError) -> str:
    return str(_error(fault).get("Message") or fault.response.get("Message") or "no message")


def _status(fault: boto.ClientError) -> int:
    status = (fault.response.get("ResponseMetadata") or {}).get("HTTPStatusCode")
    return status if isinstance(status, int) else 0


# ---- answers -----------------------------------------------------------------------------------


class BadAnswer(Exception):
    """An answer without what EMR's model promises. Everything below may raise it."""


def step_of(summary: Any) -> ObservedStep:
    """A StepSummary or Step."""
    status = _mapping(_mapping(summary).get("Status"))
    failure = _mapping(status.get("FailureDetails"))
    reason = _mapping(status.get("StateChangeReason"))
    timeline = _mapping(status.get("Timeline"))
    return ObservedStep(
        step_id=StepId(text_of(summary, "Id")),
        name=str(summary.get("Name") or ""),
        state=_state(StepState, status),
        failure=str(failure.get("Message") or failure.get("Reason") or reason.get("Message") or ""),
        created_at=_time(timeline.get("CreationDateTime")),
        started_at=_time(timeline.get("StartDateTime")),
        ended_at=_time(timeline.get("EndDateTime")),
    )


def cluster_of(summary: Any) -> ObservedCluster:
    """A ClusterSummary or Cluster."""
    status = _mapping(_mapping(summary).get("Status"))
    reason = _mapping(status.get("StateChangeReason"))
    timeline = _mapping(status.get("Timeline"))
    return ObservedCluster(
        cluster_id=ClusterId(text_of(summary, "Id")),
        name=str(summary.get("Name") or ""),
        state=_state(ClusterState, status),
        reason_code=reason.get("Code") or None,
        reason=_cluster_reason(status, reason),
        created_at=_time(timeline.get("CreationDateTime")),
        ready_at=_time(timeline.get("ReadyDateTime")),
        ended_at=_time(timeline.get("EndDateTime")),
    )


def _cluster_reason(status: Mapping[str, Any], reason: Mapping[str, Any]) -> str | None:
    details = status.get("ErrorDetails") or []
    first = _mapping(details[0]) if isinstance(details, list) and details else {}
    words = [str(reason.get("Message") or first.get("ErrorMessage") or "")]
    if first.get("ErrorCode"):
        words.append(f"({first['ErrorCode']})")
    return " ".join(word for word in words if word) or None


def unknown_states(kind: type[StepState | ClusterState], summaries: Iterable[Any]) -> frozenset[str]:
    """The states of steps or clusters that this release has no word for."""
    words = {text_of(_mapping(_mapping(summary).get("Status")), "State") for summary in summaries}
    return frozenset(words.difference(kind))


def field_of(answer: Any, name: str) -> Any:
    """A member that the operation always answers with."""
    value = _mapping(answer).get(name)
    if value is None:
        raise BadAnswer(f"the answer has no {name}")
    return value


def list_of(answer: Any, name: str) -> list[Any]:
    """A list that the operation always answers with."""
    value = field_of(answer, name)
    if not isinstance(value, list):
        raise BadAnswer(f"{name} of the answer is no list")
    return value


def text_of(answer: Any, name: str) -> str:
    """A text that the operation always answers with."""
    value = field_of(answer, name)
    if not isinstance(value, str) or not value:
        raise BadAnswer(f"the answer has no {name}")
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise BadAnswer(f"expected an object, found {type(value).__name__}")
    return value


def _state(kind: type[_State], status: Mapping[str, Any]) -> _State | None:
    word = text_of(status, "State")
    return kind(word) if word in set(kind) else None


def _time(value: Any) -> datetime | None:
    return value.astimezone(UTC) if isinstance(value, datetime) else None
