"""A plain textbook prefix beam search with WeNet's tie rules: slow and obvious."""

import math
from dataclasses import dataclass, field

INF = math.inf


@dataclass
class Score:
    """Paths of a prefix that end in blank (s) and in its last unit (ns); v_*: the best one."""

    s: float = -INF
    ns: float = -INF
    v_s: float = -INF
    v_ns: float = -INF
    token: float = -INF
    times_s: list = field(default_factory=list)
    times_ns: list = field(default_factory=list)

    def total(self):
        return log_add(self.s, self.ns)

    def best(self):
        return max(self.v_s, self.v_ns)

    def times(self):
        return self.times_s if self.v_s > self.v_ns else self.times_ns

    def extend(self, score, best, times, value, t):
        self.ns = log_add(self.ns, score + value)
        if self.v_ns < best + value:
            self.v_ns, self.token, self.times_ns = best + value, value, [*times, t]

    def repeat(self, old, value, t):
        self.ns = log_add(self.ns, old.ns + value)
        if self.v_ns < old.v_ns + value:
            self.v_ns = old.v_ns + value
            if self.token < value:  # a parent that came first keeps its times
                self.token, self.times_ns = value, [*old.times_ns[:-1], t]


def log_add(a, b):
    top = max(a, b)
    if top == -INF:
        return -INF
    return top + math.log(math.exp(a - top) + math.exp(b - top))


def prefix_beam(log_probs, beam_size):
    """n-best of (units, score, times) of one utterance; `log_probs` is a (T, V) tensor."""
    beam = [((), Score(s=0.0, v_s=0.0, v_ns=0.0))]
    for t, row in enumerate(log_probs):
        values, units = row.topk(min(beam_size, len(row)))
        following = {}
        for u, value in zip(units.tolist(), values.tolist(), strict=True):
            for prefix, old in beam:
                if u == 0:
                    new = following.setdefault(prefix, Score())
                    new.s = log_add(new.s, old.total() + value)
                    new.v_s, new.times_s = old.best() + value, old.times()
                elif prefix and u == prefix[-1]:
                    following.setdefault(prefix, Score()).repeat(old, value, t)
                    longer = following.setdefault((*prefix, u), Score())
                    longer.extend(old.s, old.v_s, old.times_s, value, t)
                else:
                    longer = following.setdefault((*prefix, u), Score())
                    longer.extend(old.total(), old.best(), old.times(), value, t)
        beam = sorted(following.items(), key=lambda item: item[1].total(), reverse=True)[:beam_size]
    return [(prefix, score.total(), tuple(score.times())) for prefix, score in beam]
