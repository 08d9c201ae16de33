"""When a speaker has finished: the three rules of WeNet's runtime, on CTC's blanks."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EndpointRules:
    """A segment ends after one of these; a frame is silent where blank is this probable."""

    blank_probability: float = 0.8
    silence_s: float = 5.0
    """Silence where nothing was said."""
    pause_s: float = 1.0
    """Silence after something was said."""
    longest_s: float = 20.0
    """Length of a segment, whatever is said."""


class Endpointer:
    """Counts the frames of one segment."""

    def __init__(self, rules: EndpointRules, frame_s: float) -> None:
        self._rules, self._frame_s = rules, frame_s
        self._num_frames = self._num_silent = 0

    def advance(self, blank_probabilities: list[float]) -> None:
        """Take in the next frames."""
        self._num_frames += len(blank_probabilities)
        for probability in blank_probabilities:
            silent = probability > self._rules.blank_probability
            self._num_silent = self._num_silent + 1 if silent else 0

    def has_ended(self, said_something: bool) -> bool:
        """Whether the segment ends here."""
        rules, silence_s = self._rules, self._num_silent * self._frame_s
        long_pause = silence_s >= (rules.pause_s if said_something else rules.silence_s)
        return long_pause or self._num_frames * self._frame_s >= rules.longest_s
