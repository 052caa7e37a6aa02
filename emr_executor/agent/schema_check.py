"""An agent works only with tables of its own release: at its start, and as long as it runs.

During a rolling upgrade ``airflow db migrate`` runs beside agents of the older release. Each of them ends by
itself soon after, hands its lease back, and an agent of the newer release goes on.
"""

from __future__ import annotations

import structlog

from emr_executor.errors import ConfigError, TryAgain
from emr_executor.ports import Clock
from emr_executor.store.revision import tables_problem
from emr_executor.store.runner import Runner

LOOK_EVERY_S = 30.0

log = structlog.get_logger("emr_executor.agent")


async def check_tables(runner: Runner) -> None:
    """Raises ConfigError with what to do where the tables are missing or of another release; StoreBusy."""
    if problem := await runner.read(tables_problem):
        raise ConfigError([problem])


async def until_other_tables(runner: Runner, clock: Clock) -> ConfigError:
    """Returns when the tables have become those of another release; a database that is away says nothing."""
    while True:
        await clock.sleep(LOOK_EVERY_S)
        try:
            await check_tables(runner)
        except TryAgain:
            continue
        except ConfigError as problem:
            return problem
        except Exception:
            log.exception("tables_not_looked_at")
