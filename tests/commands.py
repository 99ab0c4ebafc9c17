"""Running commands: in this process, in one of its own, and in a terminal."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyapp.cli import main
from pyapp.embedded import binaries

from .crash import directory, new_cluster
from .helpers import PATIENCE

ROOT = Path(__file__).resolve().parents[1]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(dsn: str, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command on the test's database within this process: exit status, stdout, stderr."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        return main(["--dsn", dsn, *map(str, arguments)]), *capsys.readouterr()

    return call


@pytest.fixture
def private(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data directory of the test's own for the embedded server, which is stopped in the end."""
    with directory() as base:
        monkeypatch.setenv("AGENT_PROGRESS_DATA", str(base / "data"))
        yield new_cluster(binaries(), base / "data")
        assert list(base.rglob("postmaster.pid")) == []


def finished(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, without input unless some is given."""
    given = {"timeout": 5 * PATIENCE} | ({} if "input" in options else {"stdin": subprocess.DEVNULL}) | options
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **given)


def output_of(*command: object, **options: Any) -> str:
    """Run a program that succeeds, and return what it printed."""
    done = finished(*command, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def start(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
    """Start a command in a process of its own, without a terminal."""
    environment = {**options.pop("env", os.environ)}
    environment.pop("PYTHONUNBUFFERED", None)  # which would hide that something is not flushed
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(
        [sys.executable, "-m", "pyapp", *map(str, arguments)],
        **{"text": True, "cwd": ROOT, **pipes, **options},
        env=environment,
    )
    # A test that waits for a line which never comes shall fail, not hang.
    guard = threading.Timer(2 * PATIENCE, process.kill)
    guard.daemon = True
    guard.start()
    return process


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


class Terminal:
    """A command at work in a terminal of a fixed size, and what it shows there."""

    def __init__(self, *arguments: Any, columns: int = 120, program: list[str] | None = None, **env: str) -> None:
        # The size is that of the terminal, not what pytest's workers are told.
        environment = {**os.environ, "TERM": "xterm-256color", **env}
        environment = {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES")}
        self.master, slave = pty.openpty()
        self.resize(columns)
        self.process = subprocess.Popen(
            [*(program or [sys.executable, "-m", "pyapp"]), *map(str, arguments)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.raw = b""

    @property
    def text(self) -> str:
        """What was written, without the bell and the sequences that colour it and move the cursor."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x07", "", self.raw.decode(errors="replace"))

    def read_until(self, wanted: str | None, keys: bytes = b"") -> str:
        """Read until the text is there, or to the end; press keys whenever nothing comes for a while."""
        give_up = time.monotonic() + PATIENCE
        while wanted is None or wanted not in self.text:
            assert time.monotonic() < give_up, self.text
            try:
                if not self.read_some():
                    self.press(keys)
            except OSError:  # the last process of the terminal is gone
                assert wanted is None, self.text
                break
        return self.text

    def read_some(self) -> bool:
        """Read what comes within some seconds; tell whether anything did."""
        came = bool(select.select([self.master], [], [], 3)[0])
        if came:
            self.raw += os.read(self.master, 65536)
        return came

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def end(self) -> int:
        """Read to the end and return the exit status."""
        self.read_until(None)
        return self.process.wait(PATIENCE)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self.master)
