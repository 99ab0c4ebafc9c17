"""The command line ``agent-progress``."""

from pyapp.cli.main import main

__all__ = ["main"]
