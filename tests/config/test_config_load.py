"""The options become settings, or one error that names everything wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from emr_executor.config import OPTIONS, AwsAccess, ClusterPool, Settings, duration_s
from emr_executor.config_load import load_settings, load_settings_from
from emr_executor.errors import ConfigError
from tests.config.test_cluster_template import TEMPLATE


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(TEMPLATE))
    return tmp_path


def load(home: Path, *, heartbeat_timeout_s: float | None = None, **options: str) -> Settings:
    minimal = {"cluster_template": "cluster.yaml", "staging_uri": "s3://bucket/airflow/"}
    raw = {name: text for name, text in {**minimal, **options}.items() if text != "-"}
    return load_settings_from(
        raw, source="airflow.cfg", base_dir=home, airflow_heartbeat_timeout_s=heartbeat_timeout_s
    )


def problems(home: Path, **options: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(home, **options)
    return caught.value.problems


def test_two_options_are_enough(home: Path) -> None:
    assert load(home) == Settings(
        staging_uri="s3://bucket/airflow/", cluster_pools=(ClusterPool(template=TEMPLATE),), aws=AwsAccess()
    )


WRITTEN: dict[str, tuple[str, object]] = {
    "queue": ("emr, emr-nightly", ("emr", "emr-nightly")),
    "cluster_template": ("cluster.yaml", TEMPLATE),
    "staging_uri": ("s3://bucket/airflow", "s3://bucket/airflow/"),
    "max_clusters": ("4", 4),
    "min_clusters": ("1", 1),
    "idle_timeout": ("10m", 600),
    "queue_timeout": ("2h", 7200),
    "max_submissions": ("5", 5),
    "prefetch": ("3", 3),
    "deploy_mode": ("cluster", "cluster"),
    "yarn_queue": ("nightly", "nightly"),
    "launch_unknown_timeout": ("4m", 240),
    "aws_conn_id": ("aws_default", "aws_default"),
    "region_name": ("eu-west-1", "eu-west-1"),
    "endpoint_url": ("http://127.0.0.1:5555", "http://127.0.0.1:5555"),
    "similar_queue": ("refuse", "refuse"),
    "agent": ("service", "service"),
    "agent_hang_timeout": ("5", 5),
    "task_runner_parallelism": ("8", 8),
    "task_heartbeat_interval": ("30", 30),
    "lease_timeout": ("10s", 10),
    "claim_timeout": ("20s", 20),
    "output_interval": ("5", 5),
    "output_max_size": ("2 MiB", 2 * 1024 * 1024),
    "records_interval": ("0.5", 0.5),
    "step_poll_interval": ("1m", 60),
    "cluster_poll_interval": ("7", 7),
    "loss_hold": ("2m", 120),
    "tick_interval": ("0.5", 0.5),
    "finish_attempts": ("9", 9),
    "refusal_hold": ("1h", 3600),
    "keep_history": ("2d", 172_800),
    "keep_staging": ("0", 0),
}


def test_every_option_reaches_its_field(home: Path) -> None:
    settings = load(home, **{name: text for name, (text, _) in WRITTEN.items()})
    parts = {"Settings": settings, "ClusterPool": settings.cluster_pools[0], "AwsAccess": settings.aws}
    found = {option.name: getattr(parts[option.part], option.field) for option in OPTIONS}
    assert found == {name: value for name, (_, value) in WRITTEN.items()}


def test_defaults_written_for_people_are_those_of_the_fields(home: Path) -> None:
    spelled_out = {option.name: option.default for option in OPTIONS if option.default is not None}
    assert load(home, **spelled_out) == load(home)


def test_every_field_has_an_option() -> None:
    not_written = {
        ClusterPool: {"name"},
        Settings: {"aws", "cluster_pools", "task_heartbeat_timeout_s"},
        AwsAccess: set[str](),
    }
    for part, without in not_written.items():
        written = {option.field for option in OPTIONS if option.part == part.__name__}
        assert written == set(part.model_fields) - without


def test_all_problems_come_at_once_with_value_and_source(home: Path) -> None:
    found = problems(
        home,
        staging_uri="-",
        max_clusters="0",
        idle_timeout="soon",
        deploy_mode="local",
        max_cluster="3",
        task_runner_parallelism="many",
    )
    text = "\n".join(found)
    assert len(found) == 6
    assert "[emr_executor] max_cluster = 3 (airflow.cfg): no such option; did you mean max_clusters?" in text
    assert "staging_uri is not set (airflow.cfg): it must be, for example" in text
    assert "max_clusters = 0 (airflow.cfg): it must be greater than or equal to 1." in text
    assert "idle_timeout = soon (airflow.cfg): it must be seconds" in text
    assert "deploy_mode = local (airflow.cfg): it must be 'client' or 'cluster'." in text
    assert "task_runner_parallelism = many (airflow.cfg): it must be a whole number." in text


def test_an_option_that_cannot_be_read_hides_no_other_problem(home: Path) -> None:
    """Nor does it cause one: min_clusters is not judged by a max_clusters that cannot be used."""
    (home / "cluster.yaml").write_text(yaml.safe_dump({**TEMPLATE, "StepConcurrencyLevel": 300}))
    found = problems(
        home, max_clusters="0", min_clusters="2", staging_uri="/tmp/x", aws_conn_id="c", keep_history="1h"
    )
    told = [problem.removeprefix("[emr_executor] ").split()[0] for problem in found]
    assert sorted(told) == ["cluster_template", "keep_history", "max_clusters", "staging_uri"]


@pytest.mark.parametrize("level", [300, 0, "four", [4], None, True])
def test_a_wrong_level_of_step_concurrency_names_itself_alone(home: Path, level: object) -> None:
    (home / "cluster.yaml").write_text(yaml.safe_dump({**TEMPLATE, "StepConcurrencyLevel": level}))
    (problem,) = problems(home)
    assert "StepConcurrencyLevel" in problem
    assert "prefetch" not in problem


def test_prefetch_that_nobody_set_fits_beside_the_slots(home: Path) -> None:
    (home / "cluster.yaml").write_text(yaml.safe_dump({**TEMPLATE, "StepConcurrencyLevel": 255}))
    assert load(home).cluster_pools[0].prefetch == 1
    assert "prefetch = 2 " in problems(home, prefetch="2")[0]


def test_a_comment_behind_a_value_is_told_as_one(home: Path) -> None:
    (problem,) = problems(home, max_clusters="4    # never more")
    assert problem == (
        "[emr_executor] max_clusters = 4    # never more (airflow.cfg): it must be a whole number. "
        "Airflow takes no comment behind a value: give it a line of its own."
    )


@pytest.mark.parametrize("default_queue", ["EMR", "emrr", " emr"])
def test_a_default_queue_that_is_nearly_ours_is_refused(home: Path, default_queue: str) -> None:
    raw = {"cluster_template": "cluster.yaml", "staging_uri": "s3://bucket/airflow/", "queue": " emr "}
    with pytest.raises(ConfigError) as caught:
        load_settings_from(raw, source="airflow.cfg", base_dir=home, default_queue=default_queue)
    assert caught.value.problems == (
        (
            "[emr_executor] queue = emr (airflow.cfg): emr is nearly [operators] default_queue "
            f"({default_queue}), whose tasks another executor runs: write both alike, or rename one."
        ),
    )
    for other in ("default", "emr", "spark"):
        settings = load_settings_from(raw, base_dir=home, default_queue=other)
        assert settings.cluster_pools[0].queues == ("emr",)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"staging_uri": "s3://bucket"}, "staging_uri = s3://bucket "),
        ({"staging_uri": "/tmp/staging"}, "it must be s3://bucket/prefix/"),
        ({"endpoint_url": "localhost:5000"}, "it must be http://host:port"),
        ({"min_clusters": "3", "max_clusters": "2"}, "it must not exceed max_clusters (2)"),
        ({"prefetch": "253"}, "it must not exceed 252"),
        ({"queue": "emr,"}, "an empty name"),
        ({"queue": "emr,emr"}, "each name may stand there once"),
        ({"queue": "emr,EMR"}, "two of the names differ in case only, which are two queues to Airflow"),
        ({"output_max_size": "1 TB"}, "bytes, or a whole number with KiB"),
        ({"keep_history": "1h"}, "it must be at least 1d, or 0 to keep for ever"),
        (
            {"keep_staging": "6d"},
            "at least 7d, on which deployments with the same staging_uri rely",
        ),
        ({"cluster_template": "absent.yaml"}, "absent.yaml cannot be read: No such file"),
    ],
)
def test_what_cannot_work_is_refused(home: Path, options: dict[str, str], expected: str) -> None:
    found = problems(home, **options)
    assert len(found) == 1
    assert expected in found[0]


def test_heartbeats_must_be_well_within_airflows_timeout(home: Path) -> None:
    assert load(home, heartbeat_timeout_s=180).task_heartbeat_interval_s == 60
    with pytest.raises(ConfigError, match="at most 59 s, a third of"):
        load(home, heartbeat_timeout_s=177)


def test_own_auto_termination_must_leave_room_for_the_idle_timeout(home: Path) -> None:
    (home / "cluster.yaml").write_text(
        yaml.safe_dump({**TEMPLATE, "AutoTerminationPolicy": {"IdleTimeout": 300}})
    )
    assert "it must be below the IdleTimeout" in problems(home, idle_timeout="300")[0]


def test_environment_variables_count_and_are_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__EMR_EXECUTOR__CLUSTER_TEMPLATE", str(home / "cluster.yaml"))
    monkeypatch.setenv("AIRFLOW__EMR_EXECUTOR__STAGING_URI", "s3://bucket/airflow/")
    monkeypatch.setenv("AIRFLOW__EMR_EXECUTOR__MAX_CLUSTERS", "7")
    assert load_settings().cluster_pools[0].max_clusters == 7
    monkeypatch.setenv("AIRFLOW__EMR_EXECUTOR__MAX_CLUSTERS", "none")
    with pytest.raises(
        ConfigError, match=r"max_clusters = none \(environment variable AIRFLOW__EMR_EXECUTOR__MAX_CLUSTERS\)"
    ):
        load_settings()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("1.5m", 90), ("2 h", 7200), ("1d", 86400), ("0.25", 0.25)],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds
