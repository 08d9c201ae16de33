"""Certificates of all formats of a model, side by side, and whether planted defects are caught.

    python benchmarks/bench_certificates.py RUN CORPUS [--split test] [--max-loss 0.3] [--defects]

Exports RUN in every format that can hold it (with int8, for every runtime whatever its features)
into a temporary folder, certifies each on the corpus, and prints one table. With --defects each
export is spoilt in each way that tests/export_defects.py knows for its format, and certified again
(in the runtimes whose features the model knows): what that certificate says anew is printed.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rayasr.certify.certificate import Certificate
from rayasr.certify.certify import certify
from rayasr.checkpoint import find_model
from rayasr.cli.certify import print_certificate
from rayasr.errors import RayasrError
from tests.export_defects import DEFECTS, FULL_EXPORTERS


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--max-loss", type=float, default=0.3)
    parser.add_argument("--defects", action="store_true")
    options = parser.parse_args()
    model = find_model(options.run)

    def certified(folder: Path, force: bool = False) -> Certificate:
        return certify(
            folder, options.corpus, options.split, max_loss=options.max_loss, force=force
        )

    with tempfile.TemporaryDirectory() as work:
        found: dict[str, Certificate] = {}
        for name, exporter in FULL_EXPORTERS.items():
            try:
                exporter(model, Path(work) / name)
                found[name] = certified(Path(work) / name, force=True)
            except RayasrError as error:
                print(f"{name}: {error}")
        print_certificate(_together(list(found.values())))
        for name in found if options.defects else ():
            for defect, plant in DEFECTS.items():
                folder = Path(work) / "spoilt"
                shutil.rmtree(folder, ignore_errors=True)
                shutil.copytree(Path(work) / name, folder)
                if plant(model, folder, FULL_EXPORTERS[name]):
                    print(f"{name}, {defect}: {_verdict(folder, certified, found[name])}")


def _together(certificates: list[Certificate]) -> Certificate:
    """All rows in one table, beside the checkpoint in every mode and context that one has."""
    references = {
        (item.mode, item.chunk_size, item.left_chunks): item
        for certificate in certificates
        for item in certificate.checkpoint
    }
    return replace(
        certificates[0],
        checkpoint=tuple(references.values()),
        rows=tuple(row for certificate in certificates for row in certificate.rows),
        faults=tuple(fault for certificate in certificates for fault in certificate.faults),
        advice="; ".join(item.advice for item in certificates if item.advice),
    )


def _verdict(folder: Path, certified: Callable[[Path], Certificate], unspoilt: Certificate) -> str:
    """What a certificate says of a spoilt export that it did not say before."""
    try:
        failures = [x for x in certified(folder).failures if x not in unspoilt.failures]
    except RayasrError as error:
        return f"caught: {error}"
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    return f"caught: {failures[0]}{more}" if failures else "MISSED"


if __name__ == "__main__":
    main()
