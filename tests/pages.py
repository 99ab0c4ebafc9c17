"""The examples on the pages, run as they stand there."""

import os
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from psycopg.conninfo import conninfo_to_dict

from .commands import ROOT, finished, output_of


def page(name: str) -> str:
    """Read a page of the repository."""
    return (ROOT / name).read_text("utf-8")


def blocks(name: str, language: str) -> list[str]:
    """List the examples of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page(name), re.M | re.S)


def block_with(name: str, language: str, text: str) -> str:
    """Find the example of a page that contains a text."""
    return next(block for block in blocks(name, language) if text in block)


def psql(bin_dir: Path, dsn: str, script: str, *options: str) -> str:
    """Run a script with psql and return what it prints."""
    command = [bin_dir / "psql", "-X", "-v", "ON_ERROR_STOP=1", *options, f"--dbname={dsn}"]
    return output_of(*command, input=script, env={**os.environ, "PGCLIENTENCODING": "UTF8"})


def psql_session(bin_dir: Path, dsn: str, name: str) -> tuple[list[str], list[str]]:
    """Run the psql session of a page; return the words that it prints, and those that the page shows."""
    (session,) = blocks(name, "psql")
    lines = session.splitlines()
    script = "\n".join(line.removeprefix("=> ") for line in lines if line.startswith("=> "))
    shown = "\n".join(line for line in lines if not line.startswith("=> "))
    return psql(bin_dir, dsn, script).split(), shown.split()


def at(text: str, dsn: str) -> str:
    """Let a Python example work on a database."""
    return text.replace('"postgresql://localhost/mydb"', repr(dsn)).replace(
        '"postgresql+psycopg://localhost/mydb"', repr(driver_url(dsn))
    )


def run_python(text: str, dsn: str) -> dict[str, Any]:
    """Run a Python example against a database and return its names."""
    names: dict[str, Any] = {}
    exec(at(text, dsn), names)
    return names


def url(dsn: str) -> str:
    """Write a DSN as a URL."""
    where = conninfo_to_dict(dsn)
    host = quote(str(where["host"]), safe="")
    return f"postgresql://{where['user']}@localhost:{where['port']}/{where['dbname']}?host={host}"


def driver_url(dsn: str) -> str:
    """Write a DSN as a URL as SQLAlchemy and yoyo take it."""
    return "postgresql+psycopg:///?" + urlencode(conninfo_to_dict(dsn))


def install_from_npm(directory: Path, *packages: str) -> None:
    """Install packages for Node into a directory; the test is skipped where that cannot be done."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("Node and npm are not installed")
    command = [
        "npm",
        "install",
        "--silent",
        "--no-fund",
        "--no-audit",
        "--ignore-scripts",
        "--fetch-retries=1",
        *packages,
    ]
    done = finished(*command, cwd=directory)
    if done.returncode:
        pytest.skip(f"the npm registry is out of reach: {done.stderr.strip()[-200:]}")
