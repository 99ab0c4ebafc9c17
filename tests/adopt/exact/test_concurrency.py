"""tests/test_concurrency.py on adopted tables."""

from tests.test_concurrency import *  # noqa: F403
