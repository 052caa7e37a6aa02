"""What the model of EMR wants done in the world. The caller does it and reports back with inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class StartProcess:
    """Start the process of a step; its end must come back as ``EmrModel.process_ended``, exactly once.

    step_id: of a bootstrap action: an id of the model's own
    config: the StepConfig as it was sent (Name, ActionOnFailure, HadoopJarStep)
    log_uri: the cluster's LogUri, or None
    log_folder: where below the cluster's folder there its logs go
    configurations: those of the cluster
    """

    cluster_id: str
    step_id: str
    config: Mapping[str, Any]
    log_uri: str | None
    log_folder: str = ""
    configurations: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KillProcess:
    """End the process of a step with all its descendants; its end must still be reported.

    force: at once and without warning (the machine is gone, or TERMINATE_PROCESS)
    """

    cluster_id: str
    step_id: str
    force: bool


Effect = StartProcess | KillProcess
