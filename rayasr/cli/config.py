"""`rayasr config`: look at recipes."""

from typing import Annotated

import typer

from rayasr.cli.options import RecipeArgument, SetOption

config_app = typer.Typer(help="Look at recipes.", no_args_is_help=True)


@config_app.command("show")
def show(
    recipe: RecipeArgument = None,  # type: ignore[assignment]  # optional with --reference
    overrides: SetOption = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="Every field with its meaning and default.")
    ] = False,
) -> None:
    """Print the resolved recipe, loadable again.

    Example: rayasr config show configs/digits.yaml --set train.epochs=3
    """
    from rayasr.config import dump_recipe, load_recipe
    from rayasr.errors import ConfigError
    from rayasr.reference import recipe_reference

    if reference:
        typer.echo(recipe_reference(), nl=False)
        return
    if recipe is None:
        raise ConfigError("config show needs a recipe file, or --reference for all settings")
    typer.echo(dump_recipe(load_recipe(recipe, overrides or ())), nl=False)
