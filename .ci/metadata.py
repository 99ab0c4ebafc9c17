"""What the build adds to pyproject.toml: it stops where Python is too old, and makes the README's links absolute."""

import re
import sys
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

# Before pip looks for versions of what is needed that would fit, which can take it minutes.
if sys.version_info < (3, 11):  # noqa: UP036 (that is what it is for)
    sys.exit("agent-progress needs Python 3.11 or newer, this is {}.{}".format(*sys.version_info[:2]))


class Metadata(MetadataHookInterface):
    """Sets readme and urls."""

    def update(self, metadata: dict) -> None:
        """Show pages and pictures of the repository, where pyproject.toml names one: an index has no other files."""
        text = (Path(self.root) / "README.md").read_text("utf-8")
        if repository := self.config.get("repository"):
            metadata["urls"] = {"Source": repository}
            text = re.sub(r"(!\[[^]]*\]\()(?!https?:|#)", rf"\1{repository}/raw/main/", text)
            text = re.sub(r"(?<!!)(\[[^]]*\]\()(?!https?:|#)", rf"\1{repository}/blob/main/", text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
