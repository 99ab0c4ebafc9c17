"""A database whose tasks are partitioned, for each test here."""

import psycopg

from pyapp import migrate
from pyapp.scale.partition import look, partition
from tests.databases import template


def divide(dsn: str) -> None:
    migrate(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        partition(conn, look(conn, 4))


migrated = template(divide, "partitioned")
