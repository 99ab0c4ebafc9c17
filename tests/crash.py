"""Servers of a test's own, which it may kill, copy and start again; none is left running, whatever the test does."""

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pyapp import embedded, migrate

from .helpers import wait_for

# Transactions of several statements deadlock now and then, as they may; nobody waits a second for that.
SHORT_DEADLOCKS = {"deadlock_timeout": "10ms"}
# Of a server that no test kills.
QUICK = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "32MB", **SHORT_DEADLOCKS}


class CrashableServer:
    """A server in a data directory of its own, which can be killed as by kill -9 and started again."""

    def __init__(self, data_dir: Path, bin_dir: Path, **settings: str) -> None:
        self.data_dir = data_dir
        self.bin_dir = bin_dir
        self.settings = settings
        self._running = ExitStack()
        self._server: embedded.Server | None = None
        self._has_template = False

    @property
    def pid(self) -> int:
        """The postmaster."""
        assert self._server is not None
        return self._server.pid

    def dsn(self, dbname: str = "postgres") -> str:
        assert self._server is not None
        return make_conninfo(self._server.dsn, dbname=dbname)

    def connect(self, dbname: str = "postgres", **options: Any) -> psycopg.Connection:
        return psycopg.connect(self.dsn(dbname), **{"autocommit": True, **options})

    def start(self) -> "CrashableServer":
        """Start it, or start it again after it died: returns once crash recovery is through."""
        self.stop()
        if not self.data_dir.exists():
            new_cluster(self.bin_dir, self.data_dir)
        starting = embedded.server(self.data_dir, bin_dir=self.bin_dir, settings=self.settings)
        self._server = self._running.enter_context(starting)
        return self

    def stop(self) -> None:
        """Stop it, or, where it was killed, wait until the last of its processes is gone."""
        self._running.close()

    def create(self, dbname: str, template: str = "template0") -> str:
        """Create a database, in place of one of that name, and return its DSN."""
        name = sql.Identifier(dbname)
        with self.connect() as admin:
            admin.execute(sql.SQL("drop database if exists {} with (force)").format(name))
            admin.execute(sql.SQL("create database {} template {}").format(name, sql.Identifier(template)))
        return self.dsn(dbname)

    def create_migrated(self, dbname: str) -> str:
        """Create a database that is migrated, and return its DSN."""
        if not self._has_template:
            migrate(self.create("migrated"))
            self._has_template = True
        return self.create(dbname, "migrated")

    # --- Dying ----------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """Kill the postmaster; its backends find out for themselves."""
        os.kill(self.pid, signal.SIGKILL)

    def kill_everything(self) -> None:
        """Kill all processes at once, as the loss of power does."""
        with self.connect() as conn:
            pids = [row[0] for row in conn.execute("select pid from pg_stat_activity where pid is not null")]
        # Stopped first: it could neither restart what died nor tell the others.
        os.kill(self.pid, signal.SIGSTOP)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os.kill(self.pid, signal.SIGKILL)

    def kill_one(self, which: str) -> None:
        """Kill one process that pg_stat_activity shows under this condition; return once all have started anew.

        The postmaster then ends every other process as well and recovers as after a crash.
        """
        with self.connect() as conn:
            query = f"select pid from pg_stat_activity where pid <> pg_backend_pid() and {which} limit 1"
            while (row := conn.execute(query.encode()).fetchone()) is None:
                time.sleep(0.001)
            os.kill(row[0], signal.SIGKILL)
            wait_for(lambda: not answers(conn))
        wait_for(self.is_ready)

    def is_ready(self) -> bool:
        try:
            with self.connect() as conn:
                return answers(conn)
        except psycopg.OperationalError:
            return False


def run(bin_dir: Path, program: str, *arguments: str | Path, input: str = "", cwd: Path = Path("/")) -> str:
    """Run a program of PostgreSQL as the account of the servers and return its output; a failure shows what it said."""
    done = subprocess.run(
        [bin_dir / program, *arguments],
        input=input,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C"},
        **embedded.account(),
    )
    assert done.returncode == 0, f"{program}: {done.stderr or done.stdout}"
    return str(done.stdout)


def give(path: Path) -> None:
    """Give a file or directory to the account of the servers."""
    if who := embedded.account():
        os.chown(path, who["user"], who["group"])


@contextmanager
def directory(within: str | None = None) -> Iterator[Path]:
    """Make a short directory in which the server's account may create others; in memory, unless it is said where."""
    shm = Path("/dev/shm")
    roomy = os.access(shm, os.W_OK) and shutil.disk_usage(shm).free > 2**30
    path = Path(tempfile.mkdtemp(prefix="ap-", dir=within or (shm if roomy else None)))
    path.chmod(0o755)
    give(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def disk_of(megabytes: int, path: Path) -> Iterator[Path]:
    """Mount a small disk; the test is skipped where that cannot be done."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", path]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        path.rmdir()
        pytest.skip("cannot mount a small disk here: needs root and the right to mount")
    yield path
    subprocess.run(["umount", path], check=True)
    path.rmdir()


@cache
def _cluster(bin_dir: Path) -> Path:
    """Make a data directory of which others are copied: that takes a tenth of the time of initdb."""
    making = directory()
    atexit.register(making.__exit__, None, None, None)
    with embedded.server(making.__enter__() / "data", bin_dir=bin_dir, settings=QUICK) as server:
        return server.data_dir


def new_cluster(bin_dir: Path, data_dir: Path) -> Path:
    """Make a data directory; its server is not running."""
    subprocess.run(["cp", "-a", _cluster(bin_dir), data_dir], check=True)
    return data_dir


@contextmanager
def servers(bin_dir: Path, within: str | None = None) -> Iterator[Callable[..., CrashableServer]]:
    """Yield what makes servers by name and settings, without starting them; all are stopped in the end."""
    with directory(within) as parent, ExitStack() as stopping:

        def make(name: str, bin_dir: Path = bin_dir, **settings: str) -> CrashableServer:
            made = CrashableServer(parent / name, bin_dir, **settings)
            stopping.callback(made.stop)
            return made

        yield make


def answers(conn: psycopg.Connection) -> bool:
    try:
        return conn.execute("select 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False
