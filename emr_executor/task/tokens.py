"""Execution API tokens, minted where they are used: never stored, never logged.

As ``BaseExecutor.jwt_generator`` makes them, with scope ``execution``: one kind serves `/run`, heartbeat
and end alike (airflow/api_fastapi/execution_api/app.py). ``nbf`` and ``iat`` are this host's present time:
the generator lets nobody set them earlier, so clocks must agree within ``[api_auth] jwt_leeway`` (``skew``).
"""

from __future__ import annotations

from collections.abc import Callable

from emr_executor.core.model import WorkloadId


def token_mint() -> Callable[[WorkloadId], str]:
    """A function that makes a token of one try alone, with the signing key of Airflow's configuration."""
    from airflow.api_fastapi.auth.tokens import JWTGenerator, get_signing_args
    from airflow.configuration import conf

    generator = JWTGenerator(
        valid_for=conf.getint("execution_api", "jwt_expiration_time"),
        audience=conf.get_mandatory_list_value("execution_api", "jwt_audience")[0],
        issuer=conf.get("api_auth", "jwt_issuer", fallback=None),
        **get_signing_args(make_secret_key_if_needed=False),
    )
    return lambda workload_id: str(generator.generate({"sub": workload_id, "scope": "execution"}))
