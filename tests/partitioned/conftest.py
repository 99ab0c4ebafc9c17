"""A database whose tasks are partitioned, for each test here."""

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from pytest_postgresql import factories

from pyapp import migrate
from pyapp.scale.partition import look, partition
from tests.conftest import TestServer


def load(host: str, port: int, user: str, dbname: str, password: str | None, **_: object) -> None:
    dsn = make_conninfo(host=host, port=port, user=user, dbname=dbname, password=password or None)
    migrate(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        partition(conn, look(conn, 4))


template_partitioned = factories.postgresql_noproc(depends_on="server", dbname="partitioned", load=[load])
postgresql_partitioned = factories.postgresql("template_partitioned")


@pytest.fixture
def dsn(postgresql_partitioned: psycopg.Connection, server: TestServer) -> str:
    """Where the test's own database is."""
    return server.dsn(postgresql_partitioned.info.dbname)
