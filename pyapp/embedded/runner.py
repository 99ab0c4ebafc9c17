"""Start, share and stop the server of a data directory."""

import os
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fcntl import LOCK_SH
from pathlib import Path

from pyapp.embedded.account import private_directory
from pyapp.embedded.binaries import binaries
from pyapp.embedded.cluster import Cluster, complaint, default_data_dir, environment, initialise, open_cluster
from pyapp.embedded.error import EmbeddedError, explained
from pyapp.embedded.lock import exclusive, is_held, open_lock, try_lock

_START_SECONDS = 60.0
# Fast shutdown, immediate shutdown, force.
_STOP_SECONDS = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0))
_TICK = 0.01
# Linux's mark on a process that has begun to end; its locks are let go before it is gone.
_EXITING = 0x4


@dataclass(frozen=True)
class Server:
    """A running server."""

    dsn: str
    data_dir: Path
    bin_dir: Path
    pid: int


@contextmanager
def server(
    data_dir: Path | None = None, *, bin_dir: Path | None = None, settings: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run the server of a data directory while the block lasts; yield how to reach it.

    The first user starts it (`settings` are server settings such as {"fsync": "off"}; they count only then),
    later users, in this or another process, share it, and the last one stops it. EmbeddedError when it cannot
    run.
    """
    path = data_dir or default_data_dir()
    with ExitStack() as leaving:
        with explained(path):
            programs = bin_dir or binaries()
            cluster = open_cluster(path.expanduser().resolve(), programs.absolute())
            with exclusive(cluster.start_lock, "starting or stopping the server", cluster.account):
                users = open_lock(cluster.users_lock, cluster.account)
                leaving.callback(_leave, cluster, users)
                # Never blocks: who holds it alone holds the start lock as well.
                try_lock(users, LOCK_SH)
                pid = _attach_or_start(cluster, settings or {})
        yield Server(_dsn(cluster), cluster.data_dir, cluster.bin_dir, pid)


def _dsn(cluster: Cluster) -> str:
    # Below the first line is what libpq would else take from the environment and be led astray by.
    return (
        f"host={cluster.socket.parent} port=5432 user=postgres dbname=postgres "
        "hostaddr='' options='' target_session_attrs=any "
        "sslmode=disable gssencmode=disable channel_binding=disable"
    )


def _attach_or_start(cluster: Cluster, settings: Mapping[str, str]) -> int:
    """Return the PID of the postmaster once it takes connections."""
    deadline = time.monotonic() + _START_SECONDS
    started = False
    while True:
        pid = _postmaster(cluster)
        if pid is not None and _status(cluster) == "ready":
            return pid
        # Neither ready nor dead: it starts, it stops, or the backends of a killed postmaster are leaving.
        if not is_held(cluster.server_lock, cluster.account):
            if started:
                raise EmbeddedError(f"PostgreSQL did not start: {_last_words(cluster)} (log: {cluster.log})")
            initialise(cluster, sync=settings.get("fsync") != "off")
            _start(cluster, settings)
            started, deadline = True, time.monotonic() + _START_SECONDS
        elif time.monotonic() > deadline:
            raise EmbeddedError(
                f"PostgreSQL was not ready within {_START_SECONDS:.0f} s: {_last_words(cluster)}; "
                f"look into {cluster.log} and try again"
            )
        time.sleep(_TICK)


def _start(cluster: Cluster, settings: Mapping[str, str]) -> None:
    _forget_dead_postmaster(cluster)
    private_directory(cluster.socket.parent, cluster.account)
    fixed = {"listen_addresses": "", "port": "5432", "unix_socket_directories": str(cluster.socket.parent)}
    # The log is the output of the process that we start; the collector would leave it empty.
    chosen = {"max_connections": "200", "logging_collector": "off", **settings, **fixed}
    options = " ".join(shlex.quote(f"--{name}={value}") for name, value in chosen.items())
    if cluster.log.exists():
        cluster.log.rename(cluster.log.with_suffix(".log.1"))
    # The directory comes by PGDATA, since pg_ctl hands -D to a shell, badly quoted. The output goes to a
    # file, since the server keeps it open; "x" follows no link that the account may have put there.
    with (
        exclusive(cluster.server_lock, "running the server", cluster.account) as lock,
        cluster.log.open("xb") as log,
    ):
        cluster.account.own(cluster.log)
        subprocess.run(
            [cluster.bin_dir / "pg_ctl", "start", "--no-wait", "-o", options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=environment(cluster),
            pass_fds=[lock],
            start_new_session=True,  # the terminal's Ctrl-C is for us: we stop the server in order
            check=False,
            **cluster.account.switch,
        )


def _forget_dead_postmaster(cluster: Cluster) -> None:
    """Remove the lock files of a dead server where PostgreSQL would not dare to.

    It takes any process with the PID in the file for a living server: a zombie (PID 1 of many containers
    never reaps), one that was killed and is just being taken apart, as well as another program that got the
    number after a restart.
    """
    lock_file = cluster.data_dir / "postmaster.pid"
    try:
        status = Path("/proc", lock_file.read_text().split("\n", 1)[0], "stat").read_text()
    except OSError:
        return
    process = re.match(r"\d+ \((.*)\) (\w)(?: -?\d+){5} (\d+)", status, re.DOTALL)
    if process and (process[1] != "postgres" or process[2] in "ZX" or int(process[3]) & _EXITING):
        for stale in (lock_file, cluster.socket, cluster.socket.with_name(f"{cluster.socket.name}.lock")):
            stale.unlink(missing_ok=True)


def _postmaster(cluster: Cluster) -> int | None:
    """Return the PID of the process that listens on the socket, None when there is none.

    The number in postmaster.pid may be a dead process or by now another one; this one cannot be.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        try:
            client.connect(str(cluster.socket))
            if sys.platform == "linux":
                peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                pid: int = struct.unpack("3i", peer)[0]
            else:
                pid = int((cluster.data_dir / "postmaster.pid").read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return None
    return pid or None


def _status(cluster: Cluster) -> str:
    """Return the server's own word on its state: starting, ready, stopping."""
    try:
        return (cluster.data_dir / "postmaster.pid").read_text().splitlines()[7].strip()
    except (OSError, IndexError):
        return ""


def _last_words(cluster: Cluster) -> str:
    # A full disk has no room for the log line that says so.
    if shutil.disk_usage(cluster.data_dir).free < 65536:
        return "no space left on the disk; make room, or set AGENT_PROGRESS_DATA to another disk"
    return complaint(cluster.log.read_text(errors="replace")[-65536:] if cluster.log.exists() else "")


def _leave(cluster: Cluster, users: int) -> None:
    try:
        with (
            explained(cluster.data_dir),
            exclusive(cluster.start_lock, "starting or stopping the server", cluster.account),
        ):
            if try_lock(users):
                _stop(cluster)
    finally:
        os.close(users)


def _stop(cluster: Cluster) -> None:
    for signum, seconds in _STOP_SECONDS:
        deadline = time.monotonic() + seconds
        told = None
        while time.monotonic() < deadline:
            if not is_held(cluster.server_lock, cluster.account):
                if told is not None:
                    with suppress(OSError):
                        cluster.socket.parent.rmdir()  # only ever empty where it is the one in /tmp
                return
            # Each round anew: a server that we were interrupted in starting may not be listening yet.
            pid = _postmaster(cluster)
            if pid is not None and pid != told:
                with suppress(ProcessLookupError):
                    os.kill(pid, signum)
                told = pid
            time.sleep(_TICK)
    raise EmbeddedError(f"PostgreSQL in {cluster.data_dir} does not stop: look into {cluster.log} and end it by hand")
