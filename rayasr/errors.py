"""The errors a user can meet, and the exit code each one ends a command with.

    RayasrError          1
    ├── ConfigError      2   a recipe, a job file or an option is wrong
    ├── DataError        3   a corpus, a recording, a text or a store is wrong
    ├── TrainingError    4   training cannot go on
    ├── CheckpointError  5   a checkpoint, a run or a model folder cannot be used
    └── LaunchError      6   a job cannot be started or has failed

A message is one sentence: what, where, what to do next. Errors cross process borders in Ray, so
each carries only its message and survives pickling.
"""


class RayasrError(Exception):
    """Anything rayasr can explain; a bug is any other exception and keeps its traceback."""

    exit_code = 1


class ConfigError(RayasrError):
    """A recipe, a job file or a command-line option is wrong."""

    exit_code = 2


class DataError(RayasrError):
    """A corpus, a recording, a transcript or a store is wrong."""

    exit_code = 3


class TrainingError(RayasrError):
    """Training cannot start or cannot go on."""

    exit_code = 4


class CheckpointError(RayasrError):
    """A checkpoint, a run folder or a model folder cannot be used."""

    exit_code = 5


class LaunchError(RayasrError):
    """A job cannot be started or has failed."""

    exit_code = 6


def first_line(error: BaseException) -> str:
    """What another library's error says first, without its advice and addresses; else its class."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
