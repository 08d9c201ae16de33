"""Faults of limits, times and money."""

import pytest

from launcher.preflight.facts import S3Data
from tests.sound_job import CPUS, GROUP, LOCAL_RUN, OFFERS, Fault, see_that_it_is_found

FAULTS = [
    Fault("request", "Tags[0].Value", {"tags": {"a": "x" * 257}}),
    Fault("request", "MetricDefinitions[0].Regex", {"metrics": {"loss": "x" * 501}}),
    Fault(
        "request",
        "VpcConfig.Subnets[0]",
        {"vpc": {"subnets": ["subnet 1"], "security_groups": [GROUP]}},
    ),
    Fault(
        "max-pending",
        "no machine has a GPU",
        CPUS | {"max_pending": "1h"},
        {"workers": "3"},
        {"offers": OFFERS},
    ),
    Fault(
        "spot-wait", "as long as time_limit", {"spot": True, "max_wait": "2h"}, severity="warning"
    ),
    Fault(
        "spot-checkpoints",
        "lie on their own disks",
        {"spot": True, "max_wait": "4h"},
        LOCAL_RUN,
        {"data": {"work": S3Data(1, 1)}},
        "warning",
    ),
    Fault(
        "max-time",
        "--max-time 2h is not less",
        job={"options": ["--max-time", "2h"]},
        severity="warning",
    ),
    Fault("price", "for ml.g6.48xlarge", {"instance_type": "ml.g6.48xlarge"}, severity="note"),
    Fault("price", "", {"instance_type": "ml.g6.48xlarge", "max_cost": 50}),
    Fault("max-cost", "may cost 28.36 USD, more than 20 USD", {"max_cost": 20}),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_fault_is_found(fault: Fault) -> None:
    see_that_it_is_found(fault)
