"""`rayasr transcribe`: recordings to text, whole or while the audio comes in."""

from pathlib import Path
from typing import Annotated

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


def register(app: typer.Typer) -> None:
    """Add the verb to the app."""
    app.command("transcribe")(transcribe)


def transcribe(
    run: ModelArgument,
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Recordings.")],
    mode: ModeOption = None,
    chunk_size: ChunkOption = None,
    left_chunks: LeftOption = None,
    beam_size: BeamOption = None,
    ctc_weight: WeightOption = None,
    nbest: Annotated[
        int | None,
        typer.Option("--nbest", min=1, help="With --json: also the N best hypotheses."),
    ] = None,
    devices: DevicesOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Write down recordings, a line each (file, tab, text), in the order given.

    A file that cannot be read is named on stderr, the others are transcribed; exit code 3.

    Example: rayasr transcribe runs/demo a.wav b.flac
    """
    import json
    import sys

    from rayasr.checkpoint import choose_device, load_model
    from rayasr.decode.recognizer import Decoding, Recognizer
    from rayasr.decode.transcribe import transcribe as transcribe_files
    from rayasr.errors import ConfigError, DataError

    loaded = load_model(run, choose_device(devices))
    modes = known_modes(mode or loaded.decoding["default_mode"])
    if len(modes) > 1:
        raise ConfigError("transcribe takes one --mode; `rayasr decode` compares several")
    changes = search_changes(loaded, chunk_size, left_chunks, beam_size, ctc_weight, nbest)
    recognizer = Recognizer(loaded, Decoding.of(loaded, **changes))
    failed = 0
    for found in transcribe_files(recognizer, files, modes[0], loaded.recipe):
        if found.error is not None:
            failed += 1
            print(f"rayasr: {found.error}", file=sys.stderr)
        elif as_json:
            best, *_ = rows = [recognizer.describe(reading) for reading in found.nbest]
            values = {"file": found.file} | best | ({} if nbest is None else {"nbest": rows})
            print(json.dumps(values, ensure_ascii=False), flush=True)
        else:
            print(f"{found.file}\t{found.text}", flush=True)
    if failed:
        raise typer.Exit(DataError.exit_code)
