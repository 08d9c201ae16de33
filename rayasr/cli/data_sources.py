"""`rayasr data download` and `rayasr data synthesize`: corpora to start with."""

from pathlib import Path
from typing import Annotated

import typer

from rayasr.cli.options import JsonOption


def register_sources(data_app: typer.Typer) -> None:
    """Add the verbs to `rayasr data`."""
    data_app.command("download")(download)
    data_app.command("synthesize")(synthesize)


def download(
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="Which corpus: aishell.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where it goes.")],
    base_urls: Annotated[
        list[str] | None,
        typer.Option(
            "--base-url",
            metavar="URL",
            help="Server folder to fetch from instead of OpenSLR and its mirrors; "
            "may be repeated, the first that answers is used.",
        ),
    ] = None,
    remove_archives: Annotated[
        bool, typer.Option("--remove-archives", help="Delete archives once they are unpacked.")
    ] = False,
) -> None:
    """Fetch, check and unpack a public corpus: AISHELL-1 (15 GB, 36 GB with its recordings).

    Run again after a stop: it goes on where it was.

    Example: rayasr data download aishell /data/aishell
    """
    from rayasr.corpora.download import AISHELL_URLS, download_aishell
    from rayasr.errors import ConfigError
    from rayasr.logs import note, progress

    if corpus != "aishell":
        raise ConfigError(f"unknown corpus '{corpus}'; known: aishell")
    with progress("download") as line:
        root = download_aishell(
            folder,
            base_urls=base_urls or AISHELL_URLS,
            keep_archives=not remove_archives,
            notes=note,
            progress=lambda what, done, total: line.update(done, what, total),
        )
    typer.echo(
        f"{root} is ready; next: rayasr run configs/aishell_u2pp_conformer.yaml "
        f"--corpus {root} --out runs/aishell"
    )


def synthesize(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the corpus goes.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed, another corpus.")] = 0,
    speakers: Annotated[
        int | None, typer.Option("--speakers", min=1, help="Training speakers.")
    ] = None,
    sentences: Annotated[
        int | None, typer.Option("--sentences", min=1, help="Sentences per training speaker.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Speak a small Mandarin corpus (half an hour) in AISHELL-1's layout; needs the extra `demo`.

    Example: rayasr data synthesize runs/demo/corpus
    """
    import json

    from rayasr.corpora.synthetic import SyntheticSize, make_synthetic_corpus
    from rayasr.logs import progress

    default = SyntheticSize()
    size = SyntheticSize(
        train_speakers=speakers or default.train_speakers,
        train_sentences=sentences or default.train_sentences,
    )
    with progress("speak") as line:
        summary = make_synthetic_corpus(
            folder,
            seed=seed,
            size=size,
            progress=lambda done, total: line.update(done, "utterances", total),
        )
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        typer.echo(
            f"{folder}: {summary['utterances']} utterances, {summary['seconds'] / 60:.1f} minutes"
        )
