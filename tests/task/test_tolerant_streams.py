"""Output on a disk that is full: lines are dropped, nothing is raised, and later lines are written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from emr_executor.tolerant_streams import LossyFile

TALKS = """
import resource, sys
from emr_executor.tolerant_streams import make_standard_streams_lossy
make_standard_streams_lossy()
import structlog, logging
log = structlog.wrap_logger(structlog.WriteLogger())
logging.basicConfig(stream=sys.stdout)
resource.setrlimit(resource.RLIMIT_FSIZE, (3, resource.RLIM_INFINITY))
print("abcdef")
log.warning("dropped")
logging.warning("dropped, too")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print("again")
"""


def test_a_process_goes_on_while_its_output_cannot_be_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with out.open("wb") as file:
        done = subprocess.run([sys.executable, "-c", TALKS], stdout=file, stderr=subprocess.PIPE, check=True)
    assert done.stderr == b""
    assert out.read_text() == "abc\nagain\n"


def test_a_full_device_takes_nothing_and_raises_nothing() -> None:
    file = LossyFile(lambda: os.open("/dev/full", os.O_WRONLY))
    assert file.write(b"line\n") == 5
    file.close()


def test_a_file_that_could_not_be_opened_is_opened_when_it_can(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "log"
    file = LossyFile(lambda: os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT))
    file.write(b"lost\n")
    path.parent.mkdir()
    file.write(b"kept\n")
    file.close()
    assert path.read_bytes() == b"kept\n"
