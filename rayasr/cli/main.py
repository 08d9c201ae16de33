"""The command `rayasr`: one verb per stage, files in and files out."""

import os
import sys
import threading
from importlib.metadata import entry_points

import typer

from rayasr.errors import RayasrError


def build_app() -> typer.Typer:
    """The whole command tree; modules of the verbs import what is heavy only when they run."""
    from rayasr.cli import (
        certify,
        config,
        data,
        data_sources,
        decode,
        export,
        import_,
        run,
        train,
        transcribe,
    )

    app = typer.Typer(
        name="rayasr",
        help="Trains speech recognisers on any number of machines.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode="rich",
    )
    run.register(app)
    data_sources.register_sources(data.data_app)
    app.add_typer(data.data_app, name="data")
    train.register(app)
    decode.register(app)
    transcribe.register(app)
    export.register(app)
    certify.register(app)
    app.add_typer(import_.import_app, name="import")
    app.add_typer(config.config_app, name="config")
    for entry_point in entry_points(group="rayasr.commands"):  # the launcher's verbs
        entry_point.load()(app)
    return app


def main() -> None:
    """Run a verb; what rayasr can explain is one sentence and an exit code, never a traceback."""
    # Before torch loads: spinning threads cost four times the CPU on shared cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        build_app()()
        code = 0
    except RayasrError as error:
        print(f"rayasr: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except SystemExit as error:  # how typer ends a verb
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    _leave(code)


def _leave(code: int) -> None:
    """End the process; at once where a second Ctrl-C left a training thread computing.

    Python's orderly end would abort the process (SIGABRT) under such a thread.
    """
    if any(thread.name == "fit" for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
