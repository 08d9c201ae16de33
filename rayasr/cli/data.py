"""`rayasr data prepare` and `rayasr data inspect`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayasr.cli.options import CorpusOption, JsonOption, RecipeArgument, SetOption

if TYPE_CHECKING:
    from rich.console import Console

    from rayasr.data.store import Store

data_app = typer.Typer(
    help="Get corpora, turn them into a store, look at it.", no_args_is_help=True
)

HISTOGRAM_BARS = 12
BAR_WIDTH = 40


@data_app.command()
def prepare(
    recipe: RecipeArgument,
    out: Annotated[str, typer.Option("--out", metavar="STORE", help="Folder of the store.")],
    corpus: CorpusOption = None,
    overrides: SetOption = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Check finished shards and their audio; make anew what is damaged or changed.",
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a store that another recipe made.")
    ] = False,
) -> None:
    """Turn a corpus into features: a store to train on.

    Joins the Ray cluster of RAY_ADDRESS where that is set. Interrupted or run again, it goes on
    with what is missing.
    """
    from rayasr.config import load_recipe, with_corpora
    from rayasr.ray_data import prepare_store

    resolved = with_corpora(load_recipe(recipe, overrides or ()), corpus or ())
    prepare_store(resolved, out, force=force, verify=verify)
    typer.echo(out)


@data_app.command()
def inspect(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Folder of a store.")],
    as_json: JsonOption = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every payload against its checksum too.")
    ] = False,
) -> None:
    """Show what a store holds: hours, speakers, lengths, units, and what was left out and why."""
    from rayasr.data.store import Store

    opened = Store.open(store, verify=verify)
    described = describe(opened)
    if as_json:
        typer.echo(json.dumps(described, indent=2, ensure_ascii=False))
    else:
        _show(opened, described)


def describe(store: "Store") -> dict[str, Any]:
    """What `inspect --json` prints."""
    import numpy as np

    seconds = [store.split(name).seconds for name in store.info["splits"]]
    lengths = np.concatenate(seconds) if seconds else np.zeros(0)
    counts, edges = np.histogram(lengths, bins=HISTOGRAM_BARS)
    keys = ["recipe", "payload", "utterances", "hours", "splits", "corpora", "rejects"]
    keys += ["rejects_by_reason", "rates", "channels"]
    return {
        "store": str(store.path),
        **{key: store.info[key] for key in keys},
        "units": store.tokenizer.vocab_size,
        "unit_kind": store.tokenizer.kind,
        "bytes": sum(shard["bytes"] for shard in store.info["shards"]),
        "shards": len(store.info["shards"]),
        "length_histogram": [
            {"from_s": round(float(start), 3), "to_s": round(float(end), 3), "utterances": int(n)}
            for start, end, n in zip(edges[:-1], edges[1:], counts, strict=True)
        ],
    }


def _show(store: "Store", described: dict[str, Any]) -> None:
    """The same for a person."""
    from rich.console import Console

    console = Console(highlight=False)
    console.print(
        f"[bold]{described['store']}[/bold]\n{described['utterances']:,} utterances, "
        f"{described['hours']:.2f} hours, {described['bytes'] / 1e6:,.1f} MB of "
        f"{described['payload']} in {described['shards']:,} shards"
    )
    _show_splits(console, described)
    _show_lengths(console, described)
    _show_units(console, store, described)
    recordings = [
        ", ".join(f"{n:,} at {int(rate):,} Hz" for rate, n in described["rates"].items()),
        ", ".join(f"{n:,} with {c} channel(s)" for c, n in described["channels"].items()),
    ]
    console.print(
        f"\n[bold]recordings[/bold]  {'; '.join(recordings)}; "
        f"used as one channel at {store.recipe.features.sample_rate:,} Hz"
    )
    _show_rejects(console, store, described)


def _show_splits(console: "Console", described: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", title=None)
    for column in ("split", "utterances", "hours", "speakers"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for name, split in described["splits"].items():
        table.add_row(
            name, f"{split['utterances']:,}", f"{split['hours']:.2f}", f"{split['speakers']:,}"
        )
    console.print()
    console.print(table)
    if len(described["corpora"]) > 1:
        for corpus in described["corpora"]:
            console.print(f"corpus {corpus['path']}: {corpus['utterances']:,} utterances")


def _show_lengths(console: "Console", described: dict[str, Any]) -> None:
    bars = described["length_histogram"]
    most = max((bar["utterances"] for bar in bars), default=0) or 1
    console.print("\n[bold]length in seconds[/bold]")
    for bar in bars:
        width = -(-bar["utterances"] * BAR_WIDTH // most)
        console.print(
            f"{bar['from_s']:6.1f} to {bar['to_s']:5.1f}  [cyan]{'█' * width}[/cyan]"
            f" {bar['utterances']:,}"
        )


def _show_units(console: "Console", store: "Store", described: dict[str, Any]) -> None:
    shown = store.tokenizer.units[:24]
    more = " …" if described["units"] > len(shown) else ""
    console.print(
        f"\n[bold]{described['units']:,} units[/bold] ({described['unit_kind']})  ", end=""
    )
    console.print(" ".join(shown) + more, markup=False)


def _show_rejects(console: "Console", store: "Store", described: dict[str, Any]) -> None:
    if not described["rejects"]:
        console.print("\n[bold]no rejects[/bold]")
        return
    console.print(f"\n[bold]{described['rejects']:,} rejects[/bold], all in rejects.parquet")
    for reason, count in described["rejects_by_reason"].items():
        example = next(item for item in store.rejects if item.reason == reason)
        detail = example.detail or example.audio
        console.print(f"{count:7,} {reason}, such as {example.key}: {detail}", markup=False)
