"""`rayasr transcribe`: recordings to text, whole or while the audio comes in."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rayasr.cli.decode import (
    BeamOption,
    ChunkOption,
    LeftOption,
    ModelArgument,
    ModeOption,
    WeightOption,
    known_modes,
    search_changes,
)
from rayasr.cli.options import DevicesOption, JsonOption

if TYPE_CHECKING:
    from torch import Tensor

    from rayasr.checkpoint import LoadedModel
    from rayasr.config import Mode
    from rayasr.decode.recognizer import Decoding
    from rayasr.decode.streaming import Event, StreamStats

STANDARD_INPUT = Path("-")
STREAM_CHUNK = 16
"""Encoder frames per chunk of a stream (0.64 s at a subsampling of 4), if not asked otherwise."""


def register(app: typer.Typer) -> None:
    """Add the verb to the app."""
    app.command("transcribe")(transcribe)


def transcribe(
    run: ModelArgument,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="Recordings; - is standard input.")
    ],
    mode: ModeOption = None,
    chunk_size: ChunkOption = None,
    left_chunks: LeftOption = None,
    beam_size: BeamOption = None,
    ctc_weight: WeightOption = None,
    nbest: Annotated[
        int | None,
        typer.Option("--nbest", metavar="N", min=1, help="With --json: also the N best texts."),
    ] = None,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Text as the audio comes in, in chunks of 16 frames and with a segment's whole "
            "history if --chunk-size and --left-chunks do not say otherwise.",
        ),
    ] = False,
    sample_rate: Annotated[
        int | None,
        typer.Option(
            "--sample-rate", min=1, help="Rate of standard input in Hz. Default: the model's."
        ),
    ] = None,
    devices: DevicesOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Write down recordings, a line each (file, tab, text), in the order given.

    A file that cannot be read is named on stderr, the others are transcribed; exit code 3.

    With --stream: a line for each segment (file, start, end, text; seconds, between tabs) as soon
    as a pause of 1 s or its length of 20 s ends it, and on a terminal the text so far, rewritten in
    place. Standard input is 16-bit little-endian mono PCM. With --json: a line for each partial
    and each final result and one at the end, with latency, real-time factor and memory.

    Example: rayasr transcribe runs/demo a.wav b.flac

    Example: arecord -f S16_LE -r 16000 -c 1 -t raw | rayasr transcribe runs/demo --stream -
    """
    from rayasr.checkpoint import choose_device, load_model
    from rayasr.decode.recognizer import Decoding
    from rayasr.errors import ConfigError, DataError

    loaded = load_model(run, choose_device(devices))
    modes = known_modes(mode or loaded.decoding["default_mode"])
    if len(modes) > 1:
        raise ConfigError("transcribe takes one --mode; `rayasr decode` compares several")
    if nbest is not None and not as_json:
        raise ConfigError("--nbest is for scripts; add --json")
    _check_input(files, stream, sample_rate)
    if stream:
        chunk_size = chunk_size or STREAM_CHUNK
    changes = search_changes(loaded, chunk_size, left_chunks, beam_size, ctc_weight, nbest)
    decoding = Decoding.of(loaded, **changes)
    if stream:
        rate = sample_rate or loaded.recipe.features.sample_rate
        failed = _stream(loaded, decoding, modes[0], files, rate, as_json)
    else:
        failed = _transcribe(loaded, decoding, modes[0], files, as_json)
    if failed:
        raise typer.Exit(DataError.exit_code)


def _check_input(files: list[Path], stream: bool, sample_rate: int | None) -> None:
    """Raise ConfigError for options that do not go together."""
    import sys

    from rayasr.errors import ConfigError

    if STANDARD_INPUT not in files:
        if sample_rate is not None:
            raise ConfigError("--sample-rate is that of standard input; files say their own")
        return
    if not stream:
        raise ConfigError("standard input (-) needs --stream")
    if files.count(STANDARD_INPUT) > 1:
        raise ConfigError("standard input (-) can be read once only")
    if sys.stdin.isatty():
        raise ConfigError("standard input is a terminal; pipe 16-bit mono PCM into it")


def _transcribe(
    loaded: "LoadedModel", decoding: "Decoding", mode: "Mode", files: list[Path], as_json: bool
) -> int:
    """Print what whole recordings say; how many could not be read."""
    import json
    import sys

    from rayasr.decode.recognizer import Recognizer
    from rayasr.decode.transcribe import transcribe as transcribe_files

    recognizer = Recognizer(loaded, decoding)
    failed = 0
    for found in transcribe_files(recognizer, files, mode, loaded.recipe):
        if found.error is not None:
            failed += 1
            print(f"rayasr: {found.error}", file=sys.stderr)
        elif as_json:
            best, *_ = rows = [recognizer.describe(reading) for reading in found.nbest]
            more = {"nbest": rows} if decoding.nbest > 1 else {}
            print(json.dumps({"file": found.file} | best | more, ensure_ascii=False), flush=True)
        else:
            print(f"{found.file}\t{found.text}", flush=True)
    return failed


def _stream(
    loaded: "LoadedModel",
    decoding: "Decoding",
    mode: "Mode",
    files: list[Path],
    sample_rate: int,
    as_json: bool,
) -> int:
    """Print what is heard, one file after another; how many could not be read to their end."""
    import json
    import sys

    from rayasr.data.audio import AudioError
    from rayasr.decode.streaming import StreamingRecognizer, StreamStats, recognize

    failed = 0
    for file in files:
        recognizer, stats = StreamingRecognizer(loaded, decoding, mode), StreamStats()
        try:
            blocks = _blocks(file, sample_rate, recognizer.sample_rate)
            for event in recognize(recognizer, blocks, stats):
                if as_json:
                    values = {"file": str(file)} | recognizer.describe(event)
                    print(json.dumps(values, ensure_ascii=False), flush=True)
                else:
                    _show_line(file, event)
        except AudioError as error:
            failed += 1
            print(f"rayasr: {error}", file=sys.stderr)
            if not stats.audio_s:
                continue
        _show_stats(file, stats, as_json)
    return failed


def _blocks(file: Path, input_rate: int, sample_rate: int) -> "Iterator[Tensor]":
    """Samples (N,) at `sample_rate` of a recording or of standard input."""
    import sys
    from io import BufferedIOBase
    from typing import cast

    from rayasr.data.online_audio import file_samples, pcm_samples
    from rayasr.logs import note

    if file == STANDARD_INPUT:
        pipe = cast(BufferedIOBase, sys.stdin.buffer)
        return pcm_samples(pipe, input_rate, sample_rate, note)
    return file_samples(file, sample_rate)


def _show_line(file: Path, event: "Event") -> None:
    """A final result stays; on a terminal a partial one stands there until the next."""
    import shutil
    import sys

    live = sys.stdout.isatty()
    line = f"{file}\t{event.start_s:.2f}\t{event.end_s:.2f}\t{event.text}"
    if event.kind == "final":
        print(f"\r\x1b[K{line}" if live else line, flush=True)
    elif live:
        columns = shutil.get_terminal_size().columns
        print(f"\r\x1b[K{_last_cells(event.text, columns - 1)}", end="", flush=True)


def _last_cells(text: str, width: int) -> str:
    """The end of a text that fits into so many cells of a terminal; some characters take two."""
    from rich.cells import cell_len

    while cell_len(text) > width:
        text = "…" + text[2:]
    return text


def _show_stats(file: Path, stats: "StreamStats", as_json: bool) -> None:
    import json
    import resource
    import sys

    from rayasr.logs import note

    factor = stats.compute_s / stats.audio_s if stats.audio_s else 0.0
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if sys.platform == "darwin":  # where it is in bytes
        peak_mb /= 1024
    if as_json:
        first = None if stats.first_text_s is None else round(stats.first_text_s, 3)
        values = {
            "file": str(file),
            "kind": "end",
            "audio_s": round(stats.audio_s, 3),
            "first_text_s": first,
            "real_time_factor": round(factor, 4),
            "peak_memory_mb": round(peak_mb, 1),
        }
        print(json.dumps(values), flush=True)
        return
    heard = (
        "no text" if stats.first_text_s is None else f"first text after {stats.first_text_s:.2f} s"
    )
    note(
        f"{file}: {stats.audio_s:.1f} s of audio, {heard}, {factor:.3f} x real time, "
        f"{peak_mb:.0f} MB of memory"
    )
