"""Which arguments name files on this host, and where those are."""

from __future__ import annotations

from pathlib import Path

import pytest

from emr_executor.errors import StagingFailed
from emr_executor.task.local_files import LocalFiles
from emr_executor.task.properties import properties_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("dags/a.py", "bundle/a.py", "bundle/b.py", "bundle/c d.zip"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def found(folder: Path, argument: str, value: str) -> str:
    """The value with real paths where the tokens stand."""
    files = LocalFiles([str(folder / "dags"), str(folder / "bundle")])
    text = files.many(argument, value)
    for file in files.files:
        assert file.argument == argument
        text = text.replace(file.token, str(Path(file.path).relative_to(folder)))
    return text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a.py", "dags/a.py"),
        ("b.py", "bundle/b.py"),
        ("a.py,b.py#mod", "dags/a.py,bundle/b.py#mod"),
        (" a.py , ,b.py ", "dags/a.py,bundle/b.py"),
        (
            "s3://x/y.py,hdfs:///z#q,local:/opt/l.jar,a.py",
            "s3://x/y.py,hdfs:///z#q,local:/opt/l.jar,dags/a.py",
        ),
        ("{root}/bundle/b.py", "bundle/b.py"),
        ("file://{root}/bundle/c%20d.zip#alias", "bundle/c d.zip#alias"),
        ("file:{root}/bundle/b.py", "bundle/b.py"),
        ("*.py", "dags/a.py"),
        ("{root}/bundle/*.py", "bundle/a.py,bundle/b.py"),
    ],
)
def test_local_paths_are_found_and_others_stay(folder: Path, value: str, expected: str) -> None:
    assert found(folder, "py_files", value.replace("{root}", str(folder))) == expected


@pytest.mark.parametrize("value", ["absent.py", "/absent.py", "*.jar", "file:///absent.py"])
def test_a_missing_file_is_refused_with_its_argument_and_the_way_out(folder: Path, value: str) -> None:
    with pytest.raises(StagingFailed, match=r"jars: .* is not on this host .*local:/path"):
        found(folder, "jars", value)


def test_a_folder_is_refused(folder: Path) -> None:
    with pytest.raises(StagingFailed, match=r"archives: .* is no file; name a file, or zip the folder"):
        found(folder, "archives", str(folder / "dags"))


def test_a_file_named_twice_is_staged_once(folder: Path) -> None:
    files = LocalFiles([str(folder / "dags")])
    assert files.one("application", "a.py") == files.many("py_files", "a.py")
    assert len(files.files) == 1


def test_class_path_entries_that_are_no_file_here_are_the_clusters(folder: Path) -> None:
    files = LocalFiles([str(folder / "dags")])
    assert files.existing("driver_class_path", "/usr/lib/hadoop/*") is None
    assert files.existing("driver_class_path", "s3://x/y.jar") is None
    assert files.existing("driver_class_path", "a.py") == files.files[0].token


def test_properties_are_read_as_java_reads_them() -> None:
    lines = (
        "# comment",
        "! comment",
        "",
        "spark.a 1",
        "spark.b=2 = 3",
        "  spark.c : x\\",
        "     y",
        r"spark.d=tab\tA\u0042\=",
        "spark.e",
        "spark.f=last\\",
    )
    assert properties_of("\n".join(lines)) == {
        "spark.a": "1",
        "spark.b": "2 = 3",
        "spark.c": "xy",
        "spark.d": "tab\tAB=",
        "spark.e": "",
        "spark.f": "last",
    }
