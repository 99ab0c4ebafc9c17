"""The examples on the pages, run as they stand there."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def page(name: str) -> str:
    """Read a page of the repository."""
    return (ROOT / name).read_text("utf-8")


def blocks(name: str, language: str) -> list[str]:
    """List the examples of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page(name), re.M | re.S)


def block_with(name: str, language: str, text: str) -> str:
    """Find the example of a page that contains a text."""
    return next(block for block in blocks(name, language) if text in block)


def psql(bin_dir: Path, dsn: str, script: str) -> str:
    """Run a script with psql and return what it prints."""
    done = subprocess.run(
        [bin_dir / "psql", "-X", "-v", "ON_ERROR_STOP=1", f"--dbname={dsn}"],
        input=script,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PGCLIENTENCODING": "UTF8"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_python(text: str, dsn: str) -> dict[str, Any]:
    """Run a Python example against a database and return its names."""
    names: dict[str, Any] = {}
    exec(text.replace('"postgresql://localhost/mydb"', repr(dsn)), names)
    return names
