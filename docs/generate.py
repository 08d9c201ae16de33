"""Write docs/{recipe,job,cli}.md from the code; for `make docs`; a unit test checks them."""

from pathlib import Path

import typer.cli
import typer.main

from launcher.spec import JobSpec
from rayasr.cli.main import build_app
from rayasr.reference import recipe_reference, settings_reference

DOCS = Path(__file__).parent


def pages() -> dict[str, str]:
    """The generated pages: file name to Markdown."""
    command = typer.main.get_command(build_app())
    context = typer.Context(command, info_name="rayasr")
    title = "Command line"
    cli = typer.cli.get_docs_for_click(obj=command, ctx=context, name="rayasr", title=title)
    job = settings_reference("Job files", "launcher/spec.py` and `launcher/cloud_spec.py", JobSpec)
    return {"recipe.md": recipe_reference(), "job.md": job, "cli.md": cli.rstrip() + "\n"}


def main() -> None:
    """Write the pages."""
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
