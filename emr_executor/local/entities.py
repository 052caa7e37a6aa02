"""The mutable state behind the model of EMR: clusters, steps and instances. Times are epoch seconds."""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from emr_executor.core.states import OVER_STEP_STATES, ClusterState, StepState
from emr_executor.local.faults import LaunchFailure

LIVE_CLUSTER_STATES = (
    ClusterState.STARTING,
    ClusterState.BOOTSTRAPPING,
    ClusterState.RUNNING,
    ClusterState.WAITING,
)
"""Steps may be added in these states only (botocore emr, AddJobFlowSteps)."""
READY_CLUSTER_STATES = (ClusterState.RUNNING, ClusterState.WAITING)
OLDEST_READ_S = 900.0
"""No read is staler than this: older states are forgotten, and what ended before is over for everybody."""

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """How long things take, and EMR's open questions as switches. ``_s`` are seconds.

    running_step_on_terminate: the state of steps that ran when their cluster was terminated; botocore says
        that incomplete steps are canceled, mrjob's mock guesses INTERRUPTED
    cancelled_step_frees_slot: the guide says that a cancelled running step does not let a pending one start
        as long as StepConcurrencyLevel stays; against common sense, so True by default
    running_steps_are_busy: False is EMR's auto-termination at its word: work that YARN does not know is idle
    auto_termination_reason: code and message after an idle timeout; not documented
    bootstrap_timeout_s: of one bootstrap action; an hour in EMR
    steps_a_page: of ListSteps, 50 in EMR (botocore emr 2009-03-31); fewer bring about long looks
    visible_steps: ListSteps shows a cluster's last 1,000 (seen by users of EMR, not documented), others by id
    """

    region: str = "us-east-1"
    account_id: str = "123456789012"
    start_delay_s: float = 0.0
    bootstrap_delay_s: float = 0.0
    bootstrap_timeout_s: float = 3600.0
    terminate_delay_s: float = 0.0
    step_start_delay_s: float = 0.0
    running_step_on_terminate: StepState = StepState.CANCELLED
    cancelled_step_frees_slot: bool = True
    running_steps_are_busy: bool = True
    auto_termination_reason: tuple[str, str] = ("USER_REQUEST", "Terminated by user request")
    idle_timeout_min_s: int = 60
    steps_a_page: int = 50
    visible_steps: int = 1000


@dataclass(slots=True)
class StepEntry:
    """One step, as the API shows it; whether its process lives stands in the cluster's ``processes``.

    ends_as: the state to enter when the process ends, whatever its exit code; None means by the exit code

    The four moments tell the state at any time: a step never goes back, so it needs no other history.
    """

    step_id: str
    config: dict[str, Any]
    created_at: float
    state: StepState = StepState.PENDING
    execution_role_arn: str | None = None
    started_at: float | None = None
    cancel_pending_at: float | None = None
    ended_at: float | None = None
    reason_message: str = ""
    failure: dict[str, str] | None = None
    ends_as: StepState | None = None

    @property
    def name(self) -> str:
        """The step's Name."""
        return str(self.config["Name"])

    @property
    def action_on_failure(self) -> str:
        """TERMINATE_CLUSTER when the request named none (EMR's default by API)."""
        return str(self.config.get("ActionOnFailure") or "TERMINATE_CLUSTER")

    def state_at(self, as_of: float) -> StepState:
        """The state at a moment since its creation."""
        if self.ended_at is not None and self.ended_at <= as_of:
            return self.state
        if self.cancel_pending_at is not None and self.cancel_pending_at <= as_of:
            return StepState.CANCEL_PENDING
        if self.started_at is not None and self.started_at <= as_of:
            return StepState.RUNNING
        return StepState.PENDING

    @property
    def is_over(self) -> bool:
        """True in a state without a way out."""
        return self.state in OVER_STEP_STATES


@dataclass(slots=True)
class InstanceEntry:
    """One EC2 instance of a cluster."""

    instance_id: str
    ec2_instance_id: str
    role: Literal["MASTER", "CORE", "TASK"]
    owner_id: str
    """The instance group's or fleet's id."""
    instance_type: str
    market: str
    created_at: float
    state: str = "PROVISIONING"
    reason: tuple[str, str] | None = None
    ready_at: float | None = None
    ended_at: float | None = None


class ClusterMoment(NamedTuple):
    """What a cluster showed from a moment on."""

    at: float
    state: ClusterState
    reason: tuple[str, str]


@dataclass(slots=True)
class ClusterEntry:
    """One cluster and its steps, in the order they were added.

    number: of its launch, from 1; 0 until it is launched
    story: the states it had lately, oldest first, for reads that are stale
    bootstraps_over: how many of its bootstrap actions ended well
    bootstrap_delay_over: it is ready once its bootstrap actions are
    lost: its instances are gone; until EMR notices, the API shows the old state
    end: what TERMINATING leads to
    termination_hangs: TERMINATING stays, and its steps live on, until released
    """

    cluster_id: str
    request: dict[str, Any]
    created_at: float
    step_concurrency: int
    keep_alive: bool
    protected: bool
    tags: dict[str, str]
    auto_termination_s: int | None
    number: int = 0
    state: ClusterState = ClusterState.STARTING
    reason: tuple[str, str] = ("", "")
    story: deque[ClusterMoment] = field(default_factory=deque)
    error_details: list[dict[str, Any]] = field(default_factory=list)
    ready_at: float | None = None
    ended_at: float | None = None
    steps: list[StepEntry] = field(default_factory=list)
    by_id: dict[str, StepEntry] = field(default_factory=dict)
    pending: deque[StepEntry] = field(default_factory=deque)
    running: dict[str, StepEntry] = field(default_factory=dict)
    """RUNNING and CANCEL_PENDING steps, by id: those that hold a slot."""
    processes: dict[str, None] = field(default_factory=dict)
    """Ids of steps whose process was started and whose end was not yet reported, in the order of starts."""
    blocked_slots: int = 0
    idle_since: float = 0.0
    idle_timer_due: float | None = None
    """When the next look at its idleness is due: one timer for a cluster, however often it becomes idle."""
    launch_failure: LaunchFailure | None = None
    provisioning_held: bool = False
    bootstraps_over: int = 0
    bootstrap_delay_over: bool = False
    lost: bool = False
    end: ClusterState = ClusterState.TERMINATED
    termination_hangs: bool = False
    termination_due: bool = False
    instances: list[InstanceEntry] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The cluster's Name."""
        return str(self.request["Name"])

    def enter(self, state: ClusterState, reason: tuple[str, str], now: float) -> None:
        """Show another state from now on."""
        self.state, self.reason = state, reason
        story = self.story
        story.append(ClusterMoment(now, state, reason))
        while len(story) > 1 and story[1].at <= now - OLDEST_READ_S:
            story.popleft()

    def shown_at(self, as_of: float) -> ClusterMoment:
        """What it showed at a moment since its creation."""
        for moment in reversed(self.story):
            if moment.at <= as_of:
                return moment
        return self.story[0]

    @property
    def is_live(self) -> bool:
        """True from STARTING to WAITING."""
        return self.state in LIVE_CLUSTER_STATES

    @property
    def is_over(self) -> bool:
        """True when TERMINATED or TERMINATED_WITH_ERRORS."""
        return self.state in (ClusterState.TERMINATED, ClusterState.TERMINATED_WITH_ERRORS)

    @property
    def active_steps(self) -> int:
        """Steps in PENDING, RUNNING and CANCEL_PENDING, which EMR's limit of 256 counts."""
        return len(self.pending) + len(self.running)

    @property
    def primary(self) -> InstanceEntry:
        """The instance of the primary node."""
        return next(instance for instance in self.instances if instance.role == "MASTER")

    @property
    def bootstrap_actions(self) -> list[dict[str, Any]]:
        """As the request had them."""
        return list(self.request.get("BootstrapActions", ()))

    @property
    def bootstrap_id(self) -> str:
        """The id under which the process of the bootstrap action that is next, or runs, is known."""
        return f"{self.cluster_id}-bootstrap-{self.bootstraps_over + 1}"

    @property
    def uses_fleets(self) -> bool:
        """True when the request described instance fleets."""
        return bool(self.request["Instances"].get("InstanceFleets"))


class IdSource:
    """Ids that look like EMR's and are the same for the same seed: ``j-`` and 13 upper-case alphanumerics."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._count = 0

    def next(self, prefix: str, length: int = 13) -> str:
        """A fresh id."""
        self._count += 1
        digest = hashlib.sha256(f"{self._seed}/{prefix}/{self._count}".encode()).digest()
        return prefix + "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in digest[:length])

    def next_hex(self, prefix: str, length: int = 17) -> str:
        """A fresh id in lower-case hexadecimal, as EC2 makes them."""
        self._count += 1
        return prefix + hashlib.sha256(f"{self._seed}/{prefix}/{self._count}".encode()).hexdigest()[:length]
