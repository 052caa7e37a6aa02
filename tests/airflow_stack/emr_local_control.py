"""A client of emr-local's control API, for tests and the demo: status, ledger, and faults."""

from __future__ import annotations

import json
from functools import partialmethod
from typing import Any

import httpx
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from emr_executor.local.ledger import LedgerEntry

_TIMEOUT_S = 30


class ControlError(Exception):
    """The endpoint refused a control request; the message is its text."""


class EmrLocalControl:
    """Steers one running emr-local. Faults and their arguments are those of ``local.control_api``.

    ``operation`` is an EMR operation's name, or ``*`` for any; ``count`` is how many of the next calls.
    """

    def __init__(
        self, endpoint_url: str, access_key: str, secret_key: str, *, region: str = "us-east-1"
    ) -> None:
        self._url = f"{endpoint_url.rstrip('/')}/_emr_local/"
        self._auth = SigV4Auth(Credentials(access_key, secret_key), "elasticmapreduce", region)

    def status(self) -> dict[str, Any]:
        """Clusters with their steps (boto3's shapes, epoch seconds) and the faults that are set."""
        return self._call("GET", "status")

    def ledger(self, after: int = 0) -> list[LedgerEntry]:
        """Everything that really happened, oldest first, after a sequence number."""
        entries = self._call("GET", f"ledger?after={after}")["entries"]
        return [LedgerEntry(**entry) for entry in entries]

    def _fault(self, name: str, **body: Any) -> Any:
        return self._call("POST", name, json.dumps(body).encode())["result"]

    def _of_cluster(self, name: str, cluster_id: str, **body: Any) -> Any:
        return self._fault(name, cluster_id=cluster_id, **body)

    def _of_calls(self, name: str, operation: str, count: int = 1, **body: Any) -> Any:
        return self._fault(name, operation=operation, count=count, **body)

    lose_cluster = partialmethod(_of_cluster, "lose-cluster")
    """The primary node goes away: its processes die now, EMR shows it ``notice_after_s`` later.

    steps_after_s: when EMR shows it of the steps, if that is earlier than of the cluster itself
    steps_become: CANCELLED, FAILED or INTERRUPTED; reason: StateChangeReason code and message
    """
    finish_provisioning = partialmethod(_of_cluster, "finish-provisioning")
    """Skip what is left of a cluster's STARTING and BOOTSTRAPPING."""
    release_termination = partialmethod(_of_cluster, "release-termination")
    """Let a hanging termination go on."""
    hold_provisioning = partialmethod(_fault, "hold-provisioning")
    """Clusters stay STARTING from now on."""
    release_provisioning = partialmethod(_fault, "release-provisioning")
    """Held clusters go on."""
    throttle = partialmethod(_of_calls, "throttle")
    """The next calls get ThrottlingException and do nothing."""
    drop_response = partialmethod(_of_calls, "drop-response")
    """The next calls get no answer; ``when="after"``: they had their effect; ``before``: they had none."""
    fail_calls = partialmethod(_of_calls, "fail-calls")
    """The next calls get this error (``code``, ``message``, ``status``) and do nothing."""
    use_buckets = partialmethod(_fault, "use-buckets")
    """Throttle by token ``buckets``, (size, refill a second) by operation; without them by AWS's defaults."""
    go_away = partialmethod(_fault, "go-away")
    """EMR and S3 answer nobody any more, steps included: connections are cut before anything happens."""
    come_back = partialmethod(_fault, "come-back")
    clear_faults = partialmethod(_fault, "clear-faults")
    """Forget every fault of calls, buckets included."""

    def refuse_capacity(self, launches: int = 1) -> None:
        """The next launches are accepted, and then end because EC2 is out of capacity."""
        self._fault("fail-launches", count=launches)

    def slow(self, operation: str, delay_s: float, count: int | None = None) -> None:
        """Calls wait before they act; None is until ``clear_faults``."""
        self._fault("slow", operation=operation, delay_s=delay_s, count=count)

    def _call(self, method: str, name: str, data: bytes = b"") -> dict[str, Any]:
        signed = AWSRequest(method=method, url=self._url + name, data=data)
        self._auth.add_auth(signed)
        # The endpoint is on loopback: a proxy of the environment has no business with it.
        answer = httpx.request(
            method,
            self._url + name,
            content=data,
            headers=dict(signed.headers.items()),
            timeout=_TIMEOUT_S,
            trust_env=False,
        )
        if answer.is_error:
            raise ControlError(f"{method} {name}: {answer.status_code} {answer.text}")
        return dict(answer.json())
