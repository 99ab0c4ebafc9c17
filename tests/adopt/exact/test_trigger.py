"""tests/test_trigger.py on adopted tables."""

from tests.test_trigger import *  # noqa: F403
