"""Airflow and emr-local as real processes on this machine, for the demo, ``make up`` and the tests.

A stack lives in one folder: ``airflow/`` (AIRFLOW_HOME), ``emr/`` (the endpoint's data, S3 buckets
included), ``logs/`` (one file a process) and ``stack.json`` (what runs, for ``make down``). Its processes
see no AWS_* variable and no AWS profile of the user, only the endpoint's own address and keys.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from tests.airflow_stack.airflow_client import AirflowClient, RunState
from tests.airflow_stack.airflow_home import Sections, sqlite_url, write_airflow_home
from tests.airflow_stack.components import (
    MARK,
    Component,
    StackError,
    clean_env,
    end_marked,
    free_port,
    port_is_free,
    stop_all,
    wait_until,
)
from tests.airflow_stack.emr_local_process import (
    READY_FILE,
    ReadyInfo,
    endpoint_component,
    wait_for_endpoint,
)
from tests.airflow_stack.stack_record import STATE_FILE, STOP_GRACE_S, write_record

START_TIMEOUT_S = 180.0
AIRFLOW_PROCESSES = {
    "api-server": ("api-server",),
    # All processes share one log folder, so no log server is needed (it would listen on every address).
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
}
_TRIGGERER = ("triggerer", "--skip-serve-logs")
_LOG_SERVER = "airflow.utils.serve_logs.log_server:get_app"
"""What ``airflow scheduler`` serves logs with; here on loopback alone."""
BUCKET = "emr-demo"

Progress = Callable[[str], None]


class LocalStack:
    """Starts and stops everything; a context manager.

    home: the stack's folder; made when it is not there
    dags: folders with DAG files, each a bundle of its own
    database_url: None is a SQLite file; else a PostgreSQL database to migrate and use
    sections: options of airflow.cfg by section, over what the stack sets itself
    env: more environment variables for Airflow's processes
    api_port: None takes a free one
    with_emr: False starts no endpoint and sets no [emr_executor] options
    emr_args: more arguments for ``emr-local serve``
    whole: also a triggerer and a log server, as a person expects of an Airflow
    stop_grace_s: from SIGTERM to SIGKILL; a scheduler takes seconds to end in order
    """

    def __init__(
        self,
        home: Path,
        *,
        dags: Sequence[Path],
        database_url: str | None = None,
        sections: Sections | None = None,
        env: Mapping[str, str] | None = None,
        api_port: int | None = None,
        with_emr: bool = True,
        emr_args: Sequence[str] = (),
        template: Path | None = None,
        whole: bool = False,
        stop_grace_s: float = STOP_GRACE_S,
        progress: Progress = lambda _text: None,
    ) -> None:
        self.home, self.dags, self.database_url = home.resolve(), tuple(dags), database_url
        self.sections, self.env, self.template = dict(sections or {}), dict(env or {}), template
        self.api_port = api_port or free_port()
        self.base_url = f"http://127.0.0.1:{self.api_port}"
        self.mark = secrets.token_hex(8)
        self.client = AirflowClient(self.base_url)
        self.watch, self.task_log = self.client.watch, self.client.task_log
        self.endpoint: ReadyInfo | None = None
        self._progress, self._let_go, self._stop_grace_s = progress, False, stop_grace_s
        self._components: dict[str, Component] = {}
        self._emr = endpoint_component(self.home, self.mark, emr_args) if with_emr else None
        self._log_port = free_port() if whole else None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._let_go:
            self.stop()

    def start(self) -> None:
        """Start everything and return once it is healthy. Raises StackError with the log of what failed."""
        if not port_is_free(self.api_port):
            raise StackError(f"Port {self.api_port} of this machine is in use; choose another.")
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / READY_FILE).unlink(missing_ok=True)
        self._progress("starting emr-local and making Airflow's database")
        if self._emr is not None:
            self._emr.start()
            self._components["emr-local"] = self._emr
            self.endpoint = wait_for_endpoint(self._emr, self.home, timeout_s=START_TIMEOUT_S)
            s3 = self.endpoint.client("s3")
            if BUCKET not in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}:
                s3.create_bucket(Bucket=BUCKET)
        write_airflow_home(
            self.airflow_home,
            api_port=self.api_port,
            dags=self.dags,
            database_url=self.database_url,
            extra=self._all_sections(),
        )
        self._write_state()
        self.airflow("db", "migrate")
        airflow = [self._airflow_component(name, args) for name, args in AIRFLOW_PROCESSES.items()]
        if self._log_port is not None:
            where = ("--host", "127.0.0.1", "--port", str(self._log_port))
            serve = (sys.executable, "-m", "uvicorn", _LOG_SERVER, "--factory", *where)
            airflow += [
                self._airflow_component("triggerer", _TRIGGERER),
                self._component("log-server", serve),
            ]
        self._progress("starting Airflow: " + ", ".join(component.name for component in airflow))
        for component in airflow:
            self._components[component.name] = component
            component.start()
        self._write_state()
        self.wait_healthy()

    def wait_healthy(self) -> None:
        """Return once scheduler and DAG processor beat and the API server says so."""

        def healthy() -> bool:
            for component in self._components.values():
                component.check()
            health = self.client.health()
            return {health.get(part) for part in ("metadatabase", "scheduler", "dag_processor")} == {
                "healthy"
            }

        self._wait(healthy, START_TIMEOUT_S, "a healthy Airflow")

    def stop(self) -> None:
        """End every process of the stack, children and leftovers included; safe to call twice."""
        self.client.close()
        emr = self._components.pop("emr-local", None)
        stop_all(list(self._components.values()), grace_s=self._stop_grace_s)
        if emr is not None:
            stop_all([emr], grace_s=self._stop_grace_s)
        end_marked(self.mark)
        self._components.clear()
        (self.home / STATE_FILE).unlink(missing_ok=True)

    def leave_running(self) -> None:
        """Let go of the processes, so that the context does not end them: ``stop_recorded`` does, later."""
        self._let_go = True
        self._write_state()
        self.client.close()

    def kill(self, name: str, sig: int = signal.SIGKILL) -> None:
        """Signal one process (``emr-local`` or one of AIRFLOW_PROCESSES) as a crash or an operator would."""
        self._components[name].kill(sig)

    def restart(self, name: str) -> None:
        """Start a process again after ``kill`` and wait until the stack is healthy."""
        component = self._components[name]
        wait_until(lambda: not component.is_running, timeout_s=STOP_GRACE_S, what=f"the end of {name}")
        component.start()
        self._write_state()
        self.wait_healthy()

    def ended(self) -> tuple[str, ...]:
        return tuple(name for name, component in self._components.items() if not component.is_running)

    def restart_ended(self) -> None:
        """Start again what has ended, as systemd or Kubernetes would; waits for nothing."""
        for name in self.ended():
            self._components[name].start()
        self._write_state()

    def start_another(self, name: str, *command: str) -> None:
        """One more process of the stack, say a second scheduler, under a name of its own."""
        self._components[name] = self._airflow_component(name, command)
        self._components[name].start()
        self._write_state()

    def pid(self, name: str) -> int:
        pid = self._components[name].pid
        if pid is None:
            raise StackError(f"{name} was never started")
        return pid

    def log_path(self, name: str) -> Path:
        return self._components[name].log

    def airflow(self, *args: str) -> str:
        """Run one ``airflow`` command in the stack's environment; its output. Raises StackError."""
        name = f"airflow-{'-'.join(args[:2])}"
        component = self._airflow_component(name, args)
        start = component.log.stat().st_size if component.log.exists() else 0
        component.start()
        try:
            self._wait(
                lambda: not component.is_running, START_TIMEOUT_S, f"the end of airflow {' '.join(args)}"
            )
            if component.process and (code := component.process.returncode):
                raise StackError(f"airflow {' '.join(args)} ended with exit code {code}.\n{component.tail()}")
        finally:
            stop_all([component], grace_s=1.0)
        with component.log.open("rb") as log:
            log.seek(start)
            return log.read().decode(errors="replace")

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run of a DAG, waiting until it has been parsed; the run id."""

        def parsed() -> bool:
            if self.client.has_dag(dag_id):
                return True
            if errors := self.client.import_errors():
                raise StackError("DAG files cannot be imported:\n" + "\n".join(f"  {e}" for e in errors))
            return False

        self._wait(parsed, 90.0, f"parsing DAG {dag_id}")
        return self.client.trigger(dag_id, conf)

    def wait_for_run(self, dag_id: str, run_id: str, *, timeout_s: float = 300.0) -> RunState:
        *_, last = self.watch(dag_id, run_id, timeout_s=timeout_s)
        return last

    @property
    def airflow_home(self) -> Path:
        return self.home / "airflow"

    @property
    def metadata_url(self) -> str:
        """Airflow's metadata database, for reading: SQLAlchemy's URL."""
        return self.database_url or sqlite_url(self.airflow_home)

    def airflow_env(self) -> dict[str, str]:
        """The environment of Airflow's processes: also for a test that runs code of its own beside them."""
        return clean_env(self._own_env())

    def _own_env(self) -> dict[str, str]:
        nowhere = str(self.home / "no-aws-profile")
        env = {
            "AIRFLOW_HOME": str(self.airflow_home),
            "PYTHONPATH": str(Path(__file__).parent / "importable"),
            MARK: self.mark,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "AWS_CONFIG_FILE": nowhere,
            "AWS_SHARED_CREDENTIALS_FILE": nowhere,
            "AWS_EC2_METADATA_DISABLED": "true",
            # setproctitle would write titles over the environment, and with it over the stack's mark.
            "SPT_NOENV": "1",
        }
        if self.endpoint is not None:
            env |= self.endpoint.env()
        return {**env, **self.env}

    def _all_sections(self) -> Sections:
        sections: dict[str, dict[str, str]] = {}
        if self.endpoint is not None:
            sections["emr_executor"] = {
                "cluster_template": str(self.template or self._own_template()),
                "staging_uri": f"s3://{BUCKET}/airflow-emr/",
                "endpoint_url": self.endpoint.endpoint_url,
                "region_name": self.endpoint.region,
                "idle_timeout": "120",
                "output_interval": "1",
                "records_interval": "1",
                "step_poll_interval": "10",
                "cluster_poll_interval": "2",
                "loss_hold": "10",
            }
        if self._log_port is not None:
            port = str(self._log_port)
            sections["logging"] = {"worker_log_server_port": port, "trigger_log_server_port": port}
            sections["core"] = {"hostname_callable": "loopback_host.log_server_host"}
        for section, options in self.sections.items():
            sections.setdefault(section, {}).update(options)
        return sections

    def _own_template(self) -> Path:
        path = self.home / "cluster.yaml"
        path.write_text(
            "ReleaseLabel: emr-7.12.0\nApplications: [{Name: Spark}]\nStepConcurrencyLevel: 2\n"
            "Instances: {MasterInstanceType: m5.xlarge, InstanceCount: 1}\n"
            "ServiceRole: EMR_DefaultRole\nJobFlowRole: EMR_EC2_DefaultRole\n"
        )
        return path

    def _airflow_component(self, name: str, args: Sequence[str]) -> Component:
        return self._component(name, (sys.executable, "-m", "airflow", *args))

    def _component(self, name: str, command: Sequence[str]) -> Component:
        log = self.home / "logs" / f"{name}.log"
        return Component(name, command, env=self.airflow_env(), log=log, cwd=self.home)

    def _wait(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        try:
            wait_until(condition, timeout_s=timeout_s, what=what, poll_s=0.25)
        except StackError as error:
            if "did not happen" not in str(error):
                raise
            tails = "\n".join(component.tail(12) for component in self._components.values())
            raise StackError(f"{error}.\n{tails}") from error

    def _write_state(self) -> None:
        write_record(
            self.home,
            {
                "mark": self.mark,
                "owner": None if self._let_go else [os.getpid(), psutil.Process().create_time()],
                "airflow": self.base_url,
                "env": self._own_env(),
                "pids": {
                    name: [c.pid, c.created] for name, c in self._components.items() if c.pid is not None
                },
            },
        )
