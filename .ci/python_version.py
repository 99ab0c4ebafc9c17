"""Stops the installation where Python is too old, before pip looks for versions of what is needed that would fit."""

import sys

from hatchling.metadata.plugin.interface import MetadataHookInterface

if sys.version_info < (3, 11):  # noqa: UP036 (that is what it is for)
    sys.exit("agent-progress needs Python 3.11 or newer, this is {}.{}".format(*sys.version_info[:2]))


class PythonVersion(MetadataHookInterface):
    """Changes nothing."""

    def update(self, metadata: dict) -> None:
        """Change nothing."""
