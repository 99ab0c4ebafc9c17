"""tests/test_state_machine.py on adopted tables: fewer runs of it, since there are two kinds."""

import psycopg

from tests.test_state_machine import compare


def test_stored_calculated_and_model_agree_after_any_statements(conn: psycopg.Connection) -> None:
    compare(conn, 40)
