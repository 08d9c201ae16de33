"""CTC search: greedy, a prefix beam search with WeNet's n-best, scores and times, alignment.

Prefix search is plain Python over the best units of each frame, which leave torch once per call. It
is exact: what the pruning leaves out could not have been kept (see `_advance`). Both searches go on
from where they are when more frames come, so streaming and whole utterances share every line.
"""

from collections.abc import Sequence
from math import exp, inf, log
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rayasr.decode.hypothesis import Hypothesis, mean_probability
from rayasr.model.alignment import best_path

BLANK = 0
_NEGLIGIBLE = -37.0  # 1 + exp(x) == 1 in float64 below this, so the sum of two is the larger one


def ctc_greedy(log_probs: Tensor, lengths: Tensor) -> list[Hypothesis]:
    """The best unit of every frame, repeats and blanks removed.

    `log_probs` (B, T, V) and `lengths` (B,); the score is that of the one best path.
    """
    hypotheses = []
    for i, length in enumerate(lengths.tolist()):
        search = GreedySearch()
        search.advance(log_probs[i, :length])
        hypotheses += search.nbest()
    return hypotheses


def ctc_prefix_beam(log_probs: Tensor, lengths: Tensor, beam_size: int) -> list[list[Hypothesis]]:
    """The `beam_size` best prefixes of each utterance, best first, found frame by frame.

    `log_probs` (B, T, V), `lengths` (B,). In each frame only the `beam_size` best units are looked
    at, as in WeNet; a beam larger than the vocabulary takes all of it.
    """
    nbests = []
    for i, length in enumerate(lengths.tolist()):
        search = PrefixSearch(beam_size)
        search.advance(log_probs[i, :length])
        nbests.append(search.nbest())
    return nbests


class GreedySearch:
    """Greedy search of one utterance, whose frames may come in several calls."""

    def __init__(self) -> None:
        self._path: list[int] = []
        self._scores: list[float] = []

    def advance(self, log_probs: Tensor) -> None:
        """Take in the next frames: log-probabilities (T, V)."""
        best, units = log_probs.detach().max(dim=1)  # (T,)
        self._path += units.tolist()
        self._scores += best.tolist()

    def nbest(self) -> list[Hypothesis]:
        """The one hypothesis; a time is the last frame of a unit's run."""
        path = [*self._path, BLANK]
        runs, start = [], 0
        for t, unit in enumerate(self._path):
            if path[t + 1] != unit:
                if unit != BLANK:
                    runs.append((unit, t, exp(max(self._scores[start : t + 1]))))
                start = t + 1
        units, ends, confidences = zip(*runs, strict=True) if runs else ((), (), ())
        score = sum(self._scores)
        mean = mean_probability(score, len(units))
        return [Hypothesis(units, score, ends, mean, confidences)]


class PrefixSearch:
    """Prefix beam search of one utterance, whose frames may come in several calls."""

    def __init__(self, beam_size: int) -> None:
        self._beam_size = beam_size
        self._trie: dict[tuple[int, int], int] = {}  # (node, unit) -> node of the longer prefix
        # WeNet starts the best path that ends in a unit at 0 too: it decides between equal paths.
        self._beam: list[_Prefix] = [(0.0, 0, 0.0, -inf, 0.0, 0.0, (), (), 0, -1, -1)]
        self._values: list[dict[int, float]] = []  # of the best units of each frame so far

    def advance(self, log_probs: Tensor) -> None:
        """Take in the next frames: log-probabilities (T, V)."""
        top = log_probs.detach().topk(min(self._beam_size, log_probs.shape[1]), dim=1)
        beam, trie, size = self._beam, self._trie, self._beam_size
        rows = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        for frame, (units, values) in enumerate(rows, len(self._values)):
            value_of = dict(zip(units, values))  # noqa: B905  # strict= costs a tenth of this search
            beam = _advance(beam, frame, units, value_of, size, trie)
            self._values.append(value_of)
        self._beam = beam

    def nbest(self) -> list[Hypothesis]:
        """The prefixes that are kept, best first; a time is the last frame of a unit's run."""
        links = list(self._trie)  # the n-th link leads to node n
        peaks: dict[tuple[int, int, int], float] = {}
        hypotheses = []
        for prefix in self._beam:
            total, _, _, _, best_blank, best_unit, times_blank, times_unit, node, _, _ = prefix
            units = _spell(node, links)
            ends = _unroll(times_blank if best_blank > best_unit else times_unit)
            mean = mean_probability(total, len(units))
            confidences = self._confidences(units, ends, peaks)
            hypotheses.append(Hypothesis(units, total, ends, mean, confidences))
        return hypotheses

    def _confidences(
        self,
        units: tuple[int, ...],
        ends: tuple[int, ...],
        peaks: dict[tuple[int, int, int], float],
    ) -> tuple[float, ...]:
        """Each unit's highest probability since the end of the one before it.

        `peaks` keeps those of (unit, start, end), for the prefixes have most of them in common.
        """
        found, start = [], 0
        for unit, end in zip(units, ends, strict=False):  # a prefix without a path has no times
            key = unit, start, end
            peak = peaks.get(key)
            if peak is None:
                frames = self._values[start : end + 1]
                peak = peaks[key] = exp(max([values.get(unit, -inf) for values in frames]))
            found.append(peak)
            start = end + 1
        return tuple(found)


def ctc_alignment(
    log_probs: Tensor, lengths: Tensor, units: Sequence[Sequence[int]]
) -> list[tuple[int, ...]]:
    """For given units, the last frame of each one's run on their best CTC path.

    `log_probs` (B, T, V) with T > 0, `lengths` (B,). () where the frames are too few for the units
    or every path is impossible.
    """
    tokens = pad_sequence([torch.tensor(row, dtype=torch.int64) for row in units], batch_first=True)
    counts = torch.tensor([len(row) for row in units])
    paths, scores = best_path(log_probs.double(), lengths, tokens, counts)
    found = []
    for path, score, row in zip(paths.tolist(), scores.tolist(), units, strict=True):
        ends = {unit: frame for frame, unit in enumerate(path)}
        found.append(tuple(ends[i] for i in range(len(row))) if score > -inf else ())
    return found


# A kept prefix is one tuple, because unpacking a tuple is the cheapest thing Python does:
#   (total, order, blank, unit, best_blank, best_unit, times_blank, times_unit, node, last, parent)
# total        log-probability of the prefix, log(exp(blank) + exp(unit))
# order        minus the position at which WeNet would have created it: decides between equal totals
# blank, unit  log-probability of the paths that end in blank, and in the prefix's last unit
# best_*       the same for the single best path, which times_* belong to (Viterbi)
# times_*      linked (earlier times, frame), shared between prefixes; () before the first unit
# node         number of the prefix in the trie; last: its last unit; parent: node without `last`
_Prefix = tuple[float, int, float, float, float, float, Any, Any, int, int, int]


def _advance(
    beam: list[_Prefix],
    frame: int,
    units: list[int],
    value_of: dict[int, float],
    beam_size: int,
    trie: dict[tuple[int, int], int],
) -> list[_Prefix]:
    """The beam after one more frame.

    A kept prefix stays by a blank or by its last unit once more. Only a prefix whose parent is kept
    too can also be reached by an extension, so that is added to its stay, and all other extensions
    are new prefixes. With every stay known, an extension below the worst of them cannot be kept
    where the stays alone fill the beam: extensions are tried by falling unit and falling prefix
    until there.
    """
    kept, worst = _stays(beam, frame, units, value_of, beam_size)
    best_total = beam[0][0]
    nodes: set[int] = set()
    for rank, unit in enumerate(units):
        value = value_of[unit]
        if best_total + value < worst:
            break
        if unit == BLANK:
            continue
        nodes = nodes or {prefix[8] for prefix in beam}
        for place, prefix in enumerate(beam, rank * beam_size):
            total, _, blank, _, best_blank, best_unit, times_blank, times_unit, node, last, _ = (
                prefix
            )
            score, best, times, order = total + value, best_unit, times_unit, -2 * place
            if score < worst:
                break
            if unit == last:  # only after a blank is the same unit a new one
                score, best, times, order = blank + value, best_blank, times_blank, order - 1
                if score < worst:
                    continue
            elif best_blank > best_unit:
                best, times = best_blank, times_blank
            child = trie.setdefault((node, unit), len(trie) + 1)
            if child not in nodes:  # else it is part of that prefix's stay
                best += value
                times = (times, frame) if best > -inf else ()
                kept.append((score, order, -inf, score, -inf, best, (), times, child, unit, node))
        if len(kept) > 2 * beam_size:
            kept.sort(reverse=True)
            del kept[beam_size:]
            worst = kept[-1][0]
    kept.sort(reverse=True)
    return kept[:beam_size]


def _stays(
    beam: list[_Prefix], frame: int, units: list[int], value_of: dict[int, float], beam_size: int
) -> tuple[list[_Prefix], float]:
    """The prefixes that blank or their last unit, if among this frame's best, leaves as they are.

    Includes what an extension of a kept parent by that last unit adds. Also returns the worst
    total, or -inf where the beam has room for more. Written out in one piece: this runs for each
    prefix in each frame, and calls would double its cost.
    """
    blank_value = value_of.get(BLANK, -inf)
    blank_first, blank_stays = units[0] == BLANK, BLANK in value_of
    places = {prefix[8]: place for place, prefix in enumerate(beam)}
    stays: list[_Prefix] = []
    worst = inf
    for place, prefix in enumerate(beam):
        total, _, _, unit, best_blank, best, ends_blank, ends, node, last, parent = prefix
        if best_blank <= best:
            best_blank, ends_blank = best, ends
        value = value_of.get(last)
        above = -1
        if value is not None:
            unit += value
            best += value
            ends = (ends[0], frame) if best > -inf else ()
            above = places.get(parent, -1)
            if above >= 0:  # the parent too comes here, by one more unit
                score, _, blank, _, path, other, times, other_times, _, parent_last, _ = beam[above]
                if parent_last == last:
                    score = blank
                elif path <= other:
                    path, times = other, other_times
                score += value
                path += value
                if score > unit:
                    score, unit = unit, score
                if score - unit > _NEGLIGIBLE:
                    unit += log(1.0 + exp(score - unit))
                if path > best:
                    best, ends = path, (times, frame)
                elif above < place and path > -inf:
                    # As in WeNet, the times of a parent ranked before the prefix stand.
                    ends = (times, frame)
        elif blank_stays:
            unit, best, ends = -inf, -inf, ()
        else:
            continue
        blank = total + blank_value
        total, low = (blank, unit) if blank > unit else (unit, blank)
        if low - total > _NEGLIGIBLE:  # false where both are -inf: their difference is nan
            total += log(1.0 + exp(low - total))
        if total < worst:
            worst = total
        order = -2 * place
        if not blank_first:
            order = _order(place, beam_size, units, last, above, beam)
        best_blank += blank_value
        stays.append(
            (total, order, blank, unit, best_blank, best, ends_blank, ends, node, last, parent)
        )
    return stays, worst if len(stays) >= beam_size else -inf


def _order(
    place: int,
    beam_size: int,
    units: list[int],
    last: int,
    parent_place: int,
    beam: list[_Prefix],
) -> int:
    """Minus the position at which WeNet would first have come to this stay in this frame."""
    positions = []
    if BLANK in units:
        positions.append(2 * (units.index(BLANK) * beam_size + place))
    if last in units:
        first = units.index(last) * beam_size
        positions.append(2 * (first + place))
        if parent_place >= 0:  # a repeated unit comes after the stay of its parent
            positions.append(2 * (first + parent_place) + (beam[parent_place][9] == last))
    return -min(positions)


def _spell(node: int, links: list[tuple[int, int]]) -> tuple[int, ...]:
    """Units of a trie node, first to last."""
    units: list[int] = []
    while node:
        node, unit = links[node - 1]
        units.append(unit)
    return tuple(reversed(units))


def _unroll(times: Any) -> tuple[int, ...]:
    """The frames of a linked list, first to last."""
    frames: list[int] = []
    while times:
        times, frame = times
        frames.append(frame)
    return tuple(reversed(frames))
