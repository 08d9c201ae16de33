"""Prints the largest difference to WeNet per quantity of ../shared/parity, beside its tolerance.

python benchmarks/parity_table.py [PARITY_FOLDER]
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.parity_checks import all_checks  # noqa: E402  # needs the repository on the path


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


if __name__ == "__main__":
    main()
