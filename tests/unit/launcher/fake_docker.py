"""A `docker` program that notes how it is called and does what a test says."""

import json
import os
import sys
from pathlib import Path

_PROGRAM = """\
#!{python} -S
import json, sys
arguments = sys.argv[1:]
given = sys.stdin.read() if "--password-stdin" in arguments else None
with open({calls!r}, "a", encoding="utf-8") as calls:
    calls.write(json.dumps([arguments, given]) + "\\n")
with open({answers!r}, encoding="utf-8") as file:
    answers = json.load(file)
line = " ".join(arguments)
exec(next((program for start, program in answers if line.startswith(start)), ""))
"""


class FakeDocker:
    """The first answer whose key begins the command line is run as Python; else nothing is."""

    def __init__(self, folder: Path, answers: dict[str, str]) -> None:
        self._calls = folder / "calls.jsonl"
        (folder / "answers.json").write_text(json.dumps(list(answers.items())))
        program = folder / "bin" / "docker"
        program.parent.mkdir()
        program.write_text(
            _PROGRAM.format(
                python=sys.executable, calls=str(self._calls), answers=f"{folder}/answers.json"
            )
        )
        program.chmod(0o755)
        self.environment = {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}

    @property
    def calls(self) -> list[list[str]]:
        """The argument lists so far."""
        return [arguments for arguments, _ in self._read()]

    @property
    def given(self) -> list[str]:
        """What was written to the standard input of commands that read it."""
        return [given for _, given in self._read() if given is not None]

    def _read(self) -> list[tuple[list[str], str | None]]:
        if not self._calls.exists():
            return []
        lines = self._calls.read_text(encoding="utf-8").splitlines()
        return [tuple(json.loads(line)) for line in lines]
