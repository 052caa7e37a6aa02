#!/usr/bin/env python3
"""Runs one EMR step's command on the primary node and tells S3 how it goes.

    emr_step_wrapper.py --spec s3://... --records s3://.../ --cluster <uuid> --submission <id>

One file, standard library only, Python 3.6 on: EMR's script-runner downloads it and starts it. What it
keeps true, whatever S3 does:

- the command's fate does not depend on S3 once its spec is read: uploads happen in a second thread, are
  retried with backoff, and change neither the command nor its exit code;
- an output chunk is in S3 before the record that counts it;
- memory is bounded: output waits in an unlinked file of at most ``max_bytes``;
- of all steps that carry one submission id a single one does anything: it holds the submission's claim;
- the command and the staged files that it names are what was staged: the name of each is its digest. The
  files come to a folder of this step, so that nobody can change them between this look and their use;
- after an unsuccessful end nothing of the command is left: not its session, not its YARN application.

Exit codes: the command's own (128 + n after signal n), 123 when another step holds the claim, 124 at the
deadline, 125 when there is no claim, no usable spec or another file than was staged, 126 or 127 when the
command cannot be started, 143 when terminated.
"""

import calendar
import collections
import contextlib
import hashlib
import hmac
import http.client
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
import urllib.parse

HTTP_TIMEOUT_S = 10.0
BLOCK_BYTES = 65536
CHUNK_BYTES = 256 * 1024
KEPT_END_BYTES = 128 * 1024  # of an output longer than max_bytes, besides its beginning
TAIL_BYTES = 4096
TAIL_KEPT_BYTES = 32 * 1024  # of which the tail is what is left without stack frames
LIFE_SIGN_S = 60.0
QUIET_BYTES = 512  # a chunk smaller than this lets the next one wait longer
BUSY_S = 55.0  # EMR looks at the marker about once a minute
PARENT_LOOK_S = 2.0
GATHER_S, BURST_BYTES, BURST_S = 0.5, 16384, 10.0
DRAIN_S = 2.0  # output of a background process that outlives the command
YARN_S = 25.0
CLAIMED_CODE, DEADLINE_CODE, NO_SPEC_CODE = 123, 124, 125
NOT_RUNNABLE_CODE, NOT_FOUND_CODE, TERMINATED_CODE = 126, 127, 143
FRAME = re.compile(rb"^\s+(?:at [^\n]*\)|\.\.\. \d+ [^\n]*)\r?\n", re.MULTILINE)
SPEC = re.compile(r".*/([0-9a-f]{64})\.json\Z", re.DOTALL)
STAGED = re.compile(r".*/([0-9a-f]{64})/([^/]+)\Z", re.DOTALL)
SUBMITTED = re.compile(rb"Submitted application (application_\d+_\d+)")
LISTED = re.compile(rb"^\s*(application_\d+_\d+)\s", re.MULTILINE)


def setting(name: str, default: float) -> float:
    """A number of the environment, EMR_STEP_WRAPPER_<name>; for tests and for emergencies."""
    try:
        return float(os.environ["EMR_STEP_WRAPPER_" + name])
    except (KeyError, ValueError):
        return default


def say(text: str) -> None:
    """One line for the step's own stderr log."""
    with contextlib.suppress(OSError):
        os.write(2, ("emr_step_wrapper: {}\n".format(text)).encode("utf-8", "replace"))


# ---- S3 ----------------------------------------------------------------------------------------


class S3Error(Exception):
    """S3 or the instance metadata service answered, but not with success."""

    def __init__(self, what: str, status: int, body: bytes) -> None:
        found = re.search(rb"<Code>([^<]{1,80})</Code>", body)
        self.status = status
        self.code = found.group(1).decode("ascii", "replace") if found else ""
        super().__init__("%s: HTTP %d %s" % (what, status, self.code))


FAULTS = (OSError, http.client.HTTPException, S3Error, ValueError, KeyError)
"""Everything that a call to S3 or to the metadata service may raise."""


def connection_to(scheme: str, host: str) -> http.client.HTTPConnection:
    """A connection that opens with its first request, and anew with the next when the server closed it."""
    kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
    return kind(host, timeout=HTTP_TIMEOUT_S)


def exchange(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    headers: "dict[str, str]",
    body: bytes = b"",
    take: "collections.abc.Callable[[bytes], object] | None" = None,
) -> "tuple[http.client.HTTPResponse, bytes]":
    """The answer and its body. With ``take`` the body of a success goes there, block by block."""
    connection.request(method, path, body or None, headers)
    response = connection.getresponse()
    if not take or response.status != 200:
        return response, response.read()
    block = response.read(BLOCK_BYTES)
    while block:
        take(block)
        block = response.read(BLOCK_BYTES)
    if response.length:
        raise ConnectionError(connection.host + " closed the connection")
    return response, b""


Credentials = collections.namedtuple("Credentials", "key_id secret token")


def sign(
    method: str, host: str, path: str, body_sha256: str, region: str, credentials: Credentials, now: float
) -> "dict[str, str]":
    """Headers of an S3 request without a query string, signed with AWS Signature Version 4."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    headers = {"host": host, "x-amz-content-sha256": body_sha256, "x-amz-date": stamp}
    if credentials.token:
        headers["x-amz-security-token"] = credentials.token
    names = ";".join(sorted(headers))
    lines = "".join("{}:{}\n".format(name, headers[name].strip()) for name in sorted(headers))
    canonical = f"{method}\n{path}\n\n{lines}\n{names}\n{body_sha256}"
    scope = "{}/{}/s3/aws4_request".format(stamp[:8], region)
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    key = b"AWS4" + credentials.secret.encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    headers["Authorization"] = "AWS4-HMAC-SHA256 Credential={}/{}, SignedHeaders={}, Signature={}".format(
        credentials.key_id,
        scope,
        names,
        hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest(),
    )
    return headers


class Metadata:
    """Credentials and region: of the environment if set there, else of the instance (IMDSv2)."""

    def __init__(self) -> None:
        url = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or "http://169.254.169.254"
        self.host = url.split("://")[-1].rstrip("/")
        self.role_credentials = None  # type: Credentials | None
        self.refresh_at = 0.0
        self.known_region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""

    def credentials(self) -> Credentials:
        """Valid credentials; role credentials are fetched anew five minutes before they end."""
        key_id, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
        if key_id and secret:
            return Credentials(key_id, secret, os.environ.get("AWS_SESSION_TOKEN", ""))
        if self.role_credentials is None or time.time() >= self.refresh_at:
            try:
                self._fetch_role_credentials()
            except FAULTS:
                if self.role_credentials is None:
                    raise
                self.refresh_at = time.time() + 30  # the old ones may still do
        assert self.role_credentials is not None
        return self.role_credentials

    def forget(self) -> None:
        """Ask anew at the next call: S3 refused these credentials."""
        self.role_credentials = None

    def region(self) -> str:
        """The region to sign for."""
        if not self.known_region:
            self.known_region = self._get("placement/region").decode().strip()
        return self.known_region

    def _fetch_role_credentials(self) -> None:
        roles = "iam/security-credentials/"
        role = self._get(roles).decode().split()[0:1]
        if not role:
            raise ValueError("the instance has no role")
        found = json.loads(self._get(roles + role[0]).decode())
        self.role_credentials = Credentials(found["AccessKeyId"], found["SecretAccessKey"], found["Token"])
        self.refresh_at = max(epoch(found["Expiration"]) - 300, time.time() + 30)

    def _get(self, path: str) -> bytes:
        connection = connection_to("http", self.host)
        try:
            ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "300"}
            response, token = exchange(connection, "PUT", "/latest/api/token", ttl)
            if response.status != 200:
                raise S3Error("metadata token", response.status, token)
            with_token = {"X-aws-ec2-metadata-token": token.decode("ascii")}
            response, body = exchange(connection, "GET", "/latest/meta-data/" + path, with_token)
            if response.status != 200:
                raise S3Error("metadata " + path, response.status, body)
            return body
        finally:
            connection.close()


def epoch(moment: str) -> float:
    """Seconds of ``2026-01-31T23:59:59Z``."""
    return calendar.timegm(tuple(int(number) for number in re.findall(r"\d+", moment)[:6]))


class S3:
    """GET and PUT of whole objects over one connection that is kept while the server keeps it."""

    def __init__(self, metadata: Metadata) -> None:
        self.metadata = metadata
        self.endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        self.regions = {}  # type: dict[str, str]
        self.to = ("", "")
        self.connection = None  # type: http.client.HTTPConnection | None

    def get(self, uri: str) -> bytes:
        """The object's bytes."""
        return self._call("GET", uri, b"", {})

    def download(self, uri: str, path: str) -> str:
        """The object as a file, block by block; the SHA-256 of what was written."""
        digest = hashlib.sha256()
        self.close()  # on a kept connection a request may be sent again, and half a body with it
        with open(path, "wb") as file:

            def take(block: bytes) -> None:
                digest.update(block)
                file.write(block)

            self._call("GET", uri, b"", {}, take)
        return digest.hexdigest()

    def put(self, uri: str, body: bytes, only_if_absent: bool = False) -> None:
        """Write the whole object; S3Error 412 where there is one that may not be overwritten."""
        self._call("PUT", uri, body, {"If-None-Match": "*"} if only_if_absent else {})

    def _call(
        self,
        method: str,
        uri: str,
        body: bytes,
        more: "dict[str, str]",
        take: "collections.abc.Callable[[bytes], object] | None" = None,
    ) -> bytes:
        bucket, key = split_uri(uri)
        for last in (False, True):
            status, region, answer = self._send(method, bucket, key, body, more, take)
            if status // 100 == 2:
                return answer
            if region and region != self._region(bucket) and not last:
                self.regions[bucket] = region  # the bucket lives elsewhere; S3 says where
                continue
            if status in (400, 401, 403):
                self.metadata.forget()
            raise S3Error("{} {}".format(method, uri), status, answer)
        raise AssertionError

    def _region(self, bucket: str) -> str:
        return self.regions.get(bucket) or self.metadata.region()

    def _send(
        self,
        method: str,
        bucket: str,
        key: str,
        body: bytes,
        more: "dict[str, str]",
        take: "collections.abc.Callable[[bytes], object] | None",
    ) -> "tuple[int, str, bytes]":
        region = self._region(bucket)
        scheme, host, path = locate(self.endpoint, region, bucket, key)
        digest = hashlib.sha256(body).hexdigest()
        headers = sign(method, host, path, digest, region, self.metadata.credentials(), time.time())
        headers.update(more)
        if self.connection is None or self.to != (scheme, host):
            self.close()
            self.to, self.connection = (scheme, host), connection_to(scheme, host)
        for fresh in (False, True):
            reused = self.connection.sock is not None
            try:
                response, answer = exchange(self.connection, method, path, headers, body, take)
                break
            except BaseException as fault:
                self.connection.close()
                # A kept connection may have been closed by the server meanwhile: once more on a new one.
                if fresh or not reused or not isinstance(fault, OSError):
                    raise
        if response.status // 100 != 2:
            self.close()
        return response.status, response.getheader("x-amz-bucket-region") or "", answer

    def close(self) -> None:
        """Drop the connection."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def split_uri(uri: str) -> "tuple[str, str]":
    """Bucket and key of ``s3://bucket/key``."""
    parts = re.match(r"s3[an]?://([^/]+)/(.+)\Z", uri, re.DOTALL)
    if not parts:
        raise ValueError("no s3:// location: " + uri)
    return parts.group(1), parts.group(2)


def locate(endpoint: str, region: str, bucket: str, key: str) -> "tuple[str, str, str]":
    """Scheme, host and path: path style at an endpoint of one's own, else AWS's virtual host."""
    path = "/" + urllib.parse.quote(key, safe="/~")
    if endpoint:
        scheme, _, rest = endpoint.partition("://")
        netloc, _, prefix = rest.rstrip("/").partition("/")
        return scheme, netloc, "/{}{}{}".format(prefix + "/" if prefix else "", bucket, path)
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    if "." in bucket:  # the wildcard certificate covers one label
        return "https", "s3.{}.{}".format(region, domain), "/{}{}".format(bucket, path)
    return "https", "{}.s3.{}.{}".format(bucket, region, domain), path


# ---- output ------------------------------------------------------------------------------------


class Output:
    """Merged stdout and stderr on its way to S3. Shared by both threads; its lock is ``changed``.

    What S3 has not got yet waits in an unlinked file. Of more than ``max_bytes`` the beginning and the
    last KEPT_END_BYTES are kept, with a line between them that says how much is missing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.changed = threading.Condition()
        self.kept_end = min(max_bytes // 2, KEPT_END_BYTES)
        self.head_room = max_bytes - self.kept_end
        self.file = nameless_file()
        self.written = self.sent = self.total = self.dropped = 0
        self.end = bytearray()
        self.tail = bytearray()

    def add(self, data: bytes) -> None:
        """Take what the command wrote."""
        with self.changed:
            was_empty = self.written == self.sent
            self.total += len(data)
            self.tail += data[-TAIL_KEPT_BYTES:]
            del self.tail[:-TAIL_KEPT_BYTES]
            room = max(0, self.head_room - self.written)
            if room:
                self._write(data[:room])
            self.end += data[room:]
            excess = len(self.end) - self.kept_end
            if excess > 0:
                self.dropped += excess
                del self.end[:excess]
            if was_empty and self.written > self.sent:
                self.changed.notify_all()

    def close(self) -> None:
        """The command is over: what was held back as the end may go."""
        with self.changed:
            if self.dropped:
                self._write(b"\n[emr_executor: %d bytes of output left out here]\n" % self.dropped)
            self._write(bytes(self.end))
            del self.end[:]

    def waiting(self) -> int:
        """Bytes that S3 has not got yet."""
        return self.written - self.sent

    def peek(self, whole: bool) -> bytes:
        """The next chunk; unless ``whole``, up to its last line end if it has one."""
        with self.changed:
            data = os.pread(self.file, min(CHUNK_BYTES, self.written - self.sent), self.sent)
        cut = data.rfind(b"\n") + 1
        return data[:cut] if cut and not (whole and len(data) < CHUNK_BYTES) else data

    def took(self, count: int) -> None:
        """S3 has these."""
        with self.changed:
            self.sent += count

    def last_lines(self) -> str:
        """The tail as text of at most TAIL_BYTES, from the beginning of a line if it has several.

        Java's stack frames are left out: they would leave no room for the exceptions they belong to.
        """
        with self.changed:
            kept, cut = bytes(self.tail), self.total > len(self.tail)
        data = FRAME.sub(b"", kept)
        cut = cut or len(data) > TAIL_BYTES
        data = data[-TAIL_BYTES:]
        if cut and b"\n" in data[:-1]:
            data = data.split(b"\n", 1)[1]
        text = data.decode("utf-8", "replace").replace("\x00", "")
        while len(text.encode("utf-8")) > TAIL_BYTES:  # a replacement character is longer than one byte
            text = text[len(text) // 8 + 1 :]
        return text

    def _write(self, data: bytes) -> None:
        rest = data
        try:
            while rest:
                count = os.pwrite(self.file, rest, self.written)
                self.written += count
                rest = rest[count:]
        except OSError:  # the disk is full: the step's own log still has it
            self.dropped += len(rest)


def nameless_file() -> int:
    """A descriptor of an unlinked file; no tempfile, which costs a megabyte."""
    path = os.path.join(
        os.environ.get("TMPDIR") or "/tmp", "emr_step_wrapper-%d-%d" % (os.getpid(), time.time() * 1e6)
    )
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink(path)
    return file


# ---- records -----------------------------------------------------------------------------------


class Reporter(threading.Thread):
    """Writes chunks and records, alone with S3, until it is told how the command ended."""

    def __init__(self, s3: S3, args: "dict[str, str]", interval_s: float, output: Output) -> None:
        super().__init__(name="reporter", daemon=True)
        self.s3, self.args, self.output, self.interval_s = s3, args, output, max(0.05, interval_s)
        self.started_at = time.time()
        self.pid = os.getpid()
        self.chunks = 0
        self.applications = []  # type: list[str]
        self.ended = None  # type: tuple[int, str] | None
        self.final_record_s = setting("FINAL_RECORD_S", 30.0)

    def run(self) -> None:
        """Report as it goes, then the final record."""
        life_sign_s = min(LIFE_SIGN_S, 4 * self.interval_s)
        gap_s = self.interval_s
        chunk_at = record_at = time.monotonic()
        failures = 0
        while self.ended is None:
            now = time.monotonic()
            due = min(record_at, chunk_at) if self.output.waiting() else record_at
            if now < due:
                was_empty = not self.output.waiting()
                self._wait(due - now)
                if was_empty and self.output.waiting():  # gather what comes with the first line
                    chunk_at = max(chunk_at, time.monotonic() + min(1.0, self.interval_s / 4))
                continue
            try:
                sent = self._send_chunks(False) if now >= chunk_at else 0
                self._write_record("RUNNING", None, "")
                failures = 0
                now = time.monotonic()
                record_at = now + life_sign_s
                if sent:
                    gap_s = min(gap_s * 2, 4 * self.interval_s) if sent < QUIET_BYTES else self.interval_s
                    chunk_at = now + gap_s
            except FAULTS as fault:
                failures += 1
                if failures & (failures - 1) == 0:
                    say("S3 refuses output or records, time %d: %s" % (failures, fault))
                spread = 1 + self.pid % 50 / 100
                pause = min(30.0, min(1.0, self.interval_s) * 2 ** min(failures, 5)) * spread
                chunk_at = record_at = time.monotonic() + pause
        self._final_record(*self.ended)

    def finish(self, code: int, reason: str) -> None:
        """Say how the command ended, and wait until S3 knows it or the time for that is up."""
        self.output.close()
        with self.output.changed:
            self.ended = (code, reason)
            self.output.changed.notify_all()
        self.join(self.final_record_s + 2 * HTTP_TIMEOUT_S)

    def _wait(self, seconds: float) -> None:
        with self.output.changed:
            if self.ended is None:
                self.output.changed.wait(seconds)

    def _final_record(self, code: int, reason: str) -> None:
        """The rest of the output and the last record; toward the end of the time, the record alone."""
        deadline = time.monotonic() + self.final_record_s
        pause = 0.25
        while True:
            try:
                if deadline - time.monotonic() > self.final_record_s / 3:
                    self._send_chunks(True)
                self._write_record("ENDED", code, reason)
                return
            except FAULTS as fault:
                left = deadline - time.monotonic()
                if left <= 0:
                    say(f"S3 did not take the last record: {fault}")
                    return
            time.sleep(min(pause, left))
            pause = min(pause * 2, 5.0)

    def _send_chunks(self, whole: bool) -> int:
        sent = 0
        while self.output.waiting():
            data = self.output.peek(whole)
            if not data:
                break
            key = "output/{cluster}/{submission}/{0:06d}".format(self.chunks + 1, **self.args)
            self.s3.put(self.args["records"] + key, data)
            self.chunks += 1
            self.output.took(len(data))
            sent += len(data)
            if not whole and self.output.waiting() < CHUNK_BYTES:
                break
        return sent

    def _write_record(self, phase: str, code: "int | None", reason: str) -> None:
        record = {
            "v": 1,
            "submission": self.args["submission"],
            "cluster": self.args["cluster"],
            "phase": phase,
            "at": time.time(),
            "started_at": self.started_at,
            "pid": self.pid,
            "exit_code": code,
            "reason": reason,
            "chunks": self.chunks,
            "tail": self.output.last_lines(),
            "yarn_applications": self.applications[-20:],
        }
        key = "state/{}/{}".format(self.args["cluster"], self.args["submission"])
        self.s3.put(self.args["records"] + key, json.dumps(record).encode())


# ---- YARN --------------------------------------------------------------------------------------

FLAGS = ("--verbose", "-v", "--supervise", "--help", "-h", "--version", "--usage-error")
"""Options of spark-submit that take no value."""


def tagged(command: "list[str]", tags: "list[str]") -> "tuple[list[str], str]":
    """The command with YARN tags added, and its deploy mode: '' when it is no spark-submit."""
    if os.path.basename(command[0]) != "spark-submit":
        return command, ""
    kept, old, mode = [], "", "client"
    i = 1
    while i < len(command) and command[i].startswith("-"):
        name, mark, value = command[i].partition("=")
        width = 1 if mark or name in FLAGS else 2
        words = command[i : i + width]
        value = value if mark else "".join(words[1:])
        i += width
        if name in ("--conf", "-c") and value.startswith("spark.yarn.tags="):
            old = value.partition("=")[2]
            continue
        if name == "--deploy-mode":
            mode = value or mode
        elif name in ("--conf", "-c") and value.startswith("spark.submit.deployMode="):
            mode = value.partition("=")[2]
        kept += words
    merged = [tag.strip() for tag in old.split(",") if tag.strip()]
    merged += [tag for tag in tags if tag not in merged]
    return [command[0], "--conf", "spark.yarn.tags=" + ",".join(merged), *kept, *command[i:]], mode


def yarn(*args: str) -> bytes:
    """What a yarn command prints; empty when there is none, it fails, or takes longer than YARN_S."""
    try:
        child = subprocess.Popen(
            ("yarn", *args),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return b""
    try:
        return child.communicate(timeout=setting("YARN_S", YARN_S))[0]
    except subprocess.TimeoutExpired:
        kill_session(child.pid)
        child.wait()
        return b""


def kill_applications(tag: str, seen: "list[str]") -> None:
    """Kill this step's YARN applications that are not over: those with its tag, else those it spoke of."""
    states = "NEW,NEW_SAVING,SUBMITTED,ACCEPTED,RUNNING"
    listed = yarn("application", "-list", "-appTags", tag, "-appStates", states)
    alive = [name.decode() for name in LISTED.findall(listed)] if listed else list(seen)
    seen += [name for name in alive if name not in seen]
    if alive:
        say(f"killing {', '.join(alive)}")
        yarn("application", "-kill", *alive)


def driver_log(applications: "list[str]") -> bytes:
    """The end of the driver's container log in cluster mode, where its output does not pass through us."""
    if not applications:
        return b""
    return yarn(
        "logs", "-applicationId", applications[-1], "-am", "1", "-log_files", "stdout", "-size", "-65536"
    )


# ---- the command -------------------------------------------------------------------------------


def kill_session(session: int) -> None:
    """SIGKILL to a process group and to all of its session, whatever group they moved to."""
    members = []
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit():
            try:
                with open("/proc/{}/stat".format(name), "rb") as stat:
                    if int(stat.read().rpartition(b")")[2].split()[3]) == session:
                        members.append(int(name))
            except (OSError, ValueError, IndexError):
                continue
    send(session, signal.SIGKILL)
    for pid in members:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def send(group: int, what: int) -> bool:
    """Signal a process group; False when nobody is left in it."""
    try:
        os.killpg(group, what)
    except OSError:
        return False
    return True


class EarlyEnd(Exception):
    """The command never ran: exit code, reason, and what to say."""


class Command:
    """The command in its own session, and the one loop of the main thread that waits for it."""

    def __init__(self) -> None:
        self.child = None  # type: subprocess.Popen[bytes] | None
        self.interruptible = True
        self.reason = ""
        self.asked = 0
        self.answered = 0
        self.kill_at = None  # type: float | None
        self.kills = 0
        self.passing = True
        self.listen_at = self.burst_until = 0.0
        self.applications = []  # type: list[str]
        self.before = b""
        self.parent = os.getppid()
        self.wakeup, wakeup_in = os.pipe()
        os.set_blocking(self.wakeup, False)
        os.set_blocking(wakeup_in, False)
        signal.set_wakeup_fd(wakeup_in)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._asked_to_stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # ends the select

    def _asked_to_stop(self, *_: object) -> None:
        self.asked += 1
        if self.interruptible:
            raise EarlyEnd(TERMINATED_CODE, "terminated", "terminated before the command started")

    def start(self, argv: "list[str]", env: "dict[str, str]") -> None:
        """Start it. Raises EarlyEnd when it cannot be started."""
        self.interruptible = False
        full = dict(os.environ)
        full.update(env)
        try:
            self.child = subprocess.Popen(
                argv,
                env=full,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                bufsize=0,
            )
        except OSError as fault:
            is_absent = isinstance(fault, FileNotFoundError)
            code = NOT_FOUND_CODE if is_absent else NOT_RUNNABLE_CODE
            reason = "command_not_found" if is_absent else "command_not_runnable"
            raise EarlyEnd(code, reason, "cannot start {}: {}".format(argv[0], fault)) from fault

    def wait(self, output: Output, timeout_s: "float | None") -> int:
        """Its exit code, once it is over and its output is read; at the deadline it is killed."""
        assert self.child is not None
        assert self.child.stdout is not None
        pipe = self.child.stdout.fileno()
        deadline = time.monotonic() + timeout_s if timeout_s else None
        busy_at = time.monotonic()
        over_at = None  # type: float | None
        is_open = True
        while True:
            now = time.monotonic()
            if now >= busy_at:
                mark_busy()
                busy_at = now + BUSY_S
            code = self.child.poll()
            if code is None or self.reason:  # what ended by itself is not terminated any more
                self._stop_if_due(now, deadline)
            if code is not None:
                if over_at is None and code and not self.reason:
                    kill_session(self.child.pid)  # what outlives a failure is not waited for
                over_at = over_at or now
                if self.reason and (self.kills > 3 or not send(self.child.pid, 0)):
                    break
                if not self.reason and (not is_open or now >= over_at + DRAIN_S):
                    break
            listens = is_open and (now >= self.listen_at or code is not None)
            timers = [busy_at, now + PARENT_LOOK_S, self.kill_at or deadline, code is not None and now + 0.1]
            timers.append(is_open and not listens and self.listen_at)
            pause = max(0.0, min(timer for timer in timers if timer) - now)
            ready = select.select([self.wakeup] + [pipe] * listens, [], [], pause)[0]
            if self.wakeup in ready:
                os.read(self.wakeup, 4096)
            if pipe in ready:
                data = os.read(pipe, 65536)
                is_open = self.take(data, output)
                self._gather(time.monotonic(), len(data))
        self._drain(pipe, output)
        self.child.stdout.close()
        return code if code >= 0 else 128 - code

    def _gather(self, now: float, count: int) -> None:
        """A driver that writes line by line shall not wake us for each; one that writes much is not held."""
        if count >= BURST_BYTES:
            self.burst_until = now + BURST_S
        if now >= self.burst_until:
            self.listen_at = now + GATHER_S

    def _stop_if_due(self, now: float, deadline: "float | None") -> None:
        assert self.child is not None
        if self.parent != 1 and os.getppid() != self.parent:
            # script-runner's Java process is gone, whether or not it passed its signal on.
            self.parent = 1
            self.asked += 1
        if self.asked > self.answered:
            self.kill_at = now if self.reason else now + setting("GRACE_S", 10.0)
            self.reason = self.reason or "terminated"
            self.answered = self.asked
            send(self.child.pid, signal.SIGTERM)
        elif deadline is not None and now >= deadline and not self.reason:
            self.reason = "timeout"
            self.kill_at = now + setting("GRACE_S", 10.0)
            send(self.child.pid, signal.SIGTERM)
        if self.kill_at is not None and now >= self.kill_at:
            kill_session(self.child.pid)
            self.kills += 1  # the dead may stay listed where nobody reaps them
            self.kill_at = now + 0.5

    def take(self, data: bytes, output: Output) -> bool:
        """Hand output on; False at its end."""
        if not data:
            return False
        rest = data
        while self.passing and rest:
            try:
                rest = rest[os.write(1, rest) :]
            except OSError:
                self.passing = False
        for found in SUBMITTED.findall(self.before + data):
            if found.decode() not in self.applications:
                self.applications.append(found.decode())
        self.before = data[-80:]
        output.add(data)
        return True

    def _drain(self, pipe: int, output: Output) -> None:
        """What is in the pipe already, and no more: a background process may hold it open."""
        for _ in range(64):
            if not select.select([pipe], [], [], 0)[0] or not self.take(os.read(pipe, 65536), output):
                return


def mark_busy() -> None:
    """EMR's auto-termination does not see work outside YARN; this file, kept fresh, is how to tell it."""
    path = os.environ.get("EMR_STEP_WRAPPER_BUSY_MARKER") or "/emr/metricscollector/isbusy"
    with contextlib.suppress(OSError):
        if os.path.isdir(os.path.dirname(path)):
            with open(path, "ab"):
                os.utime(path, None)


# ---- all together ------------------------------------------------------------------------------


def arguments(argv: "list[str]") -> "dict[str, str]":
    """The four options by name; no argparse, which costs a megabyte."""
    args = {name[2:]: value for name, value in zip(argv[::2], argv[1::2]) if name.startswith("--")}
    if len(argv) % 2 or sorted(args) != ["cluster", "records", "spec", "submission"]:
        sys.exit("usage: emr_step_wrapper.py --spec URI --records URI/ --cluster UUID --submission ID")
    return args


def patiently(what: str, attempt: "collections.abc.Callable[[], bytes]") -> bytes:
    """What ``attempt`` returns, tried for a while: nothing can run without it. Raises one of FAULTS."""
    deadline = time.monotonic() + setting("SPEC_S", 60.0)
    pause = 0.5
    while True:
        try:
            return attempt()
        except FAULTS as fault:
            if time.monotonic() + pause > deadline:
                raise
            say("{}, yet: {}".format(what, fault))
        time.sleep(pause)
        pause = min(2 * pause, 10.0)


def claim_holder(s3: S3, args: "dict[str, str]") -> str:
    """Which other step holds the submission's claim; '' when this process does. Raises one of FAULTS.

    A claim is never given back: a step that EMR was asked for twice may begin when the first is long over.
    """
    uri = "{records}claims/{cluster}/{submission}".format(**args)
    # EMR starts each step in a folder that is named after it.
    step = os.path.basename(os.getcwd()) or "?"
    claim = json.dumps({"v": 1, "step": step, "nonce": os.urandom(16).hex()}).encode()

    def attempt() -> bytes:
        try:
            s3.put(uri, claim, only_if_absent=True)
        except S3Error as fault:
            if fault.status != 412:
                raise
            return s3.get(uri)  # ours after all, when the answer to an earlier attempt got lost
        return claim

    held = patiently("the submission cannot be claimed", attempt)
    return "" if held == claim else str(json.loads(held.decode())["step"])


def read_spec(s3: S3, uri: str) -> "dict[str, object]":
    """The spec as it was staged. Raises one of FAULTS."""
    parts = SPEC.match(uri)
    if not parts:
        raise ValueError("the name of the step's spec is no digest: " + uri)
    text = patiently("the step's spec cannot be read", lambda: s3.get(uri))
    as_staged(uri, parts.group(1), hashlib.sha256(text).hexdigest())
    return json.loads(text.decode())


def as_staged(uri: str, named: str, found: str) -> None:
    """Raises ValueError for content that is not what the object's name says."""
    if named != found:
        raise ValueError("{} was changed after it was staged: its SHA-256 is {}".format(uri, found))


class Staged:
    """Files of the staging area that the command names, in a folder of this step."""

    def __init__(self, s3: S3) -> None:
        self.s3 = s3
        self.folder = os.path.join(os.getcwd(), "emr_step_wrapper-%d" % os.getpid())

    def path_of(self, uri: str) -> str:
        """A path of the staged file, under its own name, which has been read and checked. Raises FAULTS."""
        parts = STAGED.match(uri)
        if not parts:
            raise ValueError("the name of a staged file is no digest: " + uri)
        digest, name = parts.groups()
        path = os.path.join(self.folder, digest, name)
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        got = patiently(uri + " cannot be read", lambda: self.s3.download(uri, path).encode())
        as_staged(uri, digest, got.decode())
        return path

    def remove(self) -> None:
        """Spark has uploaded them where its executors and a cluster mode driver find them."""
        for folder, _, names in os.walk(self.folder, topdown=False):
            with contextlib.suppress(OSError):
                for name in names:
                    os.unlink(os.path.join(folder, name))
                os.rmdir(folder)


def checked(spec: "dict[str, object]") -> "tuple[list[str], dict[str, str], float | None, float, int]":
    """Command, environment, timeout, interval and output bound. Raises ValueError."""
    try:
        if spec["v"] != 1:
            raise ValueError("its version is {!r}".format(spec["v"]))
        command = [str(word) for word in spec["command"]]  # type: ignore[attr-defined]
        env = {str(name): str(value) for name, value in (spec.get("env") or {}).items()}  # type: ignore[attr-defined]
        out = spec.get("output") or {}
        timeout_s = float(spec["timeout_s"]) if spec.get("timeout_s") else None  # type: ignore[arg-type]
        numbers = float(out.get("interval_s", 15)), int(out.get("max_bytes", 1 << 24))  # type: ignore[attr-defined]
    except (KeyError, TypeError, AttributeError, ValueError) as fault:
        raise ValueError("the step's spec is not usable: {}".format(fault)) from fault
    if not command:
        raise ValueError("the step's spec is not usable: its command is empty")
    return command, env, timeout_s, numbers[0], numbers[1]


def main(argv: "list[str]") -> int:
    """Run the step; see the module's first lines for the exit codes."""
    args = arguments(argv)
    args["records"] = args["records"].rstrip("/") + "/"
    s3 = S3(Metadata())
    staged = Staged(s3)
    try:
        return run_step(Command(), s3, args, staged)
    finally:
        staged.remove()


def run_step(command: Command, s3: S3, args: "dict[str, str]", staged: Staged) -> int:
    """Claim the submission, get what was staged, start the command and see it through."""
    is_claimed = False
    try:
        other = claim_holder(s3, args)
        if other:
            say("submission {submission} was begun before, by step {0}: nothing to do".format(other, **args))
            return CLAIMED_CODE
        is_claimed = True
        spec = read_spec(s3, args["spec"])
        words, env, timeout_s, interval_s, max_bytes = checked(spec)
        for uri in sorted(map(str, spec.get("staged") or ()), key=len, reverse=True):  # type: ignore[call-overload]
            path = staged.path_of(uri)
            words = [word.replace(uri, path) for word in words]
            env = {name: value.replace(uri, path) for name, value in env.items()}
        words, mode = tagged(words, [str(spec.get("yarn_tag_prefix") or "airflow-emr"), args["submission"]])
        reporter = Reporter(s3, args, interval_s, Output(max_bytes))
        reporter.applications = command.applications
        command.start(words, env)
    except EarlyEnd as end:
        return early_end(command, s3, args, *end.args, is_claimed=is_claimed)
    except FAULTS as fault:
        # Of S3, the network or the disk: it may well begin elsewhere.
        is_circumstance = isinstance(fault, OSError) or getattr(fault, "status", 0) >= 500
        reason = "not_begun" if is_circumstance else "no_spec"
        return early_end(command, s3, args, NO_SPEC_CODE, reason, str(fault), is_claimed=is_claimed)
    reporter.start()
    return follow(command, reporter, timeout_s, mode)


def follow(command: Command, reporter: Reporter, timeout_s: "float | None", mode: str) -> int:
    """Wait for the started command, clean up behind it, report, and return our exit code."""
    assert command.child is not None
    code, reason = 70, "wrapper_error"
    try:
        code = command.wait(reporter.output, timeout_s)
        reason = command.reason
        code = {"terminated": TERMINATED_CODE, "timeout": DEADLINE_CODE}.get(reason, code)
    finally:
        if code:
            kill_session(command.child.pid)
            if mode or command.applications:
                kill_applications(reporter.args["submission"], command.applications)
        if mode == "cluster" and reason != "terminated":
            command.take(driver_log(command.applications), reporter.output)
        reporter.finish(code, reason)
    return code


def early_end(
    command: Command, s3: S3, args: "dict[str, str]", code: int, reason: str, text: str, *, is_claimed: bool
) -> int:
    """The command never ran: say so on stderr, and in the record if that is certainly ours."""
    command.interruptible = False
    say(text)
    if not is_claimed:
        return code
    output = Output(1 << 16)
    output.add(text.encode("utf-8", "replace") + b"\n")
    reporter = Reporter(s3, args, 1.0, output)
    reporter.ended = (code, reason)
    reporter.start()
    reporter.finish(code, reason)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
