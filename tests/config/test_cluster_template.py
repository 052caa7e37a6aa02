"""Cluster templates: what cannot launch, cannot be ended, or would lie about a step is told with its key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from emr_executor.cluster_template import left_as_examples, read_template, template_problems

ROOT = Path(__file__).parents[2]
FILES = [
    *(ROOT / "config" / "clusters").glob("*.yaml"),
    ROOT / "emr_executor" / "cli" / "cluster_template.yaml",
]
TEMPLATE: dict[str, Any] = {
    "ReleaseLabel": "emr-7.12.0",
    "Applications": [{"Name": "Spark"}],
    "StepConcurrencyLevel": 4,
    "Instances": {"MasterInstanceType": "m5.xlarge", "InstanceCount": 1},
    "ServiceRole": "EMR_DefaultRole_V2",
    "JobFlowRole": "EMR_EC2_DefaultRole",
}
INSTANCES = TEMPLATE["Instances"]
SPARK = {"InstanceRole": "MASTER", "InstanceType": "m5.xlarge", "InstanceCount": 1}
FLEET = {
    "InstanceFleetType": "MASTER",
    "TargetOnDemandCapacity": 1,
    "InstanceTypeConfigs": [{"InstanceType": "m5.xlarge"}],
}


def defaults(**properties: Any) -> list[dict[str, Any]]:
    keyed = {key.replace("__", "."): value for key, value in properties.items()}
    return [{"Classification": "spark-defaults", "Properties": keyed}]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_templates_of_this_repository_are_valid(path: Path) -> None:
    assert read_template(path)[1] == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        # What the executor sets itself.
        (
            {"Name": "mine"},
            "Name must not be set: the executor names its clusters, so that it knows them again.",
        ),
        (
            {"Steps": []},
            "Steps must not be set: the executor adds the steps; use BootstrapActions for set-up.",
        ),
        (
            {"Tags": [{"Key": "airflow-emr:pool", "Value": "x"}]},
            "Tags[0].Key is 'airflow-emr:pool': the executor sets the tags airflow-emr:*.",
        ),
        # A cluster lives until we end it, and ends when we do.
        (
            {"Instances": {**INSTANCES, "KeepJobFlowAliveWhenNoSteps": False}},
            "Instances.KeepJobFlowAliveWhenNoSteps must not be false: clusters are kept for the next step.",
        ),
        (
            {"Instances": {**INSTANCES, "TerminationProtected": True}},
            "Instances.TerminationProtected must not be true: the executor ends idle clusters.",
        ),
        (
            {"Instances": {"InstanceGroups": [{**SPARK, "InstanceCount": 3}]}},
            (
                "Instances.InstanceGroups[0] must be one primary node: EMR protects a cluster "
                "with several from "
                "being ended."
            ),
        ),
        (
            {"ReleaseLabel": "emr-6.0.0"},
            (
                "ReleaseLabel is emr-6.0.0: it must be emr-5.30.0, emr-6.1.0 or later, which end "
                "an idle cluster by "
                "themselves when no agent is left to do it."
            ),
        ),
        (
            {"AutoTerminationPolicy": {"IdleTimeout": 30}},
            "AutoTerminationPolicy.IdleTimeout is 30: EMR takes 60 to 604800 seconds.",
        ),
        # A step is over when its application is.
        (
            {"Configurations": defaults(spark__yarn__submit__waitAppCompletion="false")},
            (
                "Configurations[0].Properties.spark.yarn.submit.waitAppCompletion must not be "
                "false: a step would be "
                "over while its application still runs."
            ),
        ),
        (
            {
                "Instances": {
                    "InstanceGroups": [
                        {
                            **SPARK,
                            "Configurations": defaults(spark__yarn__submit__waitAppCompletion=" False "),
                        }
                    ]
                }
            },
            (
                "Instances.InstanceGroups[0].Configurations[0].Properties."
                "spark.yarn.submit.waitAppCompletion "
                "must not "
                "be false: a step would be over while its application still runs."
            ),
        ),
        (
            {"Configurations": defaults(spark__submit__deployMode="local")},
            "Configurations[0].Properties.spark.submit.deployMode is 'local': Spark takes client or cluster.",
        ),
        # What every step needs.
        (
            {"Applications": [{"Name": "Hadoop"}, {"Name": "Hive"}]},
            "Applications must name Spark, or no step finds spark-submit: add - Name: Spark.",
        ),
        (
            {"ReleaseLabel": "7.12"},
            "ReleaseLabel is '7.12': it must be a release such as emr-7.12.0.",
        ),
        # Limits, enums and exclusions of EMR.
        ({"StepConcurrencyLevel": 257}, "StepConcurrencyLevel is 257: EMR takes 1 to 256."),
        (
            {
                "BootstrapActions": [
                    {"Name": str(i), "ScriptBootstrapAction": {"Path": "s3://b/x.sh"}} for i in range(17)
                ]
            },
            "BootstrapActions has 17 entries: EMR takes at most 16.",
        ),
        (
            {"ScaleDownBehavior": "SOON"},
            (
                "ScaleDownBehavior is 'SOON': EMR takes TERMINATE_AT_INSTANCE_HOUR, "
                "TERMINATE_AT_TASK_COMPLETION."
            ),
        ),
        (
            {"LogUri": "s3://" + "x" * 10_280},
            "LogUri has 10285 characters: EMR takes at most 10280 characters.",
        ),
        ({"LogUri": "s3://logs/\x01"}, "LogUri holds the character '\\x01', which EMR does not take."),
        ({"Tags": [{"Key": "k" * 129}]}, "Tags[0].Key has 129 characters: EMR takes at most 128."),
        ({"Tags": [{"Key": "a"}, {"Key": "a"}]}, "Tags[1].Key is 'a' a second time."),
        (
            {"ManagedScalingPolicy": {"UtilizationPerformanceIndex": 101}},
            "ManagedScalingPolicy.UtilizationPerformanceIndex is 101: EMR takes at most 100.",
        ),
        (
            {"Instances": {"InstanceGroups": [SPARK], "InstanceFleets": [FLEET]}},
            "Instances has InstanceFleets and InstanceGroups: EMR takes one of them.",
        ),
        (
            {"Instances": {**INSTANCES, "InstanceGroups": [SPARK]}},
            (
                "Instances has InstanceGroups and MasterInstanceType and InstanceCount: EMR "
                "takes one of the two ways."
            ),
        ),
        (
            {"Instances": {**INSTANCES, "Ec2SubnetId": "subnet-1", "Ec2SubnetIds": ["subnet-2"]}},
            "Instances has Ec2SubnetId and Ec2SubnetIds: EMR takes one of them.",
        ),
        (
            {"Instances": {**INSTANCES, "Ec2SubnetIds": ["subnet-1", "subnet-2"]}},
            "Instances.Ec2SubnetIds may name several subnets with InstanceFleets only.",
        ),
        (
            {
                "Instances": {
                    **INSTANCES,
                    "Ec2SubnetId": "subnet-1",
                    "Placement": {"AvailabilityZone": "us-east-1a"},
                }
            },
            (
                "Instances.Placement.AvailabilityZone and Instances.Ec2SubnetId exclude each "
                "other: a subnet is in "
                "one zone."
            ),
        ),
        (
            {"Instances": {**INSTANCES, "EmrManagedMasterSecurityGroup": "sg-1"}},
            (
                "Instances.EmrManagedSlaveSecurityGroup is missing: EMR takes it together with "
                "EmrManagedMasterSecurityGroup only."
            ),
        ),
        (
            {"Instances": {"InstanceCount": 3}},
            (
                "Instances names no machines: set InstanceFleets, InstanceGroups, or MasterInstanceType and "
                "InstanceCount."
            ),
        ),
        (
            {"Instances": {"InstanceGroups": [{**SPARK, "InstanceRole": "CORE"}]}},
            "Instances.InstanceGroups must have one entry with InstanceRole MASTER, the primary node, not 0.",
        ),
        (
            {
                "Instances": {
                    "InstanceFleets": [
                        FLEET,
                        {
                            "InstanceFleetType": "CORE",
                            "TargetSpotCapacity": 2,
                            "InstanceTypeConfigs": [{"InstanceType": f"m{n}.xlarge"} for n in range(6)],
                        },
                    ]
                }
            },
            (
                "Instances.InstanceFleets[1].InstanceTypeConfigs has 6 entries: EMR takes at "
                "most 5, or 30 with an "
                "AllocationStrategy."
            ),
        ),
        (
            {
                "ManagedScalingPolicy": {
                    "ComputeLimits": {
                        "UnitType": "InstanceFleetUnits",
                        "MinimumCapacityUnits": 1,
                        "MaximumCapacityUnits": 2,
                    }
                }
            },
            (
                "ManagedScalingPolicy.ComputeLimits.UnitType is InstanceFleetUnits, but Instances has no "
                "InstanceFleets."
            ),
        ),
        (
            {"ServiceRole": ""},
            "ServiceRole is missing: the role that EMR itself works with, such as EMR_DefaultRole_V2.",
        ),
        # Types, in YAML's words.
        (
            {"StepConcurrencyLevel": "4"},
            "StepConcurrencyLevel is '4', text: it must be a whole number, without quotes.",
        ),
        (
            {"Configurations": defaults(spark__dynamicAllocation__enabled=True)},
            (
                "Configurations[0].Properties.spark.dynamicAllocation.enabled is true, a truth "
                "value in YAML: put it "
                "in quotes."
            ),
        ),
        (
            {"Tags": [{"Key": "cost", "Value": 7}]},
            "Tags[0].Value is 7, a number: put it in quotes.",
        ),
        (
            {"Instances": {**INSTANCES, "TerminationProtected": "no"}},
            "Instances.TerminationProtected is 'no', text: it must be true or false, without quotes.",
        ),
        ({"ReleaseLabel": None}, "ReleaseLabel has no value: give it one, or leave the key out."),
        (
            {"Tags": {"team": "data"}},
            "Tags holds keys: it must be a list, each entry behind a dash.",
        ),
        (
            {"VisibleToAllUser": True},
            "VisibleToAllUser is no key that EMR knows here; did you mean VisibleToAllUsers?",
        ),
        # What other tools would have filled in.
        (
            {"LogUri": "s3://{{ var.value.log_bucket }}/"},
            (
                "LogUri holds '{{ var.value.log_bucket }}': nothing fills that in here, so write "
                "the value itself."
            ),
        ),
        (
            {"CustomAmiId": "${ami_id}"},
            "CustomAmiId holds '${ami_id}': nothing fills that in here, so write the value itself.",
        ),
        (
            {"JobFlowRole": "<instance profile>"},
            "JobFlowRole holds '<instance profile>': nothing fills that in here, so write the value itself.",
        ),
        (
            {"ServiceRole": "CHANGE_ME"},
            "ServiceRole holds 'CHANGE_ME': nothing fills that in here, so write the value itself.",
        ),
        (
            {"Configurations": defaults(spark__a="{{ params.a }}")},
            (
                "Configurations[0].Properties.spark.a holds '{{ params.a }}': nothing fills that "
                "in here, so write "
                "the value itself."
            ),
        ),
    ],
)
def test_each_problem_has_its_key_and_what_to_write(change: dict[str, Any], expected: str) -> None:
    assert template_problems({**TEMPLATE, **change}) == [expected]


def test_everything_missing_is_told_at_once() -> None:
    assert [problem.split()[0] for problem in template_problems({})] == [
        "ReleaseLabel",
        "Applications",
        "Instances",
        "JobFlowRole",
        "ServiceRole",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"ReleaseLabel": "emr-spark-8.0.0"},
        {"ReleaseLabel": "emr-5.36.2", "Applications": [{"Name": "spark"}]},
        {"Configurations": defaults(spark__submit__deployMode="cluster")},
        {
            "Configurations": defaults(
                spark__a="-Xloggc:<LOG_DIR>/gc", spark__b="${user.name}", spark__c="{{PWD}}/x"
            )
        },
        {
            "BootstrapActions": [
                {"Name": "b", "ScriptBootstrapAction": {"Path": "s3://b/x.sh", "Args": ["${HOME}", "a > b"]}}
            ]
        },
        {"Instances": {"InstanceFleets": [FLEET], "Ec2SubnetIds": ["subnet-1", "subnet-2"]}},
        {"LogUri": "s3://change-data-capture/todo/"},
    ],
    ids=str,
)
def test_what_emr_takes_is_taken(change: dict[str, Any]) -> None:
    assert template_problems({**TEMPLATE, **change}) == []


def test_steps_in_parallel_need_a_release_that_has_them() -> None:
    found = template_problems({**TEMPLATE, "ReleaseLabel": "emr-5.27.1"})
    assert "StepConcurrencyLevel 4 needs release emr-5.28.0 or later, not emr-5.27.1." in found


@pytest.mark.parametrize("broken", [7.5, "text", [], {}, None, [[]], [None], {"a": {}}], ids=str)
@pytest.mark.parametrize(
    "key", ["Instances", "Tags", "Configurations", "Applications", "AutoTerminationPolicy"]
)
def test_a_value_of_any_shape_ends_in_sentences(key: str, broken: Any) -> None:
    found = template_problems({**TEMPLATE, key: broken, "StepConcurrencyLevel": broken})
    assert any(problem.startswith("StepConcurrencyLevel") for problem in found)
    assert not [problem for problem in found if re.search(r"<class|Traceback|valid types", problem)]


def test_values_of_examples_are_known() -> None:
    instances = {**INSTANCES, "Ec2SubnetId": "subnet-11111111111111111", "Ec2KeyName": "mine"}
    roles = {"ServiceRole": "arn:aws:iam::123456789012:role/EMR", "LogUri": "s3://my-bucket/logs/"}
    assert left_as_examples({**TEMPLATE, **roles, "Instances": instances}) == [
        "Instances.Ec2SubnetId is 'subnet-11111111111111111', which is an example: write your own.",
        "ServiceRole is 'arn:aws:iam::123456789012:role/EMR', which is an example: write your own.",
        "LogUri is 's3://my-bucket/logs/', which is an example: write your own.",
    ]
    assert (
        left_as_examples(
            {**TEMPLATE, "LogUri": "s3://my-company-logs/", "CustomAmiId": "ami-0c55b159cbfafe1f0"}
        )
        == []
    )
