"""How long the whole recipe of a job would train, and for how much, as far as this machine knows.

The speed is given by the caller, or read from an earlier run's metrics.jsonl; the hours of speech
from the same file or from the store.json of a channel that lies here too.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from launcher.cloud_plan import CloudPlan
from launcher.plan import TRAINING_VERBS, fill
from launcher.preflight.recipe import recipe_of
from launcher.prices import Estimate, Throughput, forecast, read_throughput
from launcher.spec import JobSpec


def describe_outlook(plan: CloudPlan, cost: Estimate, speed: float | None) -> str | None:
    """A sentence with hours and money; None for a job that trains nothing, or with no speed known.

    `speed` is hours of speech trained on in an hour. Raises ConfigError where it is not positive.
    """
    recipe = recipe_of(plan)
    if recipe is None or plan.job.command[0] not in TRAINING_VERBS:
        return None
    places = _local_places(plan.job)
    run = _last_run(plan.job, places)
    source = "a given"
    if speed is None:
        if run is None:
            return None
        speed, source = run.audio_hours_per_hour, "the last run's"
    hours = _corpus_hours(plan.job, places) or (run.audio_hours_per_epoch if run else None)
    if not hours:
        return "no forecast: no store and no finished epoch here says how much speech there is"
    epochs = recipe.train.epochs
    found = forecast(hours, epochs, speed, cost.per_hour, cost.currency)
    late = found.hours * 3600 > plan.job.time_limit_s
    return (
        f"{found.describe()} ({epochs} epochs of {hours:.4g} h at {source} {speed:.4g} h an hour)"
        f"{f'; the time limit of {plan.job.time_limit} comes before its end' if late else ''}"
    )


def _local_places(job: JobSpec) -> dict[str, str] | None:
    """The channels' folders on this machine; None where one has none."""
    places = {}
    for name, channel in job.channels.items():
        if channel.local_path is None:
            return None
        places[name] = str(Path(channel.local_path).expanduser())
    return places


def _last_run(job: JobSpec, places: Mapping[str, str] | None) -> Throughput | None:
    """What the job's own run folder has measured, if it lies here."""
    if job.run is None or places is None:
        return None
    metrics = Path(fill(job.run, places)) / "metrics.jsonl"
    return read_throughput(metrics) if metrics.is_file() else None


def _corpus_hours(job: JobSpec, places: Mapping[str, str] | None) -> float | None:
    """Hours of the training split of the store that the command reads, if it lies here."""
    if places is None:
        return None
    for argument in job.command:
        try:
            info = json.loads(Path(fill(argument, places), "store.json").read_bytes())
            return float(info["splits"]["train"]["hours"])
        except (OSError, LookupError, TypeError, ValueError):
            continue  # no store, as most arguments are none
    return None
