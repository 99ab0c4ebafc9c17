"""Many tasks in one statement: completed, or loaded."""

from time import perf_counter

import psycopg

from tests.benchmarks import work
from tests.benchmarks.methods import Options, Samples, Variant, interleave, say, statement_time
from tests.benchmarks.report import Measurement, Target
from tests.benchmarks.server import Bench
from tests.benchmarks.single import IVM, LIMIT, NO_TIMES, ONE_CTE, OURS, RECOUNT, ROW_LEVEL
from tests.benchmarks.work import FIRST_ID

_SAVEPOINTS = """
do $$
begin
    for n in 0 .. {1} - 1 loop
        begin
            update public.agent_task
            set status = 'completed'
            where id = ('20000000-0000-4000-8000-' || {0} + n)::uuid;
        exception
            when division_by_zero then null;
        end;
    end loop;
end
$$
"""


def bulk_one(bench: Bench, options: Options) -> Measurement:
    title = f"Completing {bench.size.bulk:,} tasks of one workflow in one statement"
    samples = _bulk(bench, title, bench.size.spread, bench.size.bulk, options.rounds)
    targets = (Target(NO_TIMES.name, 1.2, LIMIT.name), Target(OURS.name, 1.2, LIMIT.name))
    return Measurement("bulk-one", title, "ms", samples, LIMIT.name, targets)


def bulk_many(bench: Bench, options: Options) -> Measurement:
    title = f"Completing 10 tasks each of {bench.size.workflows:,} workflows in one statement"
    samples = _bulk(bench, title, 0, 10 * bench.size.workflows, options.rounds)
    return Measurement("bulk-many", title, "ms", samples, LIMIT.name, (Target(OURS.name, 1.4, LIMIT.name),))


def bulk_each(bench: Bench, options: Options) -> Measurement:
    title = f"Completing one task each of {bench.size.workflows:,} workflows in one statement"
    samples = _bulk(bench, title, 0, bench.size.workflows, options.few)
    return Measurement("bulk-each", title, "ms", samples, LIMIT.name)


def savepoints(bench: Bench, options: Options) -> Measurement:
    """Complete tasks of one workflow in one transaction, each in a savepoint: every version of the row is looked at."""
    count = bench.size.saved
    title = f"Completing {count:,} tasks of one workflow in one transaction, each in a savepoint"
    guarded = Variant("row-level trigger, and any BEFORE UPDATE trigger", "guarded", ())
    samples: Samples = {}
    for variant in (LIMIT, ROW_LEVEL, guarded, OURS):
        bench.ensure(variant.way)
        bench.reset(variant.way)
        say(f"{title}: {variant.name}")
        timed = Variant(variant.name, variant.way, (_SAVEPOINTS.format(FIRST_ID + bench.size.spread, count),))
        samples[variant.name] = [statement_time(bench, timed, count, check=True)]
    return Measurement("savepoints", title, "ms", samples, ROW_LEVEL.name, (Target(OURS.name, 1.5, ROW_LEVEL.name),))


def growth_bulk(bench: Bench, options: Options) -> Measurement:
    """Complete ever more tasks of one workflow in one statement: per task it is flat, or it is quadratic."""
    title = "Completing ever more tasks of one workflow in one statement, per task"
    counts = [count for count in (10, 100, 1_000, 10_000, 40_000) if count <= bench.size.hot]
    samples: Samples = {}
    for variant in (LIMIT, ROW_LEVEL, OURS):
        bench.ensure(variant.way)
        bench.reset(variant.way)
        for count in counts:
            slow = variant is ROW_LEVEL and count >= 10_000
            if slow and count > 10_000:
                continue  # a quarter of a minute
            name = f"{variant.name}, {count:,} tasks"
            say(name)
            timed = Variant(name, variant.way, (complete_many(bench.size.spread, count),))
            rounds = 1 if slow else options.few + 1  # the first one fills caches
            samples[name] = [statement_time(bench, timed, count) * 1000 / count for _ in range(rounds)]
    return Measurement("growth-bulk", title, "µs", samples, f"{OURS.name}, {counts[0]:,} tasks")


def copy(bench: Bench, options: Options) -> Measurement:
    """Load tasks by COPY into tables that hold only their workflows."""
    size = bench.size
    title = f"COPY of {size.copied:,} tasks into {size.workflows:,} workflows, with its commit"
    variants = (LIMIT, RECOUNT, IVM, NO_TIMES, OURS)
    rounds = min(2, options.few)
    samples: Samples = {variant.name: [] for variant in variants}
    wrong = dict.fromkeys(samples, 0)
    for number in range(rounds):
        for variant in variants:
            if not bench.create("copying", variant.way, "bare"):
                continue
            say(f"{title}: {variant.name}, round {number + 1} of {rounds}")
            with bench.connect("copying") as conn:
                create_workflows(conn, size.workflows)
                begin = perf_counter()
                copy_tasks(conn, 0, size.copied, size.workflows)
                samples[variant.name].append(perf_counter() - begin)
            wrong[variant.name] = bench.wrong("copying", variant.way)
            if bench.number("copying", "select count(*) from public.agent_task") != size.copied:
                raise RuntimeError(f"{variant.name}: not all tasks were loaded")
            bench.drop("copying")
    return Measurement("copy", title, "s", samples, LIMIT.name, (), wrong)


def create_workflows(conn: psycopg.Connection, count: int) -> None:
    conn.execute(
        "insert into public.workflow (id, name, type, created_at)"
        f" select ('10000000-0000-4000-8000-' || {FIRST_ID} + w)::uuid, 'workflow ' || w, 'benchmark',"
        " now() - w * interval '1 second' from generate_series(0, %s) as w",
        [count - 1],
    )
    conn.execute("vacuum analyze public.workflow")


def copy_tasks(conn: psycopg.Connection, first: int, count: int, workflows: int) -> None:
    """Load pending tasks in one COPY, spread over the workflows; ids follow from numbers."""
    with conn.cursor() as cursor, cursor.copy("copy public.agent_task (id, workflow_id, agent_type) from stdin") as to:
        for begin in range(first, first + count, 10_000):
            to.write(
                "".join(
                    f"20000000-0000-4000-8000-{FIRST_ID + n}\t"
                    f"10000000-0000-4000-8000-{FIRST_ID + n % workflows}\tagent\n"
                    for n in range(begin, min(begin + 10_000, first + count))
                )
            )


def _bulk(bench: Bench, title: str, first: int, count: int, rounds: int) -> Samples:
    many = (complete_many(first, count),)
    quick = (
        Variant(LIMIT.name, LIMIT.way, many),
        Variant(ONE_CTE.name, ONE_CTE.way, (complete_many(first, count, work.COMPLETE_MANY_CTE),)),
        *(Variant(v.name, v.way, many) for v in (RECOUNT, IVM, NO_TIMES, OURS)),
    )
    slow = (Variant(ROW_LEVEL.name, ROW_LEVEL.way, many),)
    for variant in quick + slow:
        if bench.ensure(variant.way):
            bench.reset(variant.way)
    # The first run of all extends the files and is not counted; its numbers are looked at.
    interleave(bench, f"{title}, warm-up", quick, 1, lambda v: statement_time(bench, v, count, check=True))
    samples = interleave(bench, title, quick, rounds, lambda v: statement_time(bench, v, count))
    # Seconds, up to a quarter of a minute: once is enough.
    samples |= interleave(bench, f"{title}, row by row", slow, 1, lambda v: statement_time(bench, v, count))
    return samples


def complete_many(first: int, count: int, text: str = work.COMPLETE_MANY) -> str:
    """Return the statement that completes tasks by number."""
    low, high = (f"'20000000-0000-4000-8000-{FIRST_ID + number}'" for number in (first, first + count))
    return text.format(where=f"id >= {low} and id < {high}")
