"""Holds on to what was released: ``python -m tests.release`` writes the hashes of the migrations and a dump with rows.

Until a release, run it after each change of a migration. After it, run it for the next release only: it refuses to
change what an older version shipped.
"""

import gzip
import hashlib
import json
import subprocess
import tempfile
from pathlib import Path

import psycopg

import pyapp
from pyapp import embedded

RELEASED = Path(__file__).parent / "released"
HASHES = RELEASED / "migrations.json"
MIGRATIONS = Path(__file__).parents[1] / "migrations"


def hashes() -> dict[str, str]:
    """Tell the hash of each migration as it is now."""
    found = sorted(path for path in MIGRATIONS.iterdir() if path.suffix in (".py", ".sql"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def released() -> dict[str, dict[str, str]]:
    """Tell the hashes of the migrations that each released version shipped first."""
    text = HASHES.read_text("utf-8") if HASHES.exists() else "{}"
    shipped: dict[str, dict[str, str]] = json.loads(text)
    return shipped


def dumps() -> list[Path]:
    """List the dumps of released versions."""
    return sorted(RELEASED.glob("*.sql.gz"))


def restore(dump: Path, dsn: str) -> None:
    """Restore a dump into an empty database."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(gzip.decompress(dump.read_bytes()))


def fill(dsn: str) -> None:
    """Make workflows of all kinds."""
    with pyapp.connect(dsn, autocommit=True) as conn:
        for status in ("initiated", "running", "paused", "completed", "failed", "cancelled"):
            workflow = pyapp.create_workflow(conn, f"a {status} one", "app", agents_planned=7, input_data={"n": 1})
            tasks = pyapp.add_tasks(
                conn, workflow.workflow_id, ["agent"] * 4 + [{"agent_type": "coder", "external_id": "5", "stage": "x"}]
            )
            states = ("completed", "failed", "cancelled", "running", "completed")
            reports = [pyapp.TaskReport(task.id, state) for task, state in zip(tasks, states, strict=True)]
            pyapp.report_tasks(conn, workflow.workflow_id, reports)
            if status != "initiated":
                pyapp.transition(conn, workflow.workflow_id, "running")
                pyapp.advance(conn, workflow.workflow_id)
            if status not in ("initiated", "running"):
                pyapp.transition(conn, workflow.workflow_id, status)
            pyapp.create_workflow(conn, "a child", "feature", parent_id=workflow.workflow_id)
        conn.execute("update workflow set completed_at = now() - interval '1 year' where status = 'completed'")
        pyapp.archive(conn, "90 days")


def main() -> None:
    """Write both for the version that this is."""
    shipped = {version: names for version, names in released().items() if version != pyapp.__version__}
    older = {name: digest for names in shipped.values() for name, digest in names.items()}
    now = hashes()
    if changed := [name for name, digest in older.items() if now.get(name) != digest]:
        raise SystemExit(f"released, and changed since: {', '.join(changed)}")
    RELEASED.mkdir(exist_ok=True)
    shipped[pyapp.__version__] = {name: digest for name, digest in now.items() if name not in older}
    HASHES.write_text(json.dumps(shipped, indent=1) + "\n", "utf-8")
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        with embedded.server(Path(parent, "data"), bin_dir=embedded.binaries(16)) as server:
            pyapp.migrate(server.dsn)
            fill(server.dsn)
            command = [server.bin_dir / "pg_dump", "--inserts", "--no-owner", "--no-acl", f"--dbname={server.dsn}"]
            text = subprocess.run(command, capture_output=True, check=True).stdout
    # The commands of psql that newer versions of pg_dump put around it are not SQL.
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith((b"\\", b"--"))]
    dump = RELEASED / f"{pyapp.__version__}.sql.gz"
    dump.write_bytes(gzip.compress(b"".join(lines), mtime=0))
    print(f"{dump}: {dump.stat().st_size} bytes")


if __name__ == "__main__":
    main()
