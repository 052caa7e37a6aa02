"""What wrappers wrote, in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from emr_executor.core.model import ClusterUuid, StepId, StepRecord, Submission, SubmissionId
from emr_executor.core.states import RecordPhase
from emr_executor.errors import AwsUnavailable
from tests.builders import NOW


@dataclass
class FakeRecords:
    """What wrappers wrote."""

    written: dict[SubmissionId, StepRecord] = field(default_factory=dict)
    chunks: dict[tuple[SubmissionId, int], bytes] = field(default_factory=dict)
    consumed: list[SubmissionId] = field(default_factory=list)
    unclaimed: set[SubmissionId] = field(default_factory=set)
    claims: dict[SubmissionId, StepId] = field(default_factory=dict)
    claims_away: bool = False

    unreadable: set[tuple[SubmissionId, int]] = field(default_factory=set)

    async def changed(self, known: Mapping[SubmissionId, str]) -> tuple[StepRecord, ...]:
        return tuple(r for r in self.written.values() if known.get(r.submission_id) != r.mark)

    async def claimed_by(self, cluster_uuid: ClusterUuid, submission_id: SubmissionId) -> StepId | None:
        if self.claims_away:
            raise AwsUnavailable("GetObject: SlowDown")
        return None if submission_id in self.unclaimed else self.claims.get(submission_id, StepId(""))

    async def output(
        self, cluster_uuid: ClusterUuid, submission_id: SubmissionId, chunk: int
    ) -> bytes | None:
        if (submission_id, chunk) in self.unreadable:
            raise AwsUnavailable("GetObject: SlowDown")
        return self.chunks.get((submission_id, chunk))

    async def unread(self, cluster_uuid: ClusterUuid, submission_id: SubmissionId, chunks: int) -> int:
        return sum(len(data) for (key, n), data in self.chunks.items() if key == submission_id and n > chunks)

    async def consume(self, over: Mapping[SubmissionId, ClusterUuid]) -> None:
        self.consumed += over
        for submission_id in over:
            self.written.pop(submission_id, None)

    def write(
        self, submission: Submission, phase: RecordPhase, *, exit_code: int | None = None, **changes: Any
    ) -> None:
        """A record as the wrapper of this submission would write it."""
        mark = f"{phase}{exit_code}{changes}"
        values: dict[str, Any] = {"mark": mark, "phase": phase, "at": NOW, "exit_code": exit_code}
        values |= {"submission_id": submission.submission_id, "cluster_uuid": submission.cluster_uuid}
        self.written[submission.submission_id] = StepRecord(**{**values, **changes})
