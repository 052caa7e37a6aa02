"""What a task runner says to its supervisor beyond Airflow's own messages."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class LocalFile(BaseModel):
    """A file on this host that the command names, found and readable when the task was prepared.

    token: stands in the command where the file's ``s3://`` URI will stand
    argument: the name under which the user gave it, for messages
    path: absolute
    """

    model_config = ConfigDict(frozen=True)

    token: str
    argument: str
    path: str


class Park(BaseModel):
    """The step of a prepared task. Answered when it is staged and stored, or with an error."""

    type: Literal["EmrPark"] = "EmrPark"
    translator: str
    command: list[str]
    env: dict[str, str]
    files: list[LocalFile]
    execution_timeout_s: float | None
    rendered_fields: dict[str, Any]


class FinishBegan(BaseModel):
    """The finish child has parsed its DAG: from here on its end is the user code's, not a start-up fault."""

    type: Literal["EmrFinishBegan"] = "EmrFinishBegan"
