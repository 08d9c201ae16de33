"""`rayasr decode` and `rayasr score`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from rayasr.cli.options import CorpusOption, DevicesOption, JsonOption

if TYPE_CHECKING:
    from rayasr.checkpoint import LoadedModel
    from rayasr.config import Mode, Recipe
    from rayasr.data.store import Store
    from rayasr.score import Unit

ModelArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run folder, or a model folder.")
]
ModeOption = Annotated[
    str | None,
    typer.Option(
        "--mode",
        metavar="MODE[,MODE]…",
        help="ctc_greedy_search, ctc_prefix_beam_search, attention_rescoring, attention. "
        "Default: the one chosen on dev.",
    ),
]
ChunkOption = Annotated[
    int | None,
    typer.Option("--chunk-size", min=1, help="Encoder frames per chunk; default: full context."),
]
LeftOption = Annotated[
    int | None,
    typer.Option("--left-chunks", min=0, help="Chunks of history; default: all."),
]
BeamOption = Annotated[int | None, typer.Option("--beam-size", min=1, help="Width of the search.")]
WeightOption = Annotated[
    float | None, typer.Option("--ctc-weight", min=0.0, help="CTC's weight in rescoring.")
]


def register(app: typer.Typer) -> None:
    """Add the verbs to the app."""
    app.command("decode")(decode)
    app.command("score")(score)


def decode(
    run: ModelArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where results go.")],
    store: Annotated[
        Path | None, typer.Option("--store", metavar="STORE", help="Decode a split of a store.")
    ] = None,
    corpus: CorpusOption = None,
    split: Annotated[
        str, typer.Option("--split", metavar="SPLIT[,SPLIT]…", help="What to decode.")
    ] = "test",
    mode: ModeOption = None,
    chunk_size: ChunkOption = None,
    left_chunks: LeftOption = None,
    beam_size: BeamOption = None,
    ctc_weight: WeightOption = None,
    unit: Annotated[
        str | None,
        typer.Option(
            "--unit",
            metavar="char|word|mixed",
            help="What errors are counted in. Default: the recipe's decode.unit.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            min=1,
            help="Models that share the work under Ray, one per GPU or CPU; joins the cluster of "
            "RAY_ADDRESS. Interrupted, the same command goes on. Default: this process alone.",
        ),
    ] = None,
    devices: DevicesOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Decode and score a split; several modes share one encoder pass.

    Mode and CTC weight are first chosen on the store's dev split, where that was not done yet.

    Example: rayasr decode runs/demo --store runs/demo/store --split test --out runs/demo/test
    """
    from rayasr.checkpoint import choose_device, load_model
    from rayasr.decode.recognizer import Decoding
    from rayasr.decode.split import decode_split, write_result
    from rayasr.errors import ConfigError

    if workers is not None and store is None:
        raise ConfigError(
            "--workers decodes a store; make one by `rayasr data prepare`, or leave --workers out"
        )
    asked = None if mode is None else known_modes(mode)
    scoring = {} if unit is None else {"unit": _known_unit(unit)}
    # With workers, the GPUs asked for are theirs; this process takes one if there is one.
    here = "auto" if workers is not None and devices == "cuda" else devices
    loaded = load_model(run, choose_device(here))
    changes = search_changes(loaded, chunk_size, left_chunks, beam_size, ctc_weight)
    names = list(dict.fromkeys(split.split(",")))
    source = _source(loaded, store, corpus, names)
    needs_weight = ctc_weight is None and "attention_rescoring" in (asked or ())
    if store is not None and names != ["dev"] and (asked is None or needs_weight):
        loaded = _with_choice(loaded, source, run)
    modes = asked or known_modes(loaded.decoding["default_mode"])
    decoding = Decoding.of(loaded, **changes)
    config = loaded.recipe.decode.model_copy(update=scoring)
    if workers is None:
        splits = {
            name: decode_split(loaded, source, name, modes, out, decoding=decoding, config=config)
            for name in names
        }
    else:
        from rayasr.ray_decode import decode_store

        splits = decode_store(
            loaded,
            cast("Store", source),  # --corpus was refused above
            names,
            modes,
            out,
            workers=workers,
            devices=devices,
            decoding=decoding,
            config=config,
        )
    default = loaded.decoding["default_mode"]
    result = write_result(out, default if default in modes else modes[0], splits)
    _print_result(result, out, as_json)


def score(
    reference: Annotated[Path, typer.Argument(metavar="REF", help="Kaldi text: key, text.")],
    hypothesis: Annotated[Path, typer.Argument(metavar="HYP", help="The same for hypotheses.")],
    unit: Annotated[
        str, typer.Option("--unit", metavar="char|word|mixed", help="What errors are counted in.")
    ] = "char",
    utt2spk: Annotated[
        Path | None,
        typer.Option("--utt2spk", metavar="FILE", help="Speakers, for the interval."),
    ] = None,
    alignments: Annotated[
        Path | None, typer.Option("--alignments", metavar="FILE", help="Write alignments there.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Errors between two text files, with a 95 % interval.

    A missing hypothesis counts as deletions. Example: rayasr score ref hyp --unit word
    """
    import json

    from rayasr.score import UNIT_RULES, alignment_text, score_files
    from rayasr.storage import write_atomic

    found = score_files(reference, hypothesis, _known_unit(unit), utt2spk)
    rule = f"{UNIT_RULES[found.unit]}; text as it stands in the files"
    if alignments is not None:
        write_atomic(alignments, alignment_text(found))
    if as_json:
        values = found.to_json() | {"unit": unit, "text_rule": rule, "missing": found.missing}
        typer.echo(json.dumps(values, ensure_ascii=False))
        return
    typer.echo(found.sentence())
    typer.echo(f"counted in {rule}")
    if found.missing:
        typer.echo(f"{len(found.missing)} without a hypothesis: {', '.join(found.missing[:5])}")


def _source(
    loaded: "LoadedModel", store: Path | None, corpus: list[Path] | None, splits: list[str]
) -> "Store | Recipe":
    """A store that has the splits, or the model's recipe with other corpora.

    Raises ConfigError for both or none of them, DataError for a store that does not fit.
    """
    from rayasr.config import with_corpora
    from rayasr.data.store import Store
    from rayasr.errors import ConfigError

    if (store is None) == (not corpus):
        raise ConfigError("decode needs one of --store STORE and --corpus DIR")
    if store is None:
        return with_corpora(loaded.recipe, corpus or [])
    source = Store.open(store)
    _check_features(source, loaded)
    for name in splits:
        source.split(name)
    return source


def _with_choice(loaded: "LoadedModel", store: Any, run: Path) -> "LoadedModel":
    """The model with settings chosen on the store's dev split, unless they have been chosen."""
    from rayasr.average import mirror_model
    from rayasr.checkpoint import DECODING_FILE
    from rayasr.decode.split import choose_and_keep
    from rayasr.logs import note

    if loaded.decoding["chosen_on"]:
        return loaded
    note("decoding settings are not chosen yet; choosing them on the store's dev split")
    chosen = choose_and_keep(loaded, store, loaded.recipe.decode)
    if loaded.path != run:  # a run's own model, not one that was copied to work with it
        mirror_model(loaded.path, loaded.recipe, note, (DECODING_FILE,))
    return chosen


def _print_result(result: dict[str, Any], out: Path, as_json: bool) -> None:
    import json

    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False))
        return
    for name, by_mode in result["splits"].items():
        for found, counts in by_mode.items():
            typer.echo(f"{name} {found} {_rate(counts)}")
    typer.echo(f"{out / 'result.json'}; hypotheses and alignments beside it, by split and mode")


def _known_unit(unit: str) -> "Unit":
    """The unit of that name; raises ConfigError."""
    from rayasr.errors import ConfigError
    from rayasr.score import UNIT_RULES

    if unit not in UNIT_RULES:
        raise ConfigError(f"--unit '{unit}' is not one of {', '.join(UNIT_RULES)}")
    return unit


def known_modes(text: str) -> "list[Mode]":
    """Modes named in an option, each once; raises ConfigError for one that is not known."""
    from rayasr.config import DECODE_MODES
    from rayasr.errors import ConfigError

    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in DECODE_MODES:
            raise ConfigError(f"unknown mode '{name}'; the modes are {', '.join(DECODE_MODES)}")
    return names  # type: ignore[return-value]  # looked at one by one above


def search_changes(
    loaded: "LoadedModel",
    chunk_size: int | None,
    left_chunks: int | None,
    beam_size: int | None,
    ctc_weight: float | None,
    nbest: int | None = None,
) -> dict[str, Any]:
    """The search settings that were given; raises ConfigError for what the model cannot do."""
    from rayasr.errors import ConfigError

    if left_chunks is not None and chunk_size is None:
        raise ConfigError("--left-chunks needs --chunk-size; full context has no chunks")
    if chunk_size is not None and not loaded.recipe.model.encoder.dynamic_chunk:
        raise ConfigError(
            "this model was trained on full context only; --chunk-size needs a model trained with "
            "model.encoder.dynamic_chunk"
        )
    beam = beam_size or loaded.decoding["beam_size"]
    if nbest is not None and nbest > beam:
        raise ConfigError(f"--nbest {nbest} is more than a beam of {beam} finds; set --beam-size")
    given = {
        "chunk_size": chunk_size,
        "left_chunks": left_chunks,
        "beam_size": beam_size,
        "ctc_weight": ctc_weight,
        "nbest": nbest,
    }
    return {name: value for name, value in given.items() if value is not None}


def _check_features(store: "Store", loaded: "LoadedModel") -> None:
    """Raise DataError where a store's features are others than the model was trained on."""
    from rayasr.errors import DataError

    ours, theirs = loaded.recipe.features, store.recipe.features
    same = ours.model_copy(update={"dither": theirs.dither, "backend": theirs.backend})
    if same != theirs:
        raise DataError(
            f"store {store.path} has other features than the model was trained on; "
            "decode from the recordings by --corpus DIR"
        )


def _rate(counts: dict[str, Any]) -> str:
    name = "cer" if "cer" in counts else "wer"
    low, high = counts["ci95"]
    return (
        f"{name.upper()} {counts[name]:.2f} % ({counts['errors']} errors of "
        f"{counts['reference_units']}: {counts['sub']} sub, {counts['del']} del, "
        f"{counts['ins']} ins), 95 % {low:.2f}-{high:.2f}"
    )
