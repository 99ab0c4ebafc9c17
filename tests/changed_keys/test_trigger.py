"""tests/test_trigger.py with the changed keys."""

from tests.test_trigger import *  # noqa: F403
