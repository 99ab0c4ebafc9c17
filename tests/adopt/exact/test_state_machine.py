"""tests/test_state_machine.py on adopted tables."""

from tests.test_state_machine import *  # noqa: F403
