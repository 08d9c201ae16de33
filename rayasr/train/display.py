"""A training as its user sees it: a live panel on a terminal, else a plain line now and then."""

import sys
import time
from typing import Any, Self

from rayasr.logs import PLAIN_INTERVAL_S, console, note


class Display:
    """Shows rows of metrics.jsonl; notes written meanwhile stand above the panel."""

    def __init__(self) -> None:
        self._live: Any = None
        self._bar: Any = None
        self._task: Any = None
        self._last = 0.0

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich import progress as bars

            self._bar = bars.Progress(
                bars.SpinnerColumn(),
                bars.TextColumn("step {task.completed:.0f} of {task.total:.0f}"),
                bars.BarColumn(bar_width=None),
                bars.TaskProgressColumn(),
                bars.TextColumn("ETA {task.fields[eta]}"),
                expand=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def row(self, row: dict[str, Any]) -> None:
        """Show a row: a logged step, or a validation, which stays on the screen."""
        if "dev_loss" in row:
            note(describe_validation(row))
        elif self._bar is not None:
            self._show(row)
        elif time.monotonic() - self._last >= PLAIN_INTERVAL_S:
            self._last = time.monotonic()
            note(describe_step(row))

    def _show(self, row: dict[str, Any]) -> None:
        from rich.console import Group
        from rich.live import Live
        from rich.panel import Panel

        if self._live is None:
            self._task = self._bar.add_task("", total=row["total_steps"], eta="")
            self._live = Live(console=console(), refresh_per_second=4, transient=True)
            self._live.start()
        eta = duration(row.get("eta_s", 0.0))
        self._bar.update(self._task, completed=row["step"], total=row["total_steps"], eta=eta)
        panel = Panel(Group(self._bar, _numbers(row)), title=f"epoch {row['epoch']}", width=100)
        self._live.update(panel)


def describe_step(row: dict[str, Any]) -> str:
    """One plain line of a logged step."""
    losses = f"loss {row['loss']:.3f} (ctc {row['loss_ctc']:.3f}, att {row['loss_att']:.3f})"
    return (
        f"step {row['step']}/{row['total_steps']} epoch {row['epoch']}: {losses}, "
        f"lr {row['lr']:.2e}, grad {row['grad_norm']:.2f}, "
        f"{row['audio_hours_per_hour']:.0f} audio-h/h, mfu {row['mfu']:.0%}, "
        f"padding {row['padding']:.1%}, data wait {row['data_wait']:.1%}, "
        f"ETA {duration(row.get('eta_s', 0.0))}"
    )


def describe_validation(row: dict[str, Any]) -> str:
    """One plain line of a validation."""
    rate = "dev_wer" if "dev_wer" in row else "dev_cer"
    name = rate.removeprefix("dev_").upper()
    text = (
        f"dev at step {row['step']} (epoch {row['epoch']}): loss {row['dev_loss']:.3f} "
        f"(ctc {row['dev_loss_ctc']:.3f}, att {row['dev_loss_att']:.3f}), "
        f"greedy {name} {row[rate]:.2f} %"
    )
    if "dev_loss_chunk16" in row:
        text += f"; chunk 16: {row['dev_loss_chunk16']:.3f}, {row[rate + '_chunk16']:.2f} %"
    return text


def duration(seconds: float) -> str:
    """42s, 12m05s, 3h07m."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def _numbers(row: dict[str, Any]) -> Any:
    """The panel's lower half: names above values."""
    from rich.table import Table

    cells = {
        "loss": f"{row['loss']:.3f}",
        "ctc": f"{row['loss_ctc']:.3f}",
        "att": f"{row['loss_att']:.3f}",
        "lr": f"{row['lr']:.2e}",
        "grad": f"{row['grad_norm']:.2f}",
        "audio-h/h": f"{row['audio_hours_per_hour']:.0f}",
        "mfu": f"{row['mfu']:.0%}",
        "padding": f"{row['padding']:.1%}",
        "data wait": f"{row['data_wait']:.1%}",
    }
    table = Table.grid(expand=True)
    for _ in cells:
        table.add_column(justify="center")
    table.add_row(*(f"[dim]{name}" for name in cells))
    table.add_row(*cells.values())
    return table
