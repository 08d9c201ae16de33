"""`python -m rayasr`: the command, where no script of that name is on the PATH."""

from rayasr.cli.main import main

main()
