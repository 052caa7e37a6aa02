"""On the PYTHONPATH of a stack's Airflow."""


def log_server_host() -> str:
    """``[core] hostname_callable`` where the log server listens on loopback alone."""
    return "127.0.0.1"
