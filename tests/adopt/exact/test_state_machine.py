"""tests/test_state_machine.py on adopted tables: STATE_MACHINE_EXAMPLES runs of it, or a few."""

import os

import psycopg

from tests.test_state_machine import compare

EXAMPLES = int(os.environ.get("STATE_MACHINE_EXAMPLES", "15"))


def test_stored_calculated_and_model_agree_after_any_statements(conn: psycopg.Connection) -> None:
    compare(conn, EXAMPLES)
