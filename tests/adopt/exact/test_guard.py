"""tests/test_guard.py on adopted tables."""

from tests.test_guard import *  # noqa: F403
