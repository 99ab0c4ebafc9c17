"""tests/test_tasks.py with the changed keys."""

from tests.test_tasks import *  # noqa: F403
