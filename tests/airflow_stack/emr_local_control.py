"""A client of emr-local's control API, for tests and the demo: status, ledger, one method per fault."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from emr_executor.local.faults import LaunchFailureKind
from emr_executor.local.ledger import LedgerEntry

_TIMEOUT_S = 30


class ControlError(Exception):
    """The endpoint refused a control request; the message is its text."""


class EmrLocalControl:
    """Steers one running emr-local. ``operation`` is an EMR operation's name, or ``*`` for any."""

    def __init__(
        self, endpoint_url: str, access_key: str, secret_key: str, *, region: str = "us-east-1"
    ) -> None:
        self._endpoint_url = endpoint_url.rstrip("/")
        self._credentials = Credentials(access_key, secret_key)
        self._region = region
        # The endpoint is on loopback: a proxy of the environment has no business with it.
        self._opener = build_opener(ProxyHandler({}))

    # -- looking --------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Clusters with their steps (boto3's shapes, epoch seconds) and the faults that are set."""
        return self._call("GET", "status")

    def ledger(self, after: int = 0) -> list[LedgerEntry]:
        """Everything that really happened, oldest first, after a sequence number."""
        return [
            LedgerEntry.from_dict(entry) for entry in self._call("GET", f"ledger?after={after}")["entries"]
        ]

    # -- clusters -------------------------------------------------------------------------------------

    def lose_cluster(
        self,
        cluster_id: str,
        *,
        notice_after_s: float = 0.0,
        steps_after_s: float | None = None,
        steps_become: str = "CANCELLED",
        reason: tuple[str, str] | None = None,
    ) -> None:
        """The primary node goes away: its processes die now, EMR shows it ``notice_after_s`` later.

        steps_after_s: when EMR shows it of the steps, if that is earlier than of the cluster itself
        steps_become: CANCELLED, FAILED or INTERRUPTED; reason: StateChangeReason code and message
        """
        self._post(
            "lose-cluster",
            {
                "cluster_id": cluster_id,
                "notice_after_s": notice_after_s,
                "steps_after_s": steps_after_s,
                "steps_become": steps_become,
                "reason": reason,
            },
        )

    def lose_node(self, cluster_id: str) -> str | None:
        """A core or task instance goes away and is replaced; its EC2 id, or None without one."""
        lost = self._post("lose-node", {"cluster_id": cluster_id})
        return None if lost is None else str(lost)

    def refuse_capacity(self, launches: int = 1) -> None:
        """The next launches are accepted, and then end because EC2 is out of capacity."""
        self.fail_launches(launches, LaunchFailureKind.CAPACITY)

    def fail_launches(self, count: int, kind: LaunchFailureKind) -> None:
        """The next launches are accepted, and then fail in this way."""
        self._post("fail-launches", {"count": count, "kind": str(kind)})

    def hold_provisioning(self) -> None:
        """Clusters stay STARTING from now on."""
        self._post("hold-provisioning", {})

    def release_provisioning(self) -> None:
        """Held clusters go on."""
        self._post("release-provisioning", {})

    def finish_provisioning(self, cluster_id: str) -> None:
        """Skip what is left of a cluster's STARTING and BOOTSTRAPPING."""
        self._post("finish-provisioning", {"cluster_id": cluster_id})

    def hang_termination(self, cluster_id: str) -> None:
        """Once terminated, the cluster stays TERMINATING and its steps live on, until released."""
        self._post("hang-termination", {"cluster_id": cluster_id})

    def release_termination(self, cluster_id: str) -> None:
        """Let a hanging termination go on."""
        self._post("release-termination", {"cluster_id": cluster_id})

    def mark_busy(self, cluster_id: str) -> None:
        """As if EMR's busy marker were touched: the idle time starts again."""
        self._post("mark-busy", {"cluster_id": cluster_id})

    # -- calls ----------------------------------------------------------------------------------------

    def throttle(self, operation: str, count: int = 1) -> None:
        """The next calls get ThrottlingException and do nothing."""
        self._post("throttle", {"operation": operation, "count": count})

    def use_buckets(self, buckets: Mapping[str, tuple[float, float]] | None = None) -> None:
        """Throttle by token buckets, (size, refill a second); None is AWS's defaults."""
        self._post("use-buckets", {"buckets": None if buckets is None else dict(buckets)})

    def drop_response(self, operation: str, count: int = 1, *, when: str = "after") -> None:
        """The next calls get no answer; ``after``: they had their effect; ``before``: they had none."""
        self._post("drop-response", {"operation": operation, "count": count, "when": when})

    def fail_calls(
        self, operation: str, count: int = 1, *, code: str, message: str = "", status: int = 400
    ) -> None:
        """The next calls get this error and do nothing."""
        self._post(
            "fail-calls",
            {"operation": operation, "count": count, "code": code, "message": message, "status": status},
        )

    def slow(self, operation: str, delay_s: float, count: int | None = None) -> None:
        """Calls wait before they act; None is until ``clear_faults``."""
        self._post("slow", {"operation": operation, "delay_s": delay_s, "count": count})

    def go_away(self) -> None:
        """EMR and S3 answer nobody any more, steps included: connections are cut before anything happens."""
        self._post("go-away", {})

    def come_back(self) -> None:
        """EMR and S3 answer again."""
        self._post("come-back", {})

    def clear_faults(self) -> None:
        """Forget every fault of calls, buckets included."""
        self._post("clear-faults", {})

    # -- the wire -------------------------------------------------------------------------------------

    def _post(self, name: str, body: Mapping[str, Any]) -> Any:
        return self._call("POST", name, body)["result"]

    def _call(self, method: str, name: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        url = f"{self._endpoint_url}/_emr_local/{name}"
        data = b"" if body is None else json.dumps(body).encode()
        signed = AWSRequest(method=method, url=url, data=data, headers={"Host": urlsplit(url).netloc})
        SigV4Auth(self._credentials, "elasticmapreduce", self._region).add_auth(signed)
        headers = dict(signed.headers.items())
        request = Request(url, data=data or None, headers=headers, method=method)
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as answer:
                return dict(json.load(answer))
        except HTTPError as error:
            raise ControlError(
                f"{method} {name}: {error.code} {error.read().decode(errors='replace')}"
            ) from error
