"""How many instructions one statement takes: counted by callgrind in a single-user server, which no neighbour disturbs.

Prepared statements, 200 workflows of 20 tasks; the difference of 1,000 and 200 statements. Repeats differ by about 1,000.
Run by hand: python -m tests.benchmarks.instructions [--sql DIR] [--ways NAME...] [--statements NAME...]. Takes valgrind.
"""

import argparse
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg

from pyapp import embedded
from tests.benchmarks.server import OWN_SQL, SCHEMA

WAYS = {
    "no trigger": [],
    "empty statement trigger": [OWN_SQL / "empty.sql"],
    "row-level trigger": [OWN_SQL / "row.sql"],
    "ours": SCHEMA[2:],
    "ours, without task times": [*SCHEMA[2:], OWN_SQL / "no_times.sql"],
}
_FILL = """
insert into public.workflow (id, name, type)
select ('10000000-0000-4000-8000-' || 100000000000 + n)::uuid, 'workflow', 'benchmark' from generate_series(0, 199) as n;
insert into public.agent_task (id, workflow_id, agent_type, status, started_at)
select
    ('20000000-0000-4000-8000-' || 100000000000 + n)::uuid, ('10000000-0000-4000-8000-' || 100000000000 + n % 200)::uuid,
    'agent', (case when n < 2000 then 'running' else 'pending' end)::public.task_status, case when n < 2000 then now() end
from generate_series(0, 3999) as n;
vacuum analyze public.workflow;
vacuum analyze public.agent_task;
"""
_COMPLETE = "update public.agent_task set status = 'completed'{} where id = $1"
_TASK, _WORKFLOW = "20000000-0000-4000-8000-{}", "10000000-0000-4000-8000-{}"
# What is prepared, and the first of the keys that it is executed for.
STATEMENTS = {
    "completes one": (_COMPLETE.format(""), _TASK, 0),
    "with its time": (_COMPLETE.format(", completed_at = clock_timestamp()"), _TASK, 0),
    "starts one": ("update public.agent_task set status = 'running' where id = $1", _TASK, 2000),
    "inserts one": ("insert into public.agent_task (workflow_id, agent_type) values ($1, 'agent')", _WORKFLOW, 0),
    "one CTE": (
        f"with task as ({_COMPLETE.format('')} returning workflow_id) update public.workflow as w"
        " set agents_completed = w.agents_completed + 1 from task where w.id = task.workflow_id",
        _TASK,
        0,
    ),
}


def counted(way: str, statement: str, filled: Path, bin_dir: Path, keep: Path | None = None) -> int:
    """Return the instructions of one statement of that name, on a copy of a filled data directory."""
    text, key, first = STATEMENTS[statement]
    totals = []
    for count in (200, 1000):
        with tempfile.TemporaryDirectory(dir=filled.parent) as name:
            copy, out = Path(name, "data"), Path(name, "callgrind.out")
            Path(name).chmod(0o777)
            subprocess.run(["cp", "-a", filled, copy], check=True)
            keys = [key.format(100_000_000_000 + first + (i * 2 if key == _TASK else i % 200)) for i in range(count)]
            lines = [f"prepare p (uuid) as {text};", *(f"execute p ('{one}');" for one in keys)]
            command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", bin_dir / "postgres", "--single"]
            ran = subprocess.run(
                [*command, "-D", copy, "counted"],
                input="\n".join(lines) + "\n", capture_output=True, text=True, cwd="/", **embedded.account(filled),
            )
            found = re.search(r"Collected : (\d+)", ran.stderr)
            if found is None or (error := re.search("(?:ERROR|FATAL|PANIC): .*", ran.stderr)):
                raise RuntimeError(f"{way}, {statement}: {error[0] if found else ran.stderr}")
            totals.append(int(found[1]))
            if keep:
                shutil.copy(out, keep / f"{way}, {statement}, {count}")
    return (totals[1] - totals[0]) // 800


@contextmanager
def filled(files: list[Path], bin_dir: Path) -> Iterator[Path]:
    """Yield the data directory of a server that is stopped and holds these files and their data."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="instructions-", dir=memory if memory.is_dir() else None) as name:
        Path(name).chmod(0o777)
        settings = {"fsync": "off", "synchronous_commit": "off", "autovacuum": "off", "jit": "off"}
        with embedded.server(Path(name, "data"), bin_dir=bin_dir, settings=settings) as server:
            with psycopg.connect(server.dsn, autocommit=True) as conn:
                conn.execute("create database counted")
            with psycopg.connect(server.dsn, dbname="counted", autocommit=True) as conn:
                for text in [*(file.read_text() for file in files), *_FILL.split(";\n")]:
                    conn.execute(text)
        with (Path(name, "data") / "postgresql.auto.conf").open("a") as conf:
            conf.writelines(f"{key} = '{value}'\n" for key, value in settings.items())
        yield Path(name, "data")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sql", type=Path, default=SCHEMA[0].parent, help="the schema to measure")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="NAME", help=", ".join(WAYS))
    parser.add_argument(
        "--statements", nargs="+", choices=STATEMENTS, default=list(STATEMENTS), metavar="NAME", help=", ".join(STATEMENTS)
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the profiles there, for callgrind_annotate")
    arguments = parser.parse_args()
    bin_dir = embedded.binaries()
    print(f"{'':<26}" + "".join(f"{statement:>15}" for statement in arguments.statements), flush=True)
    schema = SCHEMA[0].parent
    for way in arguments.ways:
        files = [arguments.sql / f.relative_to(schema) if f.is_relative_to(schema) else f for f in SCHEMA[:3] + WAYS[way]]
        with filled(list(dict.fromkeys(files)), bin_dir) as data, ThreadPoolExecutor(2) as pool:
            found = pool.map(lambda one: counted(way, one, data, bin_dir, arguments.keep), arguments.statements)
            print(f"{way:<26}" + "".join(f"{one:>15,}" for one in found), flush=True)


if __name__ == "__main__":
    main()
