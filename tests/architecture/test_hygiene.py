"""What every file of the repository keeps to."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES = 400
LONGER = {"emr_executor/wrapper/emr_step_wrapper.py": "one file, because a cluster downloads it as one"}

MACHINE_PATH = re.compile(r"(?<![\w.-])/(?:work|root|opt/dev|home/\w+|Users/\w+)(?=[/\s'\"]|$)")
INDEX_HOST = re.compile(r"--(?:extra-)?index-url|pythonhosted|/simple/|artifactory|//pypi\.", re.IGNORECASE)


def tracked() -> list[Path]:
    """Files that a commit would hold: tracked, or new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in files if path.is_file() and path != Path(__file__)]


FILES = tracked()
PYTHON = [path for path in FILES if path.suffix == ".py"]


def offending(pattern: re.Pattern[str]) -> list[str]:
    found = []
    for path in FILES:
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    return found


def test_no_path_of_one_machine() -> None:
    assert offending(MACHINE_PATH) == []


def test_no_address_of_a_package_index() -> None:
    assert offending(INDEX_HOST) == []


def test_files_stay_small() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in PYTHON
        if (count := len(path.read_text().splitlines())) > MAX_LINES
        and str(path.relative_to(ROOT)) not in LONGER
    }
    assert long == {}


@pytest.mark.parametrize(
    "path",
    [p for p in PYTHON if ROOT / "emr_executor" in p.parents],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_public_modules_say_what_they_are(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not tree.body or ast.get_docstring(tree), "the module needs a docstring"


def test_the_constraints_pin_versions_and_nothing_else() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines == sorted(lines)
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
