"""How many instructions a statement takes: counted by callgrind in a single-user server, which no neighbour disturbs.

Prepared statements, 200 workflows of 20 tasks, the difference of 1,000 and 200 statements; repeats differ by 100. Pages
have room for new row versions, as in any table that has been updated and vacuumed: in a table that was only loaded,
each statement takes some thousands more. Run by hand: python -m tests.benchmarks.instructions [--sql DIR]
[--ways NAME...] [--statements NAME...]. Takes valgrind.
"""

import argparse
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg

from pyapp import embedded
from tests.benchmarks.server import OWN_SQL, SCHEMA

CTE = "application, one CTE"
WAYS = {
    "no trigger": [],
    CTE: [],
    "row-level trigger": [OWN_SQL / "row.sql"],
    "ours, without task times": [*SCHEMA[3:], OWN_SQL / "no_times.sql"],
    "ours": SCHEMA[3:],
}
_TASK, _WORKFLOW = "20000000-0000-4000-8000-{}", "10000000-0000-4000-8000-{}"
_FILL = """
insert into public.workflow (id, name, type)
select ('10000000-0000-4000-8000-' || 100000000000 + n)::uuid, 'workflow', 'benchmark'
from generate_series(0, 199) as n;
insert into public.agent_task (id, workflow_id, agent_type, status, started_at)
select
    ('20000000-0000-4000-8000-' || 100000000000 + n)::uuid,
    ('10000000-0000-4000-8000-' || 100000000000 + n % 200)::uuid,
    'agent',
    (case when n < 2000 then 'running' else 'pending' end)::public.task_status,
    case when n < 2000 then now() end
from generate_series(0, 3999) as n;
update public.agent_task set payload = payload;
vacuum analyze public.workflow;
vacuum analyze public.agent_task
"""
# What is prepared, the key that it takes, and the first number of the keys that it is executed for.
STATEMENTS = {
    "completes": ("update public.agent_task set status = 'completed' where id = $1", _TASK, 0),
    "with its time": (
        "update public.agent_task set status = 'completed', completed_at = clock_timestamp() where id = $1",
        _TASK,
        0,
    ),
    "starts": ("update public.agent_task set status = 'running' where id = $1", _TASK, 2000),
    "inserts": ("insert into public.agent_task (workflow_id, agent_type) values ($1, 'agent')", _WORKFLOW, 0),
}
_WITH_COUNT = (
    "with task as ({} returning workflow_id)"
    " update public.workflow as w set agents_completed = w.agents_completed + 1 from task where w.id = task.workflow_id"
)


def counted(statement: str, way: str, filled: Path, keep: Path | None) -> int:
    """Return the instructions of one statement of that name, on copies of a filled data directory."""
    text, key, first = STATEMENTS[statement]
    prepared = _WITH_COUNT.format(text) if way == CTE else text
    totals = []
    for count in (200, 1_000):
        keys = [key.format(100_000_000_000 + first + (2 * n if key == _TASK else n % 200)) for n in range(count)]
        script = "\n".join([f"prepare p (uuid) as {prepared};", *(f"execute p ('{one}');" for one in keys), ""])
        with tempfile.TemporaryDirectory(dir=filled.parent) as name:
            Path(name).chmod(0o777)
            copy, out = Path(name, "data"), Path(name, "callgrind.out")
            subprocess.run(["cp", "-a", filled, copy], check=True)
            command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
            command += [str(embedded.binaries() / "postgres"), "--single", "-D", str(copy), "counted"]
            account = embedded.account(filled)
            ran = subprocess.run(command, input=script, capture_output=True, text=True, cwd="/", **account)
            found = re.search(r"Collected : (\d+)", ran.stderr)
            if found is None or re.search("(?:ERROR|FATAL|PANIC): ", ran.stderr):
                raise RuntimeError(f"{way}, {statement}: {ran.stderr}")
            totals.append(int(found[1]))
            if keep:
                shutil.copy(out, keep / f"{way}, {statement}, {count}")
    return (totals[1] - totals[0]) // 800


@contextmanager
def stopped(files: list[Path]) -> Iterator[Path]:
    """Yield the data directory of a server that does not run, filled by these files and with data."""
    settings = {"fsync": "off", "synchronous_commit": "off", "autovacuum": "off", "jit": "off"}
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(prefix="ap-", dir=memory if Path(memory).is_dir() else None) as name:
        Path(name).chmod(0o777)
        data = Path(name, "data")
        with embedded.server(data, settings=settings) as server:
            with psycopg.connect(server.dsn, autocommit=True) as conn:
                conn.execute("create database counted")
            with psycopg.connect(server.dsn, dbname="counted", autocommit=True) as conn:
                for text in (*(file.read_text() for file in files), *_FILL.split(";\n")):
                    conn.execute(text)
        with (data / "postgresql.auto.conf").open("a") as file:
            file.writelines(f"{key} = '{value}'\n" for key, value in settings.items())
        yield data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sql", type=Path, default=SCHEMA[0].parent, help="measure this schema instead of sql/")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS], help="default: all")
    parser.add_argument("--statements", nargs="+", choices=STATEMENTS, default=[*STATEMENTS], help="default: all")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the profiles there, for callgrind_annotate")
    asked = parser.parse_args()
    print(f"{'':<26}" + "".join(f"{statement:>15}" for statement in asked.statements), flush=True)
    for way in asked.ways:
        files = [asked.sql / file.name if file in SCHEMA else file for file in SCHEMA[:3] + WAYS[way]]
        statements = asked.statements if way != CTE else [s for s in asked.statements if s != "inserts"]
        with stopped(files) as filled, ThreadPoolExecutor(2) as pool:
            found = pool.map(partial(counted, way=way, filled=filled, keep=asked.keep), statements)
            print(f"{way:<26}" + "".join(f"{one:>15,}" for one in found), flush=True)


if __name__ == "__main__":
    main()
