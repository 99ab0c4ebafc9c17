"""tests/test_repair.py on adopted tables."""

from tests.test_repair import *  # noqa: F403
