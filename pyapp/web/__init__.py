"""The read-only web service: HTTP API, live streams and dashboard (extra ``web``)."""

from pyapp.web.app import Settings, create_app
from pyapp.web.server import CannotServe, in_background, run

__all__ = ["CannotServe", "Settings", "create_app", "in_background", "run"]
