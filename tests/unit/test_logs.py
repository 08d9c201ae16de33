"""Notes, progress lines, metrics with each step once."""

import errno
import json
import math
from pathlib import Path

import pytest

from rayasr import logs
from rayasr.errors import DataError
from rayasr.logs import MetricsLog, note, progress, read_metrics
from rayasr.train.display import Display, describe_step, duration

STEP = {
    "step": 20,
    "total_steps": 100,
    "epoch": 1,
    "loss": 1.5,
    "loss_ctc": 2.0,
    "loss_att": 1.0,
    "lr": 0.001,
    "grad_norm": 3.0,
    "audio_hours_per_hour": 95.0,
    "mfu": 0.3,
    "padding": 0.02,
    "data_wait": 0.001,
    "eta_s": 75.0,
}


def test_lines_after_the_checkpoint_are_dropped_on_resume(tmp_path: Path):
    log = MetricsLog(tmp_path)
    for step in (1, 2, 3):
        log.write({"step": step, "loss": step / 3})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3]
    log = MetricsLog(tmp_path, after_step=2)
    log.write({"step": 3, "loss": 1.0})
    log.close()
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3]
    assert read_metrics(tmp_path)[1]["loss"] == 2 / 3  # bit for bit
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_what_is_not_finite_is_null(tmp_path: Path):
    log = MetricsLog(tmp_path)
    log.write({"step": 1, "loss": math.nan, "grad_norm": math.inf})
    log.close()
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line) == {"step": 1, "loss": None, "grad_norm": None}


def test_a_run_without_metrics_has_none(tmp_path: Path):
    assert read_metrics(tmp_path) == []


def test_a_full_disk_is_one_sentence_and_closing_adds_no_other(tmp_path: Path):
    log = MetricsLog(tmp_path)
    log._file.close()
    log._file = Path("/dev/full").open("a")  # noqa: SIM115  # closed by the log
    with pytest.raises(DataError, match=r"cannot write .*metrics.jsonl.*free some space"):
        log.write({"step": 1})
    log.close()


def test_a_full_disk_at_the_start_or_at_the_end_is_one_sentence(tmp_path: Path):
    log = MetricsLog(tmp_path)
    log._file.close()
    log._file = Path("/dev/full").open("a")  # noqa: SIM115
    log._file.write("not flushed")
    with pytest.raises(DataError, match="cannot write"):
        log.close()
    (tmp_path / ".metrics.jsonl").symlink_to("/dev/full")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(DataError, match="cannot write"):
        MetricsLog(tmp_path, after_step=1)


def test_events_that_cannot_be_written_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    log = MetricsLog(tmp_path)
    log.write({"step": 1})
    monkeypatch.setattr(log, "_events", FullDisk())
    with pytest.raises(DataError, match="free some space"):
        log.write({"step": 2})
    log.close()


class FullDisk:
    """TensorBoard's writer on a full disk."""

    closed = False

    def add_event(self, _event: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            raise OSError(errno.ENOSPC, "No space left on device")


def test_plain_progress_is_a_line_now_and_then(capsys, monkeypatch: pytest.MonkeyPatch):
    now = 0.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    with progress("features", total=40) as line:
        line.update(5)
        now = 11.0
        line.update(20, note="0.5 h")
    note("done [not markup]")
    printed = capsys.readouterr().err.splitlines()
    assert printed == ["features: 20/40 (50%), 0.5 h, 11 s", "done [not markup]"]


def test_training_lines_say_everything(capsys):
    with Display() as display:
        display.row(STEP)
        display.row(STEP | {"step": 21})  # too soon after the first
        values = {"dev_loss": 1.0, "dev_loss_ctc": 1.0, "dev_loss_att": 1.0, "dev_cer": 5.0}
        display.row({"step": 21, "epoch": 1, **values})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == describe_step(STEP)
    for part in ("step 20/100", "95 audio-h/h", "padding 2.0%", "data wait 0.1%", "ETA 1m15s"):
        assert part in lines[0]
    assert lines[1].startswith("dev at step 21 (epoch 1): loss 1.000")
    assert len(lines) == 2


def test_the_live_panel_shows_a_row(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with Display() as display:
        display.row(STEP)
        assert display._live is not None
    with progress("features", total=4) as line:
        line.update(2)
    capsys.readouterr()


@pytest.mark.parametrize(("seconds", "text"), [(42, "42s"), (725, "12m05s"), (11220, "3h07m")])
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text
