"""`csra-lab completion`: a script for a shell, written by tyro from the signatures of all commands."""

from typing import Annotated, Any, Literal, Union

import tyro

from csra_lab.cli import COMMANDS
from csra_lab.cli.data import DATA_COMMANDS
from csra_lab.cli.experiments import ablate_command
from csra_lab.cli.runs import RUN_COMMANDS
from csra_lab.recipes import RECIPES


def completion_command(shell: Annotated[Literal["bash", "zsh", "tcsh"], tyro.conf.Positional]) -> None:
    """Print a script that completes commands, options and names of recipes.

    bash: `eval "$(csra-lab completion bash)"` in ~/.bashrc. zsh: `csra-lab completion zsh > _csra-lab` in a folder of
    $fpath. tcsh: `csra-lab completion tcsh > FILE`, and `source FILE` in ~/.tcshrc.

    Args:
        shell: The shell that reads the script.
    """
    functions = {name: command.load() for name, command in COMMANDS.items()}
    functions |= {"train": _train, "ablate": ablate_command, "data": _choice(DATA_COMMANDS)}
    functions["runs"] = _choice(RUN_COMMANDS)
    tyro.cli(_choice(functions), args=["--tyro-print-completion", shell], prog="csra-lab")


def _train(recipe: Annotated[str, tyro.conf.Positional], data: str, out: str, quiet: bool = False) -> None:
    """Train a recipe; its own fields are completed once it is named."""


_train.__annotations__["recipe"] = Annotated[Literal[tuple(RECIPES)], tyro.conf.Positional]


def _choice(functions: dict[str, Any]) -> Any:
    """A type that tyro reads as one subcommand for each function."""
    return Union[  # noqa: UP007 - from a list of types
        tuple(Annotated[Any, tyro.conf.subcommand(name=name, constructor=f)] for name, f in functions.items())
    ]
