"""Prints the largest difference to WeNet per quantity of ../shared/parity, beside its tolerance.

    python benchmarks/parity_table.py [PARITY_FOLDER]

Then what import and export keep of each fixture's final.pt, and how many hypotheses of WeNet's
decoding the imported model finds from the recordings in PARITY_FOLDER/../data/fsdd_aishell.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rayasr.checkpoint import load_model  # noqa: E402  # needs the repository on the path
from rayasr.config import DECODE_MODES, CorpusConfig  # noqa: E402
from rayasr.decode.recognizer import Decoding  # noqa: E402
from rayasr.decode.split import decode_split  # noqa: E402
from rayasr.score import read_text_file  # noqa: E402
from rayasr.wenet.exporting import export_wenet  # noqa: E402
from rayasr.wenet.importing import import_wenet  # noqa: E402
from tests.parity_checks import FIXTURES, all_checks  # noqa: E402


def main() -> None:
    parity = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT.parent / "shared" / "parity"
    largest: dict[tuple[str, str], tuple[float, float]] = {}
    for fixture, check in all_checks(parity):
        seen = largest.get((fixture, check.name), (0.0, check.tolerance))
        largest[fixture, check.name] = (max(seen[0], check.difference), check.tolerance)
    print(f"{'fixture':34} {'quantity':42} {'largest':>9} {'allowed':>9}")
    for (fixture, name), (difference, tolerance) in largest.items():
        mark = "" if difference <= tolerance else "  MISSED"
        print(f"{fixture:34} {name:42} {difference:9.1e} {tolerance:9.0e}{mark}")
    with TemporaryDirectory() as folder:
        for fixture in FIXTURES:
            print_round_trip(parity / fixture, Path(folder) / fixture, fixture)
        print_hypotheses(Path(folder) / FIXTURES[0] / "model", parity, Path(folder))


def print_round_trip(source: Path, folder: Path, name: str) -> None:
    """Tensors that import and export give back bit for bit, and the computed tables."""
    model = import_wenet(source, folder / "model", notes=lambda _: None)
    export_wenet(model, folder / "out", notes=lambda _: None)
    before, after = (
        torch.load(f / "final.pt", weights_only=True) for f in (source, folder / "out")
    )
    tables = [key for key in before if key.endswith(".pe")]
    equal = sum(torch.equal(before[key], after[key]) for key in before.keys() - set(tables))
    line = f"{name:34} import, export: {equal} of {len(before) - len(tables)} tensors bit-equal"
    if tables:
        largest = max(float((before[key] - after[key]).abs().max()) for key in tables)
        line += f", {len(tables)} position tables within {largest:.1e}"
    print(line)


def print_hypotheses(model: Path, parity: Path, out: Path) -> None:
    """Hypotheses equal to WeNet's, by split, context and mode.

    WeNet's attention search ends where the longest utterance of its batch of 16 ends, ours never
    looks at other utterances: only hypotheses that end by themselves can agree.
    """
    loaded = load_model(model)
    corpus = CorpusConfig(path=str(parity.parent / "data" / "fsdd_aishell"))
    recipe = loaded.recipe.model_copy(update={"corpora": (corpus,)})
    baseline = json.loads((parity / FIXTURES[0] / "baseline.json").read_text())["results"]
    for part, expected in baseline.items():
        split, context = part.split("/")
        decoding = Decoding(
            chunk_size=-1 if context == "full" else 16, ctc_weight=0.3, reverse_weight=0.5
        )
        decode_split(loaded, recipe, split, DECODE_MODES, out / part, decoding=decoding)
        for mode, theirs in expected["hyps"].items():
            ours = read_text_file(out / part / split / mode / "hyp")
            equal = sum(ours[key] == text for key, text in theirs.items())
            print(f"{part:34} {mode:42} {equal} of {len(theirs)} hypotheses equal")


if __name__ == "__main__":
    main()
