"""Training in this process, with a stop at a step that the test names."""

from pathlib import Path
from typing import Any

from rayasr.config import Recipe
from rayasr.train.loop import FitResult, fit
from rayasr.train.reporter import Reporter
from rayasr.train.world import World


def fit_here(
    recipe: Recipe, store: Path, run: Path, *, stop_before: int | None = None, **more: Any
) -> FitResult:
    """Fit without Ray, up to the step whose number is asked for; RUN/messages.txt: what was said.

    `more` goes to `fit`.
    """
    messages: list[str] = []
    asked = 0

    def stop_requested() -> bool:
        nonlocal asked
        asked += 1
        return stop_before is not None and asked >= stop_before

    reporter = Reporter(note=messages.append, stop_requested=stop_requested)
    result = fit(recipe, store, run, world=World.single(), reporter=reporter, **more)
    run.mkdir(exist_ok=True)
    (run / "messages.txt").write_text("\n".join(messages))
    return result
