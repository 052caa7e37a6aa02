from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from structlog.testing import capture_logs

from emr_executor.aws.emr import EmrClient
from emr_executor.aws.session import open_aws
from emr_executor.config import AwsAccess
from emr_executor.core.model import ClusterId, StepId
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
from emr_executor.ports import NewStep
from tests.agent.manual_clock import ManualClock
from tests.aws.small_emr import SmallEmr

J = ClusterId("j-1")
STEP = NewStep(name="airflow-emr/w-1/d.t", jar="s3://r.elasticmapreduce/x.jar", args=("a", "b"))
SINCE = datetime(2026, 1, 1, tzinfo=UTC)
ENDED = "A job flow that is shutting down, terminated, or finished may not be modified."
FULL = (
    "Maximum number of active steps(State = 'Running', 'Pending' or 'Cancel_Pending') for cluster exceeded."
)
UNKNOWN = "Cluster id 'j-1' is not valid."

Call = Callable[[EmrClient], Awaitable[Any]]
LAUNCH: Call = lambda emr: emr.run_job_flow({"Name": "n", "Instances": {}}, within_s=60)  # noqa: E731
ADD: Call = lambda emr: emr.add_steps(J, [STEP], within_s=60)  # noqa: E731
LIST: Call = lambda emr: emr.list_steps(J)  # noqa: E731
CLUSTERS: Call = lambda emr: emr.list_clusters(over_since=SINCE, name_prefix="ours/")  # noqa: E731
DESCRIBE: Call = lambda emr: emr.describe_cluster(J)  # noqa: E731
TERMINATE: Call = lambda emr: emr.terminate_clusters([J])  # noqa: E731
CANCEL: Call = lambda emr: emr.cancel_steps(J, [StepId("s-1")])  # noqa: E731


@pytest.fixture
def server() -> Iterator[SmallEmr]:
    with SmallEmr() as running:
        yield running


@pytest.fixture
async def emr(
    server: SmallEmr, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[EmrClient]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # reads are repeated by botocore, with real pauses
    async with open_aws(AwsAccess(region_name="eu-west-1", endpoint_url=server.url), clock) as aws:
        yield aws.emr


async def test_launch_sends_the_request_and_gives_the_id(emr: EmrClient, server: SmallEmr) -> None:
    server.answers = [(200, {"JobFlowId": "j-1"})]
    request = {"Name": "n", "Instances": {"InstanceCount": 1}}
    assert await emr.run_job_flow(request, within_s=60) == "j-1"
    assert server.calls == [("RunJobFlow", request)]


async def test_steps_go_in_one_call_in_order_and_go_on_after_failure(
    emr: EmrClient, server: SmallEmr
) -> None:
    server.answers = [(200, {"StepIds": ["s-1", "s-2"]})]
    assert await emr.add_steps(J, [STEP, STEP], within_s=60) == ("s-1", "s-2")
    ((operation, request),) = server.calls
    assert operation == "AddJobFlowSteps"
    assert request["Steps"] == 2 * [
        {
            "Name": STEP.name,
            "ActionOnFailure": "CONTINUE",
            "HadoopJarStep": {"Jar": STEP.jar, "Args": ["a", "b"]},
        }
    ]


def step(n: int, state: str = "RUNNING", **status: Any) -> dict[str, Any]:
    return {"Id": f"s-{n}", "Name": f"step {n}", "Status": {"State": state, **status}}


async def test_steps_are_read_page_by_page(emr: EmrClient, server: SmallEmr) -> None:
    timeline = {"CreationDateTime": 1_800_000_000, "StartDateTime": 1_800_000_060}
    failed = step(3, "FAILED", FailureDetails={"Reason": "Unknown Error"}, Timeline=timeline)
    server.answers = [
        (200, {"Steps": [failed, step(2)], "Marker": "m"}),
        (200, {"Steps": [step(1, "PENDING")]}),
    ]
    first = await emr.list_steps(J)
    second = await emr.list_steps(J, marker=first.marker)
    assert second.marker is None
    seen = (*first.steps, *second.steps)
    assert [(s.step_id, s.state, s.failure) for s in seen] == [
        ("s-3", StepState.FAILED, "Unknown Error"),
        ("s-2", StepState.RUNNING, ""),
        ("s-1", StepState.PENDING, ""),
    ]
    assert seen[0].started_at == datetime.fromtimestamp(1_800_000_060, UTC)
    assert [request.get("Marker") for _, request in server.calls] == [None, "m"]


async def test_pages_in_a_circle_end(emr: EmrClient, server: SmallEmr) -> None:
    server.answers = [(200, {"Clusters": [], "Marker": "m"})]
    with pytest.raises(AwsUnavailable, match="circle"):
        await CLUSTERS(emr)


async def test_only_clusters_with_the_prefix_are_read(emr: EmrClient, server: SmallEmr) -> None:
    ours = {
        "Id": "j-1",
        "Name": "ours/1",
        "Status": {
            "State": "TERMINATED_WITH_ERRORS",
            "StateChangeReason": {"Code": "INTERNAL_ERROR", "Message": "no capacity"},
            "ErrorDetails": [{"ErrorCode": "INTERNAL_ERROR_EC2_INSUFFICIENT_CAPACITY_AZ"}],
            "Timeline": {"CreationDateTime": 1_800_000_000, "EndDateTime": 1_800_000_300},
        },
    }
    theirs = {"Id": "j-2", "Name": "theirs", "Status": {"State": "A_NEW_STATE"}}
    server.answers = [(200, {"Clusters": [theirs, ours, {"Id": "j-3"}]})]
    (seen,) = await CLUSTERS(emr)
    assert (seen.cluster_id, seen.state, seen.reason_code, seen.reason) == (
        "j-1",
        ClusterState.TERMINATED_WITH_ERRORS,
        "INTERNAL_ERROR",
        "no capacity (INTERNAL_ERROR_EC2_INSUFFICIENT_CAPACITY_AZ)",
    )
    assert seen.ended_at == datetime.fromtimestamp(1_800_000_300, UTC)


async def test_a_state_that_emr_has_got_since_spoils_nothing(emr: EmrClient, server: SmallEmr) -> None:
    steps = [{"Id": f"s-{i}", "Status": {"State": state}} for i, state in enumerate(("DANCING", "RUNNING"))]
    server.answers = [(200, {"Steps": steps})]
    with capture_logs() as logs:
        assert [step.state for step in (await emr.list_steps(J)).steps] == [None, StepState.RUNNING]
        await emr.list_steps(J)
    told = [line for line in logs if line["event"] == "state_unknown_to_this_release"]
    assert [(line["what"], line["state"]) for line in told] == [("step", "DANCING")]
    server.answers = [(200, {"Cluster": {"Id": "j-1", "Name": "ours/1", "Status": {"State": "PAUSED"}}})]
    paused = await emr.describe_cluster(J)
    assert paused is not None
    assert paused.state is None


async def test_unknown_cluster_is_none(emr: EmrClient, server: SmallEmr) -> None:
    server.refuse("InvalidRequestException", UNKNOWN)
    assert await emr.describe_cluster(J) is None


async def test_cancel_and_terminate_go_in_batches(emr: EmrClient, server: SmallEmr) -> None:
    await emr.cancel_steps(J, [StepId(f"s-{n}") for n in range(257)])
    await emr.terminate_clusters([ClusterId(f"j-{n}") for n in range(11)])
    sizes = [len(request.get("StepIds") or request.get("JobFlowIds")) for _, request in server.calls]
    assert sizes == [256, 1, 10, 1]


async def test_one_unknown_cluster_does_not_save_the_others(emr: EmrClient, server: SmallEmr) -> None:
    gone = (400, {"__type": "ValidationException", "message": "Specified job flow ID does not exist."})
    server.answers = [gone, gone, (200, {})]
    await emr.terminate_clusters([J, ClusterId("j-2")])
    assert [request["JobFlowIds"] for _, request in server.calls] == [["j-1", "j-2"], ["j-1"], ["j-2"]]


async def test_cancel_on_a_cluster_that_is_gone_is_done(emr: EmrClient, server: SmallEmr) -> None:
    server.refuse("InvalidRequestException", UNKNOWN)
    await CANCEL(emr)
    assert len(server.calls) == 1


@pytest.mark.parametrize(
    ("call", "code", "message", "status", "error"),
    [
        (LAUNCH, "ThrottlingException", "Rate exceeded", 400, ThrottledUnknown),
        (ADD, "ThrottlingException", "Rate exceeded", 400, ThrottledUnknown),
        (LIST, "ThrottlingException", "Rate exceeded", 400, Throttled),
        (TERMINATE, "Throttling", "Rate exceeded", 400, Throttled),
        (LAUNCH, "InternalServerException", "", 500, OutcomeUnknown),
        (ADD, "InternalFailure", "", 500, OutcomeUnknown),
        (ADD, "ServiceUnavailable", "", 503, OutcomeUnknown),
        (CLUSTERS, "InternalServerException", "", 500, AwsUnavailable),
        (LAUNCH, "ValidationException", "Invalid InstanceProfile: x.", 400, LaunchRefused),
        (LAUNCH, "AccessDeniedException", "not authorized", 400, LaunchRefused),
        (LIST, "AccessDeniedException", "not authorized", 400, CredentialsMissing),
        (ADD, "AccessDeniedException", "not authorized", 400, CredentialsMissing),
        (LAUNCH, "ExpiredTokenException", "expired", 400, CredentialsMissing),
        (ADD, "UnrecognizedClientException", "invalid token", 400, CredentialsMissing),
        (ADD, "ValidationException", ENDED, 400, ClusterGone),
        (ADD, "ValidationException", FULL, 400, StepLimitReached),
        (ADD, "ValidationException", "Action on failure 'X' is invalid.", 400, StepsRefused),
        (ADD, "InvalidRequestException", "Args holds 10,241 characters.", 400, StepsRefused),
        (ADD, "InvalidRequestException", "Cluster j-1 is not in an accepting state.", 400, TryElsewhere),
        (ADD, "SubscriptionRequiredException", "The account is closed.", 400, TryElsewhere),
        (LIST, "InvalidRequestException", UNKNOWN, 400, ClusterGone),
        (
            TERMINATE,
            "ValidationException",
            "Could not shut down one or more job flows since they are termination protected.",
            400,
            AwsUnavailable,
        ),
        (CLUSTERS, "InvalidRequestException", "odd", 400, AwsUnavailable),
    ],
)
async def test_refusals_tell_the_caller_what_to_do(  # noqa: PLR0917 - the table's columns
    emr: EmrClient,
    server: SmallEmr,
    call: Call,
    code: str,
    message: str,
    status: int,
    error: type[EmrExecutorError],
) -> None:
    server.refuse(code, message, status)
    with pytest.raises(EmrExecutorError) as raised:
        await call(emr)
    assert type(raised.value) is error
    assert code in str(raised.value)
    assert len(server.calls) == 1, "never repeated inside"


@pytest.mark.parametrize(
    ("call", "permission"),
    [
        (LAUNCH, "iam:PassRole"),
        (LIST, "elasticmapreduce:ListSteps"),
        (CANCEL, "elasticmapreduce:CancelSteps"),
    ],
)
async def test_denied_names_the_permission(
    emr: EmrClient, server: SmallEmr, call: Call, permission: str
) -> None:
    server.refuse("AccessDeniedException", "no")
    with pytest.raises(EmrExecutorError, match=permission):
        await call(emr)


@pytest.mark.parametrize("call", [LAUNCH, ADD])
async def test_lost_connection_leaves_an_effect_unknown(emr: EmrClient, server: SmallEmr, call: Call) -> None:
    server.answers = [None]
    with pytest.raises(OutcomeUnknown):
        await call(emr)
    assert len(server.calls) == 1


@pytest.mark.parametrize("call", [LIST, CLUSTERS, DESCRIBE, TERMINATE, CANCEL])
async def test_lost_connection_is_tried_again_where_that_is_safe(
    emr: EmrClient, server: SmallEmr, call: Call
) -> None:
    server.answers = [None]
    with pytest.raises(AwsUnavailable):
        await call(emr)


@pytest.mark.parametrize("call", [LAUNCH, ADD, LIST, TERMINATE])
async def test_nobody_listening_means_nothing_was_done(emr: EmrClient, server: SmallEmr, call: Call) -> None:
    server.close()
    with pytest.raises(AwsUnavailable):
        await call(emr)


@pytest.mark.parametrize(
    ("call", "answer", "error"),
    [
        (LAUNCH, {}, OutcomeUnknown),
        (LAUNCH, {"JobFlowId": ""}, OutcomeUnknown),
        (ADD, {}, OutcomeUnknown),
        (ADD, {"StepIds": ["s-1", "s-2"]}, OutcomeUnknown),
        (LAUNCH, b"<html>proxy</html>", OutcomeUnknown),
        (LIST, {}, AwsUnavailable),
        (LIST, {"Steps": [{"Name": "no id", "Status": {"State": "RUNNING"}}]}, AwsUnavailable),
        (LIST, {"Steps": [{"Id": "s-1"}]}, AwsUnavailable),
        (LIST, b"<html>proxy</html>", AwsUnavailable),
        (CLUSTERS, {"Clusters": [{"Id": "j-1", "Name": "ours/1"}]}, AwsUnavailable),
        (DESCRIBE, {}, AwsUnavailable),
        (DESCRIBE, {"Cluster": {"Id": "j-1", "Status": {"State": None}}}, AwsUnavailable),
    ],
)
async def test_bad_answer_is_a_typed_error(
    emr: EmrClient, server: SmallEmr, call: Call, answer: Any, error: type[EmrExecutorError]
) -> None:
    server.answers = [(200, answer)]
    with pytest.raises(error):
        await call(emr)


async def test_template_that_is_no_request_is_refused_before_it_is_sent(
    emr: EmrClient, server: SmallEmr
) -> None:
    with pytest.raises(LaunchRefused, match="Instances"):
        await emr.run_job_flow({"Name": "n"}, within_s=60)
    assert server.calls == []


async def test_throttled_answer_slows_the_next_calls(
    emr: EmrClient, server: SmallEmr, clock: ManualClock
) -> None:
    server.refuse("ThrottlingException", "Rate exceeded")
    with pytest.raises(Throttled):
        await LIST(emr)
    assert emr.budget.wait_s("ListSteps") > 2.0
