"""Databases of applications: empty, without our own tables."""

from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import sql

from pyapp.adopt.install import list_adoptions

from ..databases import Databases
from .application import App
from .shapes import Shape


@pytest.fixture
def dsn(databases: Databases) -> Iterator[str]:
    """An empty database, gone after the test."""
    with databases.copy("template0") as dsn:
        yield dsn


@pytest.fixture(autouse=True)
def no_drift(request: pytest.FixtureRequest) -> Iterator[None]:
    """End each test by comparing what is stored with what is counted, in every adoption that there is by then."""
    if "dsn" not in request.fixturenames:
        yield
        return
    dsn = request.getfixturevalue("dsn")
    yield
    with psycopg.connect(dsn) as connection:
        for adoption in list_adoptions(connection):
            view = sql.Identifier(adoption.schema, "workflow_progress_drift")
            assert connection.execute(sql.SQL("select * from {}").format(view)).fetchall() == []


@pytest.fixture
def make(conn: psycopg.Connection) -> Callable[..., App]:
    """Make the tables of a shape, with rows in all states; adopt them unless told otherwise."""

    def make_app(shape: Shape, *more: str, adopt: bool = True) -> App:
        if conn.info.server_version < shape.major * 10000:
            pytest.skip(f"needs PostgreSQL {shape.major}")
        app = App(conn, shape)
        app.create()
        app.fill()
        if adopt:
            app.adopt(*more)
        return app

    return make_app
