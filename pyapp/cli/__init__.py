"""The command line ``agent-progress``: on top of everything; nothing imports it."""

from pyapp.cli.main import main

__all__ = ["main"]
