"""What adoption costs: counting what is there, and each completion after it."""

from time import perf_counter

import psycopg

from pyapp.adopt import Findings, Wanted, backfill, install, look, remove
from tests.benchmarks import work
from tests.benchmarks.methods import Options, Samples, Variant, processor_times, rates, say
from tests.benchmarks.report import Measurement, Target
from tests.benchmarks.server import Bench
from tests.benchmarks.single import OURS

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


def adopt(bench: Bench, options: Options) -> Measurement:
    """Count what is there, in batches while it is adopted, beside one plain query that counts it."""
    runs, steps = bench.size.adopted
    title = f"Adopting {steps:,} tasks in {runs:,} workflows"
    plain, beside, columns = "count(*) … group by", "side table", "columns"
    samples: Samples = {plain: [], beside: [], columns: []}
    with bench.connect("postgres") as admin:
        admin.execute("create database adopting")
    with bench.connect("adopting") as conn:
        say(f"{title}: creating them")
        conn.execute(_TABLES.format(runs=runs, steps=steps))
        for number in range(options.few):
            say(f"{title}: round {number + 1} of {options.few}")
            conn.execute("vacuum full analyze run")
            conn.execute("vacuum analyze step")
            began = perf_counter()
            conn.execute(_COUNT)
            samples[plain].append(perf_counter() - began)
            for name in (beside, columns):
                conn.execute("update run set progress = 0 where progress <> 0")
                conn.execute("vacuum full analyze run")
                found = look(conn, Wanted("run", "step", "default", "agent_progress", columns=name == columns))
                began = perf_counter()
                install(conn, found)
                backfill(conn, found.pair)
                samples[name].append(perf_counter() - began)
                remove(conn, found.pair, drop_columns=True)
    bench.drop("adopting")
    return Measurement("adopt", title, "s", samples, plain, (Target(beside, 3.0, plain),))


def adopted(bench: Bench, options: Options) -> Measurement:
    title = "Completing one task of adopted tables, 4 clients over many workflows"
    variants = _variants(bench)
    samples, _ = rates(bench, title, variants, options, rounds=options.few)
    return Measurement("adopted", title, "tps", samples, OURS.name, (Target(variants[1].name, 0.90, OURS.name),))


def cpu_adopted(bench: Bench, options: Options) -> Measurement:
    title = "Completing one task of adopted tables, inside the server"
    samples = processor_times(bench, title, _variants(bench), options)
    return Measurement("cpu-adopted", title, "µs", samples, OURS.name)


def _variants(bench: Bench) -> tuple[Variant, ...]:
    for way in ("columns", "side"):
        bench.ensure(way)
        with bench.connect(way) as conn:
            if conn.execute("select to_regnamespace('agent_progress')").fetchone() == (None,):
                adopt_database(conn, columns=way == "columns")
    return (
        OURS,
        Variant("adopted, columns", "columns", work.COMPLETE),
        Variant("adopted, side table", "side", work.COMPLETE),
    )
