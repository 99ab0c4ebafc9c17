"""Adopting the tables that an application has already: exact progress, with no change to the application."""

from pyapp.adopt.backfill import Counted, backfill, publish_all, uncounted
from pyapp.adopt.findings import Findings, Wanted, look
from pyapp.adopt.install import Adoption, get_adoption, install, list_adoptions, remove
from pyapp.adopt.pair import AdoptError, Labels, Pair

__all__ = [
    "AdoptError",
    "Adoption",
    "Counted",
    "Findings",
    "Labels",
    "Pair",
    "Wanted",
    "backfill",
    "get_adoption",
    "install",
    "list_adoptions",
    "look",
    "publish_all",
    "remove",
    "uncounted",
]
