"""What is measured, one function each."""

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter

from tests.benchmarks import reporter, work
from tests.benchmarks.adopted import adopt_database, measure_backfill
from tests.benchmarks.report import Measurement, Target
from tests.benchmarks.server import Bench, processor_seconds
from tests.benchmarks.work import FIRST_ID, Work


@dataclass(frozen=True)
class Options:
    """How long to measure."""

    rounds: int
    seconds: int
    quick: bool


@dataclass(frozen=True)
class Variant:
    """Something to compare: its name, its database, what it sends."""

    name: str
    database: str
    work: Work


UNTRIGGERED = Variant("untriggered", "untriggered", work.COMPLETE)
TWO_UPDATES = Variant("application, two UPDATEs", "app", work.COMPLETE_TWO)
ONE_CTE = Variant("application, one CTE", "app", work.COMPLETE_CTE)
ROW_LEVEL = Variant("row-level trigger", "row", work.COMPLETE)
OURS = Variant("ours", "ours", work.COMPLETE)

STARTING = (
    Variant("untriggered", "untriggered", work.START),
    Variant("empty statement trigger", "empty", work.START),
    Variant("ours", "ours", work.START),
)
INSERTING = (
    Variant("untriggered", "untriggered", work.INSERT),
    Variant("application, one CTE", "app", work.INSERT_CTE),
    Variant("row-level trigger", "row", work.INSERT),
    Variant("ours", "ours", work.INSERT),
)


def complete(bench: Bench, options: Options) -> Measurement:
    title = "Completing one task, 4 clients over many workflows"
    variants = (UNTRIGGERED, TWO_UPDATES, ONE_CTE, ROW_LEVEL, OURS)
    samples = _interleave(title, variants, options.rounds, lambda v: _rate(bench, v, 4, options.seconds))
    return Measurement("complete", title, "tps", samples, Target("ours", ONE_CTE.name, 0.80))


def start(bench: Bench, options: Options) -> Measurement:
    title = "An update that settles nothing, 4 clients over many workflows"
    samples = _interleave(title, STARTING, options.rounds, lambda v: _rate(bench, v, 4, options.seconds))
    return Measurement("start", title, "tps", samples, Target("ours", "empty statement trigger", 0.90))


def hot(bench: Bench, options: Options) -> Measurement:
    title = "Completing tasks of one hot workflow, 32 clients"
    any_row = Variant("updating any one row", "untriggered", work.TOUCH)
    variants = (any_row, ONE_CTE, ROW_LEVEL, OURS)
    samples = _interleave(title, variants, options.rounds, lambda v: _rate(bench, v, 32, options.seconds, hot=True))
    return Measurement("hot", title, "tps", samples, Target("ours", any_row.name, 0.65))


def bulk_one(bench: Bench, options: Options) -> Measurement:
    title = "Completing 20,000 tasks of one workflow in one statement"
    last = {"workflow": FIRST_ID + bench.size.workflows, "task": FIRST_ID + bench.size.spread + 20_000}
    where = (
        "workflow_id = ('10000000-0000-4000-8000-' || {workflow})::uuid "
        "and id < ('20000000-0000-4000-8000-' || {task})::uuid"
    ).format(**last)
    # The row-level trigger takes many seconds: once is enough.
    samples = _bulk(bench, title, where, options.rounds, row_level=0 if options.quick else 1)
    return Measurement("bulk-one", title, "ms", samples, Target("ours", "untriggered", 1.2))


def bulk_many(bench: Bench, options: Options) -> Measurement:
    title = "Completing 100,000 tasks over 10,000 workflows in one statement"
    where = f"id < '20000000-0000-4000-8000-{FIRST_ID + 100_000}'"
    samples = _bulk(bench, title, where, options.rounds, row_level=0 if options.quick else 1)
    return Measurement("bulk-many", title, "ms", samples, Target("ours", "untriggered", 1.6))


def read(bench: Bench, options: Options) -> Measurement:
    bench.create_reading()
    many = f"{bench.size.many:,} tasks"
    title = f"Reading the progress of one workflow of 10 and of {many}"
    progress = "select * from public.workflow_progress where workflow_id = '10000000-0000-4000-8000-{}'"
    count = (
        "select count(*), count(*) filter (where status = 'completed') from public.agent_task"
        " where workflow_id = '10000000-0000-4000-8000-{}'"
    )
    variants = tuple(
        Variant(f"{name}, {tasks}", "reading", (statement.format(FIRST_ID + number),))
        for name, statement in (("ours", progress), ("count(*)", count))
        for number, tasks in enumerate(("10 tasks", many))
    )
    samples = _interleave(
        title,
        variants,
        options.rounds,
        lambda v: 1000 / bench.pgbench("reading", f"{v.work[0]};", 1, 1)[0],
    )
    return Measurement("read", title, "ms", samples, Target(f"ours, {many}", "ours, 10 tasks", 1.2))


def adopt(bench: Bench, options: Options) -> Measurement:
    if options.quick:
        return measure_backfill(bench, 1, runs=5_000, steps=500_000)
    return measure_backfill(bench, 3, runs=50_000, steps=5_000_000)


def adopted(bench: Bench, options: Options) -> Measurement:
    title = "Completing one task of adopted tables, 4 clients over many workflows"
    variants = _adopted(bench)
    samples = _interleave(title, variants, options.rounds, lambda v: _rate(bench, v, 4, options.seconds))
    return Measurement("adopted", title, "tps", samples, Target("adopted, columns", "ours", 0.90))


def cpu_adopted(bench: Bench, options: Options) -> Measurement:
    title = "Completing one task of adopted tables, inside the server"
    return Measurement("cpu-adopted", title, "µs", _cpu(bench, title, _adopted(bench), options), OURS.name)


def _adopted(bench: Bench) -> tuple[Variant, ...]:
    for database in ("columns", "side"):
        with bench.connect(database) as conn:
            if conn.execute("select to_regnamespace('agent_progress')").fetchone() == (None,):
                adopt_database(conn, columns=database == "columns")
    return (
        OURS,
        Variant("adopted, columns", "columns", work.COMPLETE),
        Variant("adopted, side table", "side", work.COMPLETE),
    )


def cpu_complete(bench: Bench, options: Options) -> Measurement:
    title = "Completing one task, inside the server"
    variants = (UNTRIGGERED, TWO_UPDATES, ONE_CTE, ROW_LEVEL, OURS)
    return Measurement("cpu-complete", title, "µs", _cpu(bench, title, variants, options), ONE_CTE.name)


def cpu_start(bench: Bench, options: Options) -> Measurement:
    title = "An update that settles nothing, inside the server"
    reference = "empty statement trigger"
    return Measurement("cpu-start", title, "µs", _cpu(bench, title, STARTING, options), reference)


def cpu_insert(bench: Bench, options: Options) -> Measurement:
    title = "Inserting one task, inside the server"
    return Measurement("cpu-insert", title, "µs", _cpu(bench, title, INSERTING, options), ONE_CTE.name)


MEASUREMENTS: dict[str, Callable[[Bench, Options], Measurement]] = {
    "complete": complete,
    "cpu-complete": cpu_complete,
    "start": start,
    "cpu-start": cpu_start,
    "cpu-insert": cpu_insert,
    "bulk-one": bulk_one,
    "bulk-many": bulk_many,
    "hot": hot,
    "reporter": lambda bench, options: reporter.measure_rate(bench, min(options.rounds, 5), options.seconds),
    "reporter-latency": lambda bench, options: reporter.measure_latency(bench, min(options.rounds, 5), options.seconds),
    "read": read,
    "adopt": adopt,
    "adopted": adopted,
    "cpu-adopted": cpu_adopted,
}


def _interleave(
    title: str, variants: Sequence[Variant], rounds: int, run: Callable[[Variant], float]
) -> dict[str, list[float]]:
    """Run every variant in every round, each time another one first; return the samples of each."""
    samples: dict[str, list[float]] = {variant.name: [] for variant in variants}
    for number in range(rounds):
        print(f"{title}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for offset in range(len(variants)):
            variant = variants[(number + offset) % len(variants)]
            samples[variant.name].append(run(variant))
    return samples


def _rate(bench: Bench, variant: Variant, clients: int, seconds: int, *, hot: bool = False) -> float:
    bench.reset(variant.database)
    rate, done = bench.pgbench(variant.database, bench.script(variant.work, clients, hot=hot), clients, seconds)
    if variant.work is not work.TOUCH:
        moved = bench.moved(variant.database)
        if moved != done:
            print(f"  {variant.name}: only {moved} of {done} transactions moved a task", file=sys.stderr)
    if variant.database == "ours" and (drifted := bench.drifted()):
        print(f"  WRONG: {drifted} workflows drifted", file=sys.stderr)
    return rate


def _bulk(bench: Bench, title: str, where: str, rounds: int, row_level: int) -> dict[str, list[float]]:
    variants = (
        Variant("untriggered", "untriggered", (work.COMPLETE_MANY.format(where=where),)),
        Variant("application, one CTE", "app", (work.COMPLETE_MANY_CTE.format(where=where),)),
        Variant("ours", "ours", (work.COMPLETE_MANY.format(where=where),)),
    )
    slow = (Variant("row-level trigger", "row", variants[0].work),)
    for variant in variants + slow[:row_level]:
        bench.reset(variant.database)
    # The first run of all extends the files and is not counted.
    _interleave(f"{title}, warm-up", variants, 1, lambda v: _rolled_back(bench, v))
    samples = _interleave(title, variants, rounds, lambda v: _rolled_back(bench, v))
    if row_level:
        samples |= _interleave(f"{title}, row-level trigger", slow, row_level, lambda v: _rolled_back(bench, v))
    return samples


def _rolled_back(bench: Bench, variant: Variant) -> float:
    """Return the milliseconds of the statement without its commit; undone, so that it can be repeated."""
    with bench.connect(variant.database) as conn:
        conn.execute("begin")
        begin = perf_counter()
        conn.execute(variant.work[0])
        elapsed = perf_counter() - begin
        conn.execute("rollback")
        conn.execute("vacuum public.agent_task")
        conn.execute("vacuum public.workflow")
    return elapsed * 1000


def _cpu(bench: Bench, title: str, variants: Sequence[Variant], options: Options) -> dict[str, list[float]]:
    """Return microseconds per transaction in one session that does not wait for the disk."""
    batch = 500 if options.quick else 1000
    rounds = 2 * options.rounds
    with ExitStack() as stack:
        sessions = {v.name: stack.enter_context(bench.connect(v.database)) for v in variants}
        for number, variant in enumerate(variants):
            bench.reset(variant.database)
            sessions[variant.name].execute("set synchronous_commit = off")
            bench.create_loop(sessions[variant.name], f"loop_{number}", variant.work)
        names = [variant.name for variant in variants]
        begun = dict.fromkeys(names, 0)

        def run(variant: Variant) -> float:
            # Two variants that share a database take their tasks from different ends of it.
            number = names.index(variant.name)
            first = number * bench.size.spread // len(names) + begun[variant.name] * batch
            begun[variant.name] += 1
            session = sessions[variant.name]
            begin = processor_seconds(session)
            session.execute(f"call public.loop_{number}({first}, {batch})")
            return (processor_seconds(session) - begin) / batch * 1e6

        samples = _interleave(title, variants, rounds, run)
    for database in {variant.database for variant in variants}:
        bench.reset(database)
    return samples
