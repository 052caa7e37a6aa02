from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from emr_executor.aws import layout
from emr_executor.aws.step import new_step, step_name, submission_of_step_name
from emr_executor.config import EMR_STEP_CHARACTERS
from emr_executor.core.model import ClusterUuid, StepPlan, SubmissionId, TaskKey, Workload
from emr_executor.errors import Bug, ConfigError, StepTooLong
from tests.builders import make_workload

C, S = ClusterUuid("c-uuid"), SubmissionId("w-uuid-1")
DAY = "2026-01-03"
SHA = "0123456789abcdef" * 4


def workload(step: StepPlan | None, *, dag_id: str = "salaries", map_index: int = -1) -> Workload:
    key = TaskKey(dag_id=dag_id, task_id="average", run_id="r", try_number=1, map_index=map_index)
    return make_workload(key=key, step=step)


PLAN = StepPlan(
    command=("spark-submit",), spec_uri="s3://b/af/specs/1.json", wrapper_uri="s3://b/af/wrapper/1/w.py"
)


def test_step_starts_the_wrapper_by_script_runner() -> None:
    step = new_step(workload(PLAN, map_index=3), S, C, records_uri="s3://b/af/dep/", region="eu-west-1")
    assert step.name == "airflow-emr/w-uuid-1/salaries.average[3]"
    assert step.jar == "s3://eu-west-1.elasticmapreduce/libs/script-runner/script-runner.jar"
    assert " ".join(step.args) == (
        "s3://b/af/wrapper/1/w.py --spec s3://b/af/specs/1.json --records s3://b/af/dep/"
        " --cluster c-uuid --submission w-uuid-1"
    )


def test_step_name_is_cut_and_still_carries_the_submission() -> None:
    name = step_name(workload(PLAN, dag_id="d" * 300), S)
    assert len(name) == 256
    assert submission_of_step_name(name) == S


@pytest.mark.parametrize(
    "name", ["", "airflow-emr/", "airflow-emr/w-1", "airflow-emr//x", "Setup hadoop debugging"]
)
def test_other_peoples_steps_carry_no_submission(name: str) -> None:
    assert submission_of_step_name(name) is None


def test_step_beyond_emrs_bound_is_refused() -> None:
    with pytest.raises(StepTooLong, match="staging_uri"):
        new_step(workload(PLAN), S, C, records_uri="s3://b/" + "x" * EMR_STEP_CHARACTERS, region="eu-west-1")


def test_workload_that_is_not_prepared_has_no_step() -> None:
    with pytest.raises(Bug):
        new_step(workload(None), S, C, records_uri="s3://b/", region="eu-west-1")


@pytest.mark.parametrize(
    ("staging_uri", "uri"),
    [
        ("s3://b", "s3://b/specs/x"),
        ("s3://b/", "s3://b/specs/x"),
        ("s3://b/af", "s3://b/af/specs/x"),
        ("s3a://b/af/", "s3://b/af/specs/x"),
    ],
)
def test_uri_joins_staging_and_key(staging_uri: str, uri: str) -> None:
    assert layout.uri_of(staging_uri, "specs/x") == uri


@pytest.mark.parametrize("uri", ["", "b/key", "s3:/b", "s3://", "https://b/key", "s3:///key"])
def test_what_is_no_s3_location_is_a_configuration_error(uri: str) -> None:
    with pytest.raises(ConfigError, match="s3://bucket/prefix/"):
        layout.parse_s3_uri(uri)


def test_state_key_is_read_back() -> None:
    key = "af/" + layout.state_key("dep", C, S)
    assert key == "af/dep/state/c-uuid/w-uuid-1"
    assert layout.parse_state_key(key) == (C, S)
    assert layout.parse_state_key("af/dep/output/w-uuid-1/000001") is None
    assert layout.parse_state_key("af/dep/state/c-uuid/") is None


def test_output_keys_sort_in_order() -> None:
    keys = [layout.output_key("dep", C, S, chunk) for chunk in (1, 2, 10, 999_999)]
    assert keys == sorted(keys)
    assert keys[0] == "dep/output/c-uuid/w-uuid-1/000001"


def test_a_staging_date_is_that_of_its_span_whatever_the_zone_of_the_clock() -> None:
    first = datetime(2026, 1, 1, tzinfo=UTC)
    dates = [layout.staging_date(first + timedelta(hours=hours)) for hours in range(24 * 30)]
    assert dates == sorted(dates)
    assert {dates.count(date) for date in set(dates[72:-72])} == {72}
    assert all(date <= f"{first + timedelta(hours=hours):%Y-%m-%d}" for hours, date in enumerate(dates))
    east = timezone(timedelta(hours=14))
    assert layout.staging_date(first.astimezone(east)) == layout.staging_date(first)


def test_what_a_text_names_is_the_prefix_of_the_objects_key() -> None:
    keys = [
        layout.files_key(DAY, SHA, "lib.py"),
        layout.spec_key(DAY, b"{}"),
        layout.wrapper_key(DAY, b"#!"),
    ]
    text = json.dumps({"command": [f"s3://b/af/{keys[0]},s3://b/af/{keys[0]}#x"], "uris": keys[1:]})
    named = layout.shared_names(text)
    assert len(named) == 3
    assert sorted(named) == sorted(name for key in keys for name in layout.shared_names(key))
    assert all(any(key.startswith(name) for name in named) for key in keys)
    assert layout.shared_names(f"files/{SHA}/x files/{DAY}/short/x myfiles/x") == set()


def test_reuse_and_deletion_are_days_apart_and_refreshing_is_between_them() -> None:
    day = timedelta(days=1)
    assert layout.REUSED_FOR <= layout.REFRESHED_FROM
    assert layout.REFRESHED_FROM + 4 * day <= layout.KEPT_AT_LEAST
    staged = datetime.fromisoformat(DAY).replace(tzinfo=UTC)
    assert not layout.needs_refreshing(f"specs/{DAY}/{SHA}", staged + 2.9 * day)
    assert layout.needs_refreshing(f"specs/{DAY}/{SHA}", staged + 3 * day)


def test_a_key_of_a_deployment_tells_whose_it_is_and_nothing_else_does() -> None:
    keys = [layout.state_key("dep", C, S), layout.claim_key("dep", C, S), layout.output_key("dep", C, S, 7)]
    for key in (*keys, layout.old_output_key("dep", S, 7)):
        assert layout.submission_of_key("dep", key) == S
    for other in ("dep/output/w", "dep/state/c/w/x", "dep/notes/w/1", "dep2/output/w/1", "files/output/w/1"):
        assert layout.submission_of_key("dep", other) is None


def test_equal_work_has_one_spec() -> None:
    def spec(env: dict[str, str]) -> bytes:
        return layout.spec_bytes(
            ["a", "ü"], env, staged=(), timeout_s=None, output_interval_s=15, output_max_bytes=1
        )

    one, other = spec({"A": "1", "B": "2"}), spec({"B": "2", "A": "1"})
    assert one == other
    assert json.loads(one)["output"] == {"interval_s": 15, "max_bytes": 1}
    assert layout.spec_key(DAY, one) == f"specs/{DAY}/{hashlib.sha256(one).hexdigest()}.json"
    assert layout.spec_key(DAY, one) != layout.spec_key(DAY, spec({}))


def test_wrapper_is_shipped_with_the_package() -> None:
    source = layout.wrapper_source()
    assert source.startswith(b"#!/usr/bin/env python3\n")
    digest = hashlib.sha256(source).hexdigest()
    assert layout.wrapper_key(DAY, source) == f"wrapper/{DAY}/{digest}/emr_step_wrapper.py"
