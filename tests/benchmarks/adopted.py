"""What adoption costs: counting what is there, and each completion after it."""

from time import perf_counter

import psycopg

from pyapp.adopt.adoption import Adoption
from pyapp.adopt.backfill import Backfill
from pyapp.adopt.inspect import inspect
from pyapp.adopt.install import install, remove
from pyapp.adopt.request import Request
from tests.benchmarks import work
from tests.benchmarks.methods import Options, Samples, Variant, processor_times, rates, say
from tests.benchmarks.report import Measurement, Target
from tests.benchmarks.server import Bench
from tests.benchmarks.single import OURS

ADOPTED = Variant("adopted", "side", work.COMPLETE)
PUBLISHED = Variant("adopted, published", "published", work.COMPLETE)
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


def look(conn: psycopg.Connection, workflows: str, tasks: str, *, publish: bool) -> Adoption:
    """Look at tables, as adopt does."""
    return inspect(conn, Request(workflows=workflows, tasks=tasks, publish=None if publish else {})).adoption


def adopt(bench: Bench, options: Options) -> Measurement:
    """Count what is there, in batches while it is adopted, beside one plain query that counts it."""
    runs, steps = bench.size.adopted
    title = f"Adopting {steps:,} tasks in {runs:,} workflows"
    plain, beside, published = "count(*) … group by", "adopted", "adopted, published"
    samples: Samples = {plain: [], beside: [], published: []}
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
            for name in (beside, published):
                conn.execute("update run set progress = 0 where progress <> 0")
                conn.execute("vacuum full analyze run")
                adoption = look(conn, "run", "step", publish=name == published)
                began = perf_counter()
                install(conn, adoption)
                Backfill(conn, adoption).run()
                samples[name].append(perf_counter() - began)
                remove(conn, adoption)
    bench.drop("adopting")
    return Measurement("adopt", title, "s", samples, plain, (Target(beside, 6.0, plain), Target(published, 6.0, plain)))


def adopted(bench: Bench, options: Options) -> Measurement:
    title = "Completing one task of adopted tables, 4 clients over many workflows"
    samples, _ = rates(bench, title, _variants(bench), options, rounds=options.few)
    targets = (Target(ADOPTED.name, 0.90, OURS.name), Target(PUBLISHED.name, 0.80, OURS.name))
    return Measurement("adopted", title, "tps", samples, OURS.name, targets)


def cpu_adopted(bench: Bench, options: Options) -> Measurement:
    title = "Completing one task of adopted tables, inside the server"
    samples = processor_times(bench, title, _variants(bench), options)
    return Measurement("cpu-adopted", title, "µs", samples, OURS.name)


def _variants(bench: Bench) -> tuple[Variant, ...]:
    for variant in (ADOPTED, PUBLISHED):
        bench.ensure(variant.way)
        with bench.connect(variant.way) as conn:
            if conn.execute("select to_regnamespace('agent_progress')").fetchone() == (None,):
                adoption = look(conn, "public.workflow", "public.agent_task", publish=variant is PUBLISHED)
                install(conn, adoption)
                Backfill(conn, adoption).run()
    return OURS, ADOPTED, PUBLISHED
