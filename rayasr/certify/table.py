"""A certificate for a person: a line per model and runtime, then what is wrong with them."""

from rayasr.certify.certificate import Certificate, Outcome, Row, context_name
from rayasr.config import Mode
from rayasr.score import RATE_NAMES, UNIT_RULES

MODE_NAMES: dict[Mode, str] = {
    "ctc_greedy_search": "greedy",
    "ctc_prefix_beam_search": "prefix beam",
    "attention": "attention",
    "attention_rescoring": "rescoring",
}
NUMBERS = ("%", "errors", "checkpoint", "agree", "MB", "RTF")
"""Columns that stand right-justified."""


def table(certificate: Certificate) -> tuple[list[str], list[list[str]]]:
    """Titles and cells: the checkpoint in each mode and context, then every model and runtime."""
    titles = ["model", "runtime", "features", "context", "search", *NUMBERS, "verdict"]
    rate = RATE_NAMES[certificate.unit].upper()
    titles[titles.index("%")] = f"{rate} %"
    lines = []
    for item in certificate.checkpoint:
        default = " *" if item.mode == certificate.default_mode else ""
        context = context_name(item.chunk_size, item.left_chunks)
        cells = ["checkpoint", "rayasr", "rayasr", context, MODE_NAMES[item.mode] + default]
        rate_and_errors, factor = _figures(item.outcome)
        lines.append([*cells, *rate_and_errors, "", "", "", factor, ""])
    lines += [_row_cells(row, certificate.default_mode) for row in certificate.rows]
    return titles, lines


def remarks(certificate: Certificate) -> list[str]:
    """What the table does not say."""
    refused = [f"not tried: {reason}" for reason in certificate.refused]
    counted = f"{UNIT_RULES[certificate.unit]}; {certificate.text_rule}"
    lines = [
        f"{certificate.split} of {certificate.corpus}, {certificate.utterances} utterances, "
        f"counted in {counted}",
        "* the model's default mode; RTF: CPU seconds of one thread per second of audio",
        *refused,
        *(f"FAILED: {failure}" for failure in certificate.failures),
    ]
    return [*lines, certificate.advice] if certificate.advice else lines


def _row_cells(row: Row, default_mode: Mode) -> list[str]:
    default = " *" if row.mode == default_mode else ""
    (rate, errors), factor = _figures(row.outcome)
    return [
        row.model,
        f"{row.runtime} {row.version}",
        row.front_end,
        context_name(row.chunk_size, row.left_chunks),
        MODE_NAMES[row.mode] + default,
        rate,
        errors,
        f"{row.checkpoint.rate:.2f}",
        f"{row.agreeing} of {row.utterances}",
        f"{row.size_bytes / 1e6:.1f}",
        factor,
        "failed" if row.faults else "passed",
    ]


def _figures(outcome: Outcome) -> tuple[list[str], str]:
    return [f"{outcome.rate:.2f}", str(outcome.errors)], f"{outcome.real_time_factor:.4f}"
