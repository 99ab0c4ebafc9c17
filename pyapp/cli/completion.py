"""completion: what makes a shell complete commands, options and ids."""

import os
from pathlib import Path

import click

from pyapp.cli.common import Command
from pyapp.cli.main import COMPLETE, NAME, program

_SHELLS = ("bash", "zsh", "fish")


@click.command(cls=Command, database=False)
@click.argument("shell", type=click.Choice(_SHELLS), required=False)
def completion(shell: str | None) -> None:
    """Print what makes a shell complete commands, options, their values, and ids of workflows.

    Put the line of your shell below where it says, and open a new shell; without an argument it is the shell of the
    environment (SHELL). The command has to be found as agent-progress: activate its environment, or link it into a
    directory of PATH. Ids come from the database of DATABASE_URL or --dsn.

    Example:
      bash, in ~/.bashrc:                 eval "$(agent-progress completion bash)"
      zsh, in ~/.zshrc after compinit:    eval "$(agent-progress completion zsh)"
      fish, in config.fish:               agent-progress completion fish | source
    """
    from click.shell_completion import get_completion_class

    name = shell or Path(os.environ.get("SHELL", "")).name
    kind = get_completion_class(name) if name in _SHELLS else None
    if kind is None:
        raise click.UsageError("which shell? Say bash, zsh or fish")
    print(kind(program, {}, NAME, COMPLETE).source())
