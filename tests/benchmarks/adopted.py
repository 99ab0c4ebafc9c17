"""What adoption costs: counting what is there, and each completion after it."""

import sys
from time import perf_counter

import psycopg

from pyapp.adopt import Findings, Wanted, backfill, install, look, remove
from tests.benchmarks.report import Measurement, Target
from tests.benchmarks.server import Bench

_COUNT = "select run_id, count(*), count(*) filter (where status = 'completed') from step group by run_id"
_TABLES = """
    create table run (
        id bigint primary key,
        name text,
        status text not null default 'running',
        progress integer not null default 0,
        created_at timestamptz not null default now()
    );
    create table step (id bigint primary key, run_id bigint not null, status text not null);
    insert into run (id, name) select n, 'run ' || n from generate_series(1, {runs}) as n;
    insert into step
    select n, 1 + n * {runs}::bigint / ({steps} + 1), (array['pending', 'completed', 'failed'])[1 + n % 3]
    from generate_series(1, {steps}) as n;
    create index on step (run_id);
    alter table step add foreign key (run_id) references run;
"""


def adopt_database(conn: psycopg.Connection, *, columns: bool) -> Findings:
    """Adopt the tables of the benchmark in a database, and count what they hold."""
    wanted = Wanted("public.workflow", "public.agent_task", "default", "agent_progress", columns=columns)
    found = look(conn, wanted)
    install(conn, found)
    backfill(conn, found.pair)
    return found


def measure_backfill(bench: Bench, rounds: int, runs: int, steps: int) -> Measurement:
    """Count what is there, in batches while it is adopted, beside one plain query that counts it."""
    title = f"Adopting {steps:,} tasks in {runs:,} workflows"
    samples: dict[str, list[float]] = {"count(*) … group by": [], "side table": [], "columns": []}
    with bench.connect("postgres") as admin:
        admin.execute("create database adopting")
    with bench.connect("adopting") as conn:
        conn.execute(_TABLES.format(runs=runs, steps=steps))
        for number in range(rounds):
            print(f"  {title}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            conn.execute("vacuum full analyze run")
            conn.execute("vacuum analyze step")
            began = perf_counter()
            conn.execute(_COUNT)
            samples["count(*) … group by"].append((perf_counter() - began) * 1000)
            for name, columns in (("side table", False), ("columns", True)):
                conn.execute("update run set progress = 0 where progress <> 0")
                conn.execute("vacuum full analyze run")
                found = look(conn, Wanted("run", "step", "default", "agent_progress", columns=columns))
                began = perf_counter()
                install(conn, found)
                backfill(conn, found.pair)
                samples[name].append((perf_counter() - began) * 1000)
                remove(conn, found.pair, drop_columns=True)
    with bench.connect("postgres") as admin:
        admin.execute("drop database adopting")
    return Measurement("adopt", title, "ms", samples, Target("side table", "count(*) … group by", 3.0))
