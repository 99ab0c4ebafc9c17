"""tests/test_views.py on adopted tables."""

from tests.test_views import *  # noqa: F403
