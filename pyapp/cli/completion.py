"""completion: what makes a shell complete commands and options."""

import os
from pathlib import Path

import click

from pyapp.cli.common import Command
from pyapp.cli.main import COMPLETE, NAME, program

_SHELLS = ("bash", "zsh", "fish")


@click.command(
    cls=Command,
    database=False,
    example="""
    bash, in ~/.bashrc:                  eval "$(agent-progress completion bash)"
    zsh, in ~/.zshrc, after compinit:    eval "$(agent-progress completion zsh)"
    fish, once:                          agent-progress completion fish > ~/.config/fish/completions/agent-progress.fish
    """,
)
@click.argument("shell", type=click.Choice(_SHELLS), required=False)
def completion(shell: str | None) -> None:
    """Print what makes a shell complete commands, options and their values.

    SHELL is the one of the environment where none is given. Put the line of your shell below where it says, and open
    a new shell. The command has to be found as agent-progress: activate its environment, or link it into one of the
    directories of PATH.
    """
    from click.shell_completion import get_completion_class

    name = shell or Path(os.environ.get("SHELL", "")).name
    kind = get_completion_class(name) if name in _SHELLS else None
    if kind is None:
        raise click.UsageError("which shell? Say bash, zsh or fish")
    print(kind(program, {}, NAME, COMPLETE).source())
