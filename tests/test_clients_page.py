"""The page of clients: its examples run in Node and Go, where they and their packages are there (``CLIENTS=1``)."""

import os
import shutil
from pathlib import Path

import psycopg
import pytest

from .commands import finished, output_of
from .pages import block_with, install_from_npm, page, url

PAGE = "sql/CLIENTS.md"
long_form = pytest.mark.skipif(not os.environ.get("CLIENTS"), reason="CLIENTS=1 runs it")
DEBIAN_GO = Path("/usr/share/gocode")


def run(*command: str, cwd: Path, **env: str) -> str:
    return output_of(*command, cwd=cwd, env={**os.environ, **env})


@pytest.fixture(scope="session")
def npm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which TypeScript runs, with pg and Prisma."""
    directory = tmp_path_factory.mktemp("npm")
    (directory / "package.json").write_text('{"type": "module"}')
    packages = ["pg@8", "@types/pg@8", "@types/node@20", "typescript@5", "tsx@4"]
    install_from_npm(directory, *packages, "prisma@6.19", "@prisma/client@6.19", "@prisma/adapter-pg@6.19")
    # tsx brings its compiler as a binary in a package, which it links when it is installed.
    return directory


def types_are_right(directory: Path, file: str) -> None:
    options = ["--noEmit", "--strict", "--module", "esnext", "--moduleResolution", "bundler", "--target", "es2022"]
    run("npx", "tsc", *options, "--skipLibCheck", file, cwd=directory)


@long_form
def test_the_typescript_example_runs(conn: psycopg.Connection, dsn: str, npm: Path) -> None:
    (npm / "example.ts").write_text(block_with(PAGE, "ts", 'from "pg"'), "utf-8")
    types_are_right(npm, "example.ts")
    assert run("npx", "tsx", "example.ts", cwd=npm, DATABASE_URL=url(dsn)) == "50 % (1 of 2)\n"


@long_form
def test_the_prisma_example_runs(conn: psycopg.Connection, dsn: str, npm: Path) -> None:
    (npm / "schema.prisma").write_text(
        'generator client {\n  provider = "prisma-client"\n  output = "./generated"\n  engineType = "client"\n}\n'
        'datasource db {\n  provider = "postgresql"\n  url = env("DATABASE_URL")\n}\n'
        + block_with(PAGE, "prisma", "model Workflow"),
        "utf-8",
    )
    # Generating a client takes none of the programs that would be downloaded.
    run("npx", "prisma", "generate", "--schema", "schema.prisma", cwd=npm,
        DATABASE_URL=url(dsn), PRISMA_SCHEMA_ENGINE_BINARY="/bin/true", CHECKPOINT_DISABLE="1")  # fmt: skip
    (npm / "prisma.ts").write_text(block_with(PAGE, "ts", "PrismaClient"), "utf-8")
    types_are_right(npm, "prisma.ts")
    assert run("npx", "tsx", "prisma.ts", cwd=npm, DATABASE_URL=url(dsn)) == "50 % of 2, 50 %\n"


@long_form
def test_the_go_example_runs(conn: psycopg.Connection, dsn: str, tmp_path: Path) -> None:
    if not shutil.which("go"):
        pytest.skip("Go is not installed")
    text = block_with(PAGE, "go", "pgx.Connect")
    env = {"HOME": str(tmp_path), "GOCACHE": str(tmp_path / "cache"), "GOFLAGS": "-mod=mod"}
    if (DEBIAN_GO / "src/github.com/jackc/pgx/v4").exists():
        # Debian's version is the one before, of which the example uses nothing that changed.
        text = text.replace("jackc/pgx/v5/pgconn", "jackc/pgconn").replace("pgx/v5", "pgx/v4")
        env |= {"GO111MODULE": "off", "GOPATH": str(DEBIAN_GO), "GOFLAGS": ""}
    else:
        commands = (["go", "mod", "init", "example"], ["go", "get", "github.com/jackc/pgx/v5"])
        for command in commands:
            done = finished(*command, cwd=tmp_path, env={**os.environ, **env})
            if done.returncode:
                pytest.skip(f"the driver is out of reach: {done.stderr.strip()[-200:]}")
    (tmp_path / "main.go").write_text(text, "utf-8")
    assert run("go", "run", "main.go", cwd=tmp_path, DATABASE_URL=url(dsn), **env) == "50 % (1 of 2)\n"


def test_the_page_says_what_to_retry() -> None:
    assert [state for state in ("40P01", "40001") if f"| {state} |" not in page(PAGE)] == []
