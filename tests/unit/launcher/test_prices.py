"""Estimates and forecasts, by hand-made sums."""

import json
from pathlib import Path

import pytest

from launcher.instances import INSTANCES
from launcher.prices import PRICES, estimate, forecast, read_throughput
from rayasr.errors import ConfigError
from tests.cloud_jobs import cloud_job


def test_only_known_types_have_prices() -> None:
    assert set(PRICES) <= set(INSTANCES)


def test_hosts_times_price_times_limit() -> None:
    price = estimate(cloud_job({"instance_count": 2}), "us-east-1")  # ml.g5.12xlarge, 2h
    assert price.per_hour == pytest.approx(14.18)
    assert price.max_bill == pytest.approx(28.36)
    assert price.describe() == (
        "14.18 USD an hour, at most 28.36 USD by the time limit (prices of 2025-12); "
        "us-east-1's prices, approximate"
    )


def test_groups_add_up_and_a_warm_pool_is_paid_for() -> None:
    groups = [
        {"name": "cpu", "instance_type": "ml.c5.xlarge", "instance_count": 3},
        {"name": "gpu", "instance_type": "ml.g5.xlarge"},
    ]
    mixed = {"instance_type": None, "instance_count": None, "instance_groups": groups}
    assert estimate(cloud_job(mixed)).per_hour == pytest.approx(3 * 0.204 + 1.408)
    warm = estimate(cloud_job({"keep_alive": "30m"}), "us-east-1")
    assert warm.max_bill == pytest.approx(14.18 * 2.5)
    assert "30m of keep_alive is in it" in warm.describe()


def test_the_job_files_price_wins_and_is_not_called_approximate() -> None:
    price = estimate(cloud_job({"prices": {"ml.g5.12xlarge": 5.0}}))
    assert (price.per_hour, price.as_of) == (10.0, "the job file")
    assert "approximate" not in price.describe()


@pytest.mark.parametrize(
    ("place", "region"),
    [
        ({"instance_type": "ml.m8i.96xlarge"}, "us-east-1"),  # not in the table
        ({"currency": "EUR"}, "us-east-1"),  # the table speaks of USD
        ({}, "cn-north-1"),  # billed in CNY
    ],
)
def test_unknown_prices_are_said_and_never_guessed(place: dict[str, str], region: str) -> None:
    job = cloud_job(place)
    price = estimate(job, region)
    assert (price.per_hour, price.max_bill) == (None, None)
    assert job.sagemaker is not None
    assert price.unknown == (job.sagemaker.instance_type,)
    assert f"for {price.unknown[0]}" in price.describe()
    assert "sagemaker.prices" in price.describe()


def test_another_regions_prices_may_differ_and_spot_is_not_guessed() -> None:
    price = estimate(
        cloud_job({"spot": True, "max_wait": "4h", "region": "eu-central-1"}),
    )
    assert price.spot_saving is None
    assert "eu-central-1 may differ" in price.describe()
    assert price.max_bill == pytest.approx(28.36)  # spot may turn out to save nothing


def test_no_machines_no_price() -> None:
    with pytest.raises(ConfigError, match="has no 'sagemaker:' section"):
        estimate(cloud_job(sagemaker=None))


def test_forecast() -> None:
    found = forecast(audio_hours=150, epochs=80, audio_hours_per_hour=600, per_hour=14.18)
    assert found.hours == pytest.approx(20)
    assert found.cost == pytest.approx(283.6)
    assert "20.0 hours" in found.describe()
    assert "283.60 USD" in found.describe()
    assert "unknown price" in forecast(1, 1, 1, None).describe()
    with pytest.raises(ConfigError, match="above 0"):
        forecast(150, 80, 0, 1.0)


def test_throughput_of_a_run(tmp_path: Path) -> None:
    rows = [
        {"step": 20, "epoch": 1, "audio_hours": 4.0, "audio_hours_per_hour": 100.0},
        {"step": 40, "epoch": 1, "audio_hours": 8.0, "audio_hours_per_hour": 300.0},
        {"step": 40, "epoch": 1, "dev_loss": 1.0},
        {"step": 60, "epoch": 2, "audio_hours": 12.0, "audio_hours_per_hour": 310.0},
        {"step": 80, "epoch": 2, "audio_hours": 16.2, "audio_hours_per_hour": 290.0},
        {"step": 90, "epoch": 3, "audio_hours": 18.0, "audio_hours_per_hour": 305.0},
    ]
    metrics = tmp_path / "metrics.jsonl"
    lines = [json.dumps(row) for row in rows]
    metrics.write_text("\n".join([*lines, '{"step": 95, "epo']))
    found = read_throughput(metrics)
    assert found is not None
    assert found.audio_hours_per_hour == 300.0  # the first lines of a run are slow: the median
    assert found.audio_hours_per_epoch == pytest.approx(8.1)


def test_throughput_of_a_young_run_and_of_none(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    row = {"epoch": 1, "audio_hours": 1.0, "audio_hours_per_hour": 9.0}
    metrics.write_text(json.dumps(row))
    young = read_throughput(metrics)
    assert young is not None
    assert young.audio_hours_per_epoch is None
    metrics.write_text("")
    assert read_throughput(metrics) is None
    with pytest.raises(ConfigError, match="cannot read"):
        read_throughput(tmp_path / "nothing")
