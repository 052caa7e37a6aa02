"""One throw-away PostgreSQL for a test process, and a new database of it for whoever asks.

The server is the one in the PyPI package ``pgserver``. It listens on a loopback TCP port, so several
processes can use one database by its URL, and it goes away with the process that started it.
"""

from __future__ import annotations

import atexit
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from functools import cache
from pathlib import Path

import psycopg2

MAX_CONNECTIONS = 200
_UNPRIVILEGED_USER = "nobody"
_START_DEADLINE_S = 30.0
_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": str(MAX_CONNECTIONS),
    "shared_buffers": "64MB",
    "autovacuum": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
}
_UNTIL_ABANDONED = """
home=$1; shift
"$@" </dev/null & server=$!
read -r _
kill -INT $server; wait $server
rm -rf "$home"
"""
"""A shell that ends the server when its input closes, with the process that holds it, killed or not."""
_names = itertools.count(1)
_lock = threading.Lock()


class PostgresServer:
    """A running server; its data are gone after ``stop``.

    settings: of PostgreSQL, in place of those that make tests quick
    """

    def __init__(self, **settings: str) -> None:
        self._settings = _SETTINGS | settings
        self._home = Path(tempfile.mkdtemp(prefix=f"emr-executor-{os.getpid()}-pg-", dir="/tmp"))
        self._owner = os.getpid()
        self._user = _UNPRIVILEGED_USER if os.geteuid() == 0 else None
        if self._user:
            # PostgreSQL refuses to run as root.
            account = pwd.getpwnam(self._user)
            os.chown(self._home, account.pw_uid, account.pw_gid)
        self._programs = _programs_for(self._user, self._home)
        data = self._home / "data"
        self._run("initdb", "-D", str(data), "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync")
        self.port = _free_port()
        self._spawn()

    def _spawn(self) -> None:
        options = [part for key, value in self._settings.items() for part in ("-c", f"{key}={value}")]
        self._process = subprocess.Popen(
            [
                "sh",
                "-c",
                _UNTIL_ABANDONED,
                "sh",
                str(self._home),
                str(self._programs / "postgres"),
                *("-D", str(self._home / "data"), "-p", str(self.port)),
                *options,
            ],
            stdin=subprocess.PIPE,
            stdout=(self._home / "log").open("ab"),
            stderr=subprocess.STDOUT,
            cwd="/",
            user=self._user,
            start_new_session=True,
        )
        self._wait_until_up()

    def url(self, database: str) -> str:
        """The SQLAlchemy URL of one of its databases."""
        return f"postgresql+psycopg2://postgres@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str) -> None:
        """Run one statement outside of any transaction."""
        connection = psycopg2.connect(host="127.0.0.1", port=self.port, user="postgres", dbname="postgres")
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()

    def halt(self) -> None:
        """Go away as in a restart: every connection is cut, the data stay for ``resume``."""
        self._process.kill()  # the shell, which would end a server and delete its data
        self._process.wait()
        pid = int((self._home / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + _START_DEADLINE_S
        while (self._home / "data" / "postmaster.pid").exists():
            if time.monotonic() > deadline:
                raise RuntimeError("PostgreSQL did not stop")
            time.sleep(0.02)

    def resume(self) -> None:
        """Come back on the same port with the same data."""
        self._spawn()

    def database(self, name: str) -> str:
        """The SQLAlchemy URL of a new, empty database."""
        self.execute(f'CREATE DATABASE {name} TEMPLATE "template0"')
        return self.url(name)

    def stop(self) -> None:
        """End the server and delete its data; nothing in a forked child of the starter."""
        if os.getpid() != self._owner:
            return
        self._process.communicate()
        shutil.rmtree(self._home, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._programs / program), *arguments],
            check=True,
            capture_output=True,
            cwd=self._home,
            user=self._user,
        )

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + _START_DEADLINE_S
        while True:
            try:
                self.execute("SELECT 1")
            except psycopg2.OperationalError as e:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = (self._home / "log").read_text(errors="replace")
                    raise RuntimeError(f"PostgreSQL did not start:\n{log}") from e
                time.sleep(0.02)
            else:
                return


@cache
def _started() -> PostgresServer:
    server = PostgresServer()
    atexit.register(server.stop)
    return server


def server() -> PostgresServer:
    """The server of this process, started at the first call."""
    with _lock:
        return _started()


def fresh_database(template: str = "template0") -> str:
    """The SQLAlchemy URL of a new database, empty or a copy of ``template`` (which nobody may be using)."""
    name = f"t{os.getpid()}_{next(_names)}"
    server().execute(f'CREATE DATABASE {name} TEMPLATE "{template}" STRATEGY FILE_COPY')
    return server().url(name)


def _programs_for(user: str | None, home: Path) -> Path:
    """The folder of PostgreSQL's programs, in ``home`` where ``user`` may not enter the package's own."""
    package = _package()
    programs = package / "pginstall" / "bin"
    try:
        subprocess.run(
            [str(programs / "postgres"), "-V"], check=True, capture_output=True, user=user, cwd="/"
        )
    except PermissionError:
        # The programs find their libraries relative to themselves.
        for name in ("pgserver/pginstall", "pgserver.libs"):
            shutil.copytree(package.parent / name, home / name)
        return home / "pgserver" / "pginstall" / "bin"
    return programs


def _package() -> Path:
    spec = importlib.util.find_spec("pgserver")
    if spec is None or spec.origin is None:
        raise RuntimeError("the package pgserver is missing: install the project's extra 'test'")
    return Path(spec.origin).parent


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
