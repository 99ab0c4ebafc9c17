"""The page of all columns."""

import psycopg
import pytest

from .columns import page
from .pages import page as read


def test_the_page_of_columns_is_what_the_database_says(conn: psycopg.Connection, dsn: str) -> None:
    if conn.info.server_version < 180_000:
        pytest.skip("other versions print expressions in another way")
    assert read("sql/COLUMNS.md") == page(dsn), "python -m tests.columns"
