"""The data directory: where it is, whether it is ours to use, and how it is first filled.

Our own files (locks, log, socket) lie in one subdirectory of it, so that a mounted volume, or a directory
whose parent is closed to us, will do as well.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pyapp.embedded.account import Account, private_directory, server_account
from pyapp.embedded.binaries import major_version
from pyapp.embedded.error import EmbeddedError
from pyapp.embedded.lock import exclusive

RUN = ".agent-progress"
_SOCKET = ".s.PGSQL.5432"
_LONGEST_SOCKET = 103  # 107 bytes on Linux, 103 on macOS


@dataclass(frozen=True)
class Cluster:
    """A data directory with the programs and the account that serve it."""

    data_dir: Path
    bin_dir: Path
    major: int
    account: Account

    @property
    def run(self) -> Path:
        """Return the directory of our own files."""
        return self.data_dir / RUN

    @property
    def log(self) -> Path:
        """Return the server's log file."""
        return self.run / "server.log"

    @property
    def start_lock(self) -> Path:
        """Return the lock held while the server is started or stopped."""
        return self.run / "start.lock"

    @property
    def users_lock(self) -> Path:
        """Return the lock that every user shares."""
        return self.run / "users.lock"

    @property
    def server_lock(self) -> Path:
        """Return the lock that the server's processes inherit: free means that none of them is alive."""
        return self.run / "server.lock"

    @property
    def socket(self) -> Path:
        """Return the unix socket: beside the locks, or in /tmp where that is too long or needs quoting."""
        path = self.run / _SOCKET
        if len(os.fsencode(path)) <= _LONGEST_SOCKET and re.fullmatch(r"[A-Za-z0-9_./-]+", str(path)):
            return path
        name = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:16]
        # Not tempfile.gettempdir(): all users of the directory must come to the same path, whatever TMPDIR.
        return Path("/tmp", f"agent-progress-{self.account.uid}-{name}", _SOCKET)  # noqa: S108


def default_data_dir() -> Path:
    """Return $AGENT_PROGRESS_DATA, else a directory of the user's, for root one below /var/lib."""
    if given := os.environ.get("AGENT_PROGRESS_DATA"):
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/agent-progress")
    try:
        share = Path(os.environ.get("XDG_DATA_HOME", ""))
        return (share if share.is_absolute() else Path.home() / ".local/share") / "agent-progress"
    except RuntimeError as error:
        raise EmbeddedError("you have no home directory: set AGENT_PROGRESS_DATA to a data directory") from error


def open_cluster(data_dir: Path, bin_dir: Path) -> Cluster:
    """Return the cluster of a data directory, made where missing but not yet filled.

    EmbeddedError when the directory holds something else or a cluster of another major version.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = {entry.name for entry in data_dir.iterdir()}
    if names and not names & {"PG_VERSION", RUN}:
        raise _foreign(data_dir)
    account = server_account(data_dir)
    cluster = Cluster(data_dir, bin_dir, major_version(bin_dir, account), account)
    _require_major(cluster)
    if not names:
        account.own(data_dir)
        data_dir.chmod(0o700)
    private_directory(cluster.run, account)
    return cluster


def initialise(cluster: Cluster, sync: bool) -> None:
    """Fill an empty data directory with a new cluster, or end what an interrupted first start began."""
    if (cluster.data_dir / "PG_VERSION").exists():
        return
    new, ready = cluster.run / "new", cluster.run / "ready"
    # An initdb whose caller was killed still runs and still holds the lock: let it end.
    with exclusive(cluster.server_lock, "initialising the data directory", cluster.account) as lock:
        if not ready.exists():
            if [entry.name for entry in cluster.data_dir.iterdir()] != [RUN]:
                raise _foreign(cluster.data_dir)
            shutil.rmtree(new, ignore_errors=True)
            _initdb(cluster, new, sync, lock)
            new.rename(ready)
        # PG_VERSION last: a directory that has it is whole, and any other state is continued here.
        for entry in sorted(ready.iterdir(), key=lambda entry: entry.name == "PG_VERSION"):
            if entry.name == "PG_VERSION":
                _sync_directory(cluster.data_dir)
            entry.rename(cluster.data_dir / entry.name)
        _sync_directory(cluster.data_dir)
        ready.rmdir()


def environment(cluster: Cluster) -> dict[str, str]:
    """Return the caller's environment without PG… variables, which would lead the programs astray."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C", "PGDATA": str(cluster.data_dir)}


def complaint(output: str) -> str:
    """Return the line of a program's output that says why it failed."""
    reasons = re.findall(r"(?:FATAL|PANIC|error): +(.+)", output) or output.strip().splitlines()
    return reasons[-1] if reasons else "no reason was given"


def _initdb(cluster: Cluster, new: Path, sync: bool, lock: int) -> None:
    builtin = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if cluster.major >= 17 else []
    # TCP is off; should a setting turn it on, nobody gets in by it without a password.
    options = [
        "--username=postgres",
        "--auth-local=trust",
        "--auth-host=reject",
        "--encoding=UTF8",
        "--locale=C",
    ]
    command: list[str | Path] = [
        cluster.bin_dir / "initdb",
        "-D",
        new,
        *options,
        *builtin,
        *([] if sync else ["--no-sync"]),
    ]
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=environment(cluster),
            pass_fds=[lock],
            start_new_session=True,
            **cluster.account.switch,
        )
        output.seek(0)
        text = output.read().decode(errors="replace")
    if done.returncode:
        way_out = f"set AGENT_PROGRESS_DATA to a directory with room that account {cluster.account} can reach"
        if "effective user ID" in text:
            way_out = "give this user an entry in /etc/passwd, or run as another one"
        raise EmbeddedError(f"cannot initialise the data directory {cluster.data_dir}: {complaint(text)}; {way_out}")


def _require_major(cluster: Cluster) -> None:
    file = cluster.data_dir / "PG_VERSION"
    made_by = file.read_text().strip() if file.exists() else str(cluster.major)
    if made_by != str(cluster.major):
        raise EmbeddedError(
            f"the data directory {cluster.data_dir} was made by PostgreSQL {made_by} and this server is "
            f"{cluster.major}: set AGENT_PROGRESS_DATA to another directory, or convert it with pg_upgrade"
        )


def _foreign(data_dir: Path) -> EmbeddedError:
    return EmbeddedError(
        f"{data_dir} holds other files and is no PostgreSQL data directory; nothing was changed: "
        "set AGENT_PROGRESS_DATA to an empty or new directory"
    )


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
