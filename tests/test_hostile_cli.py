"""The command line given anything: one clear line, exit 2, no fault, no password, and memory with a bound."""

import gzip
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import click
import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyapp.cli import main
from pyapp.cli.main import COMMANDS, program

from .commands import ROOT
from .helpers import examples

FUZZ = settings(max_examples=examples(60))
# What an argument or a variable can hold: any character but NUL; a surrogate is a byte that is no UTF-8.
ODD = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8) | st.sampled_from(
    ["\udcff", "\x1b[2J", "-", "--", "²", "1e999", "nan", "-1", "9" * 5000, "a\nb", "%s", "\u202e"]
)
WORD = ODD | st.sampled_from([str(UUID(int=0)), "running", "on", "off", "0", "1", "/nowhere", "."])
# One of these that is given right goes on until it is stopped, and is tested elsewhere.
LASTING = {"serve", "demo", "watch", "psql", "replay"}
NAMES = sorted({name for group in COMMANDS.values() for name in group} - LASTING)
# What would lead a command elsewhere, or take away what the next example needs.
FATEFUL = ("--dsn", "--embedded", "--read-dsn", "--help", "--schema", "--all", "--drop-data")


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a command in this process; whatever it raises is a fault."""
    capfd.readouterr()
    status = main(arguments)
    out, err = capfd.readouterr()
    assert status in (0, 1, 2)
    assert all(char.isprintable() or char == "\n" for char in err), err
    assert "Traceback" not in err
    return status, out, err


@given(data=st.data(), name=st.sampled_from(NAMES))
@FUZZ
def test_any_arguments_end_in_0_1_or_2(
    dsn: str, conn: psycopg.Connection, capfd: pytest.CaptureFixture[str], data: st.DataObject, name: str
) -> None:
    command = program.get_command(click.Context(program), name)
    assert command is not None
    options = [option for param in command.params for option in param.opts if option.startswith("-")]
    options = [option for option in options if option not in FATEFUL]
    words = data.draw(st.lists(WORD | st.sampled_from([*options, "--"]), max_size=5))
    status, out, err = run(capfd, "--dsn", dsn, name, *words)
    if status == 2:
        assert out == ""
        assert err.splitlines()[-1].startswith("agent-progress: "), err
    if name == "rollback" and status == 0:
        assert run(capfd, "migrate", "--dsn", dsn)[0] == 0


SEPARATOR = st.text(st.sampled_from("/?#[]@:%&=+ '\"\\,;\n\té"), min_size=1, max_size=3)


@given(between=SEPARATOR, form=st.sampled_from(["url", "url of digits", "keywords", "keywords, quoted"]))
@example(between="/", form="url")
@example(between="@", form="url")
@example(between='@"', form="url")
@example(between="@'", form="url")
@example(between="?", form="url of digits")
@FUZZ
def test_no_form_of_a_password_is_ever_shown(capfd: pytest.CaptureFixture[str], between: str, form: str) -> None:
    one, two = ("8103", "4477") if form == "url of digits" else ("hunter", "swordfish")
    password = f"{one}{between}{two}"
    # The user is a numeric address, since an unescaped / makes it the host.
    dsn = {
        "keywords": f"host=127.0.0.1 port=1 user=me password={password}",
        "keywords, quoted": f"host=127.0.0.1 port=1 user=me password='{password}' dbname=d",
    }.get(form, f"postgresql://127.0.0.1:{password}@127.0.0.1:1/db")
    for command in ("list", "migrate"):
        status, out, err = run(capfd, command, "--dsn", dsn)
        assert (status, out, err.count("\n")) == (2, "", 1), dsn
        if form != "url of digits" or between in "@:%":
            assert one not in err, dsn
        assert two not in err, dsn


VARIABLES = [
    "DATABASE_URL", "PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGPASSFILE", "PGSERVICE",
    "PGSERVICEFILE", "PGOPTIONS", "PGSSLMODE", "PGCONNECT_TIMEOUT", "PGCLIENTENCODING", "PGTZ", "PGDATESTYLE",
    "PGTARGETSESSIONATTRS", "PGAPPNAME", "PGCHANNELBINDING", "PGREQUIREAUTH", "AGENT_PROGRESS_DATA", "HOME", "COLUMNS",
    "LANG", "LC_ALL", "LOGNAME",
]  # fmt: skip


@given(odd=st.dictionaries(st.sampled_from(VARIABLES), ODD, max_size=4), command=st.sampled_from(["list", "pending"]))
@FUZZ
def test_any_environment_ends_in_one_line(capfd: pytest.CaptureFixture[str], odd: dict[str, str], command: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGHOSTADDR", "127.0.0.1")
        patch.setenv("PGPORT", "1")
        for name, value in odd.items():
            patch.setenv(name, value)
        status, out, err = run(capfd, command)
    assert (status, out, err.count("\n")) == (2, "", 1)


# --- Memory -------------------------------------------------------------------------------------------------------

MEGABYTE = 2**20
HEADER = b"task_id,name,status,submit,duration\n"
JSON_HEAD = b'{"schemaVersion": "1.5", "workflow": ['
BOMBS: dict[str, tuple[bytes, bytes, int, bytes, str]] = {
    "more than the limit": (b"", bytes(16 * MEGABYTE), 4096, b"", "more than 134,217,728 bytes once unpacked"),
    "a single line": (HEADER, b"a" * MEGABYTE, 100, b"", "no usable row"),
    "empty lists": (JSON_HEAD, b"[]," * MEGABYTE, 40, b"0]}", "more than 5,000,000 JSON values"),
    "deep": (JSON_HEAD, b"[" * MEGABYTE, 4, b"", "maximum recursion depth"),
    "a long text": (JSON_HEAD + '"\N{GRINNING FACE}'.encode(), b"a" * MEGABYTE, 50, b'"]}', "not sound WfFormat"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_within_a_gigabyte(bomb: str, tmp_path: Path) -> None:
    head, body, times, tail, complaint = BOMBS[bomb]
    file = tmp_path / "bomb.gz"
    with file.open("wb") as target:  # gzip's members are read one after the other
        target.write(gzip.compress(head))
        packed = gzip.compress(body)
        for _ in range(times):
            target.write(packed)
        target.write(gzip.compress(tail))
    process: Any = subprocess.Popen(
        [sys.executable, "-m", "pyapp", "replay", file, "--dsn", "host=/nowhere"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process.stdout, process.stderr:
        out, err = process.stdout.read(), process.stderr.read()
    _, ended, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(ended)
    assert (process.returncode, out, err.count("\n")) == (2, "", 1)
    assert complaint in err
    assert usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) < 1000 * MEGABYTE
