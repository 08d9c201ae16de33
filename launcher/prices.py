"""What a job costs: a dated table, an estimate before it starts, a forecast for a whole recipe."""

import json
import statistics
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from launcher.cloud_spec import SageMakerSpec, seconds
from launcher.spec import JobSpec
from rayasr.errors import ConfigError

AS_OF = "2025-12"
"""When the table was made."""
TABLE_REGION = "us-east-1"
TABLE_CURRENCY = "USD"
PRICES = {
    "ml.c5.xlarge": 0.204,
    "ml.c5.2xlarge": 0.408,
    "ml.c5.4xlarge": 0.816,
    "ml.c5.9xlarge": 1.836,
    "ml.c5.18xlarge": 3.672,
    "ml.m5.large": 0.115,
    "ml.m5.xlarge": 0.23,
    "ml.m5.2xlarge": 0.461,
    "ml.m5.4xlarge": 0.922,
    "ml.m5.12xlarge": 2.765,
    "ml.m5.24xlarge": 5.53,
    "ml.r5.2xlarge": 0.605,
    "ml.r5.4xlarge": 1.21,
    "ml.r5.8xlarge": 2.419,
    "ml.r5.16xlarge": 4.838,
    "ml.t3.medium": 0.05,
    "ml.t3.large": 0.10,
    "ml.t3.xlarge": 0.20,
    "ml.t3.2xlarge": 0.399,
    "ml.p3.2xlarge": 3.825,
    "ml.p3.8xlarge": 14.688,
    "ml.p3.16xlarge": 28.152,
    "ml.p3dn.24xlarge": 35.894,
    "ml.g4dn.xlarge": 0.736,
    "ml.g4dn.2xlarge": 0.94,
    "ml.g4dn.4xlarge": 1.505,
    "ml.g4dn.8xlarge": 2.72,
    "ml.g4dn.12xlarge": 4.89,
    "ml.g4dn.16xlarge": 5.44,
    "ml.g5.xlarge": 1.408,
    "ml.g5.2xlarge": 1.515,
    "ml.g5.4xlarge": 2.03,
    "ml.g5.8xlarge": 3.06,
    "ml.g5.12xlarge": 7.09,
    "ml.g5.16xlarge": 5.12,
    "ml.g5.24xlarge": 10.18,
    "ml.g5.48xlarge": 20.36,
    "ml.g6.2xlarge": 1.222,
    "ml.g6.4xlarge": 1.654,
    "ml.g6.12xlarge": 5.752,
    "ml.g6e.2xlarge": 2.80,
    "ml.g6e.4xlarge": 3.76,
    "ml.g6e.8xlarge": 5.66,
    "ml.g6e.12xlarge": 13.12,
    "ml.p4d.24xlarge": 25.25,
    "ml.p5.48xlarge": 63.30,
}
"""On-demand training in us-east-1, an hour: approximate, gathered from published lists and not
asked from AWS. `sagemaker.prices` overrides; a type that is not here has no known price."""


@dataclass(frozen=True)
class Estimate:
    """What a job may cost, before it starts; None: not known."""

    currency: str
    per_hour: float | None  # of all machines
    max_bill: float | None  # where it runs to its time limit, at the full price
    spot_saving: float | None  # a share; AWS tells it only after a job
    as_of: str  # "2025-12", or "the job file"
    unknown: tuple[str, ...] = ()  # types without a price
    note: str = ""  # what else a reader should know of the figures

    def describe(self) -> str:
        """The estimate in a sentence."""
        if self.per_hour is None or self.max_bill is None:
            types = ", ".join(self.unknown)
            return f"not known: there is no price in {self.currency} for {types}; {ADD_PRICE}"
        sentence = (
            f"{self.per_hour:,.2f} {self.currency} an hour, at most {self.max_bill:,.2f} "
            f"{self.currency} by the time limit (prices of {self.as_of})"
        )
        return f"{sentence}; {self.note}" if self.note else sentence


@dataclass(frozen=True)
class Forecast:
    """How long a whole recipe trains, and what that costs."""

    hours: float
    cost: float | None
    currency: str = TABLE_CURRENCY

    def describe(self) -> str:
        """The forecast in a sentence."""
        cost = "an unknown price" if self.cost is None else f"{self.cost:,.2f} {self.currency}"
        return f"about {self.hours:,.1f} hours of training for the whole recipe, {cost}"


@dataclass(frozen=True)
class Throughput:
    """What an earlier run measured."""

    audio_hours_per_hour: float
    audio_hours_per_epoch: float | None  # None before the first epoch has ended


ADD_PRICE = "give it under sagemaker.prices in the job file"


def estimate(job: JobSpec, region: str | None = None) -> Estimate:
    """The price of a job's machines and its largest bill; raises ConfigError without machines.

    The volumes, S3, and what a job uploads after its time limit are not in it.
    """
    place = job.sagemaker
    if place is None:
        raise ConfigError(f"job {job.name} has no 'sagemaker:' section, so nothing to pay for")
    region = region or place.region or TABLE_REGION
    prices = _prices(place, region)
    types = sorted({group.instance_type for group in place.groups})
    unknown = tuple(name for name in types if name not in prices)
    own = all(name in place.prices for name in types)
    per_hour = max_bill = None
    if not unknown:
        per_hour = sum(prices[group.instance_type] * group.instance_count for group in place.groups)
        kept_s = seconds(place.keep_alive) if place.keep_alive else 0.0
        max_bill = per_hour * (job.time_limit_s + kept_s) / 3600
    return Estimate(
        currency=place.currency,
        per_hour=per_hour,
        max_bill=max_bill,
        spot_saving=None,
        as_of="the job file" if own else AS_OF,
        unknown=unknown,
        note=_note(place, region, own),
    )


def forecast(
    audio_hours: float,
    epochs: int,
    audio_hours_per_hour: float,
    per_hour: float | None,
    currency: str = TABLE_CURRENCY,
) -> Forecast:
    """Hours and money of `epochs` passes over `audio_hours` at a measured speed."""
    if not (audio_hours > 0 and epochs > 0 and audio_hours_per_hour > 0):
        raise ConfigError(
            f"a forecast needs a corpus, epochs and a speed above 0, found {audio_hours:g} hours, "
            f"{epochs} epochs and {audio_hours_per_hour:g} audio hours an hour"
        )
    hours = audio_hours * epochs / audio_hours_per_hour
    return Forecast(hours, None if per_hour is None else hours * per_hour, currency)


def read_throughput(metrics: Path) -> Throughput | None:
    """What a run's metrics.jsonl shows; None where it has no training line; raises ConfigError."""
    try:
        lines = metrics.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read {metrics}: {error}; is it a run's metrics.jsonl?"
        ) from error
    rows = [row for line in lines if (row := _row(line))]
    if not rows:
        return None
    ends = {row["epoch"]: row["audio_hours"] for row in rows}  # at the last line of each epoch
    *over, _ = [0.0, *ends.values()]
    lengths = [end - start for start, end in pairwise(over)]
    return Throughput(
        statistics.median(row["audio_hours_per_hour"] for row in rows),
        statistics.median(lengths) if lengths else None,
    )


def _prices(place: SageMakerSpec, region: str) -> dict[str, float]:
    """The job file's prices over the table's, where the table speaks of the same money."""
    # China's regions bill in CNY.
    usable = place.currency == TABLE_CURRENCY and not region.startswith("cn-")
    return (PRICES if usable else {}) | place.prices


def _note(place: SageMakerSpec, region: str, own: bool) -> str:
    notes = []
    if not own:
        where = f"{TABLE_REGION}'s prices"
        notes.append(where if region == TABLE_REGION else f"{where}, {region} may differ")
        notes[-1] += ", approximate"
    if place.keep_alive:
        notes.append(f"{place.keep_alive} of keep_alive is in it")
    if place.spot:
        notes.append("spot costs less; how much, AWS says after the job")
    return "; ".join(notes)


def _row(line: str) -> dict[str, Any] | None:
    """A line about training; None for one about validation, or cut off by a stop."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and "audio_hours_per_hour" in row else None
