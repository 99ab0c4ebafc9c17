"""A real pgbouncer in transaction mode, where one is installed."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pyapp import embedded

from .helpers import wait_for

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


@contextmanager
def pooler(dsn: str, **settings: object) -> Iterator[str]:
    """Run a pgbouncer before a server while the block lasts; yields the DSN of a database through it."""
    if PROGRAM is None:
        pytest.skip("pgbouncer is not installed")
    where = conninfo_to_dict(dsn)
    directory = Path(tempfile.mkdtemp(prefix="ap-bouncer-"))
    given = {
        "listen_addr": "",  # a port that is free may be taken before it listens
        "unix_socket_dir": directory,
        "auth_type": "any",
        "pool_mode": "transaction",
        "default_pool_size": 4,
        "max_client_conn": 100,
        "logfile": directory / "log",
        "pidfile": directory / "pid",
        **settings,
    }
    (directory / "ini").write_text(
        f"[databases]\n* = host={where['host']} port={where['port']} user={where['user']}\n[pgbouncer]\n"
        + "".join(f"{name} = {value}\n" for name, value in given.items())
    )
    (directory / "log").touch()
    # It refuses to run as root.
    who = embedded.account()
    if who:
        for path in (directory, *directory.iterdir()):
            os.chown(path, who["user"], who["group"])
    process = subprocess.Popen(
        [PROGRAM, "-q", directory / "ini"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", **who
    )
    through = make_conninfo(host=directory, port=6432, user=str(where["user"]), dbname=str(where["dbname"]))
    try:

        def listens() -> bool:
            assert process.poll() is None, (directory / "log").read_text()
            with socket.socket(socket.AF_UNIX) as one:
                return one.connect_ex(str(directory / ".s.PGSQL.6432")) == 0

        wait_for(listens)
        yield through
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(directory, ignore_errors=True)
