"""Ten million tasks: how long they take to load, and what is quick afterwards."""

from time import perf_counter

from pyapp import find_drift
from tests.benchmarks import work
from tests.benchmarks.bulk import copy_tasks, create_workflows
from tests.benchmarks.load import pgbench, script
from tests.benchmarks.methods import Options, Samples, say
from tests.benchmarks.reads import latency, list_variants
from tests.benchmarks.report import Measurement
from tests.benchmarks.server import Bench, Size

_BLOCK = 1_000_000


def whole(bench: Bench, options: Options) -> Measurement:
    """Load by COPY with all triggers in place, a million tasks each; then complete, list, and check all."""
    workflows, tasks = bench.size.whole
    title = f"{tasks:,} tasks in {workflows:,} workflows"
    samples: Samples = {}
    bench.create("whole", "ours", "bare")
    with bench.connect("whole") as conn:
        create_workflows(conn, workflows)
        began = perf_counter()
        for first in range(0, tasks, _BLOCK):
            say(f"{title}: loading, {first:,} tasks so far")
            copy_tasks(conn, first, min(_BLOCK, tasks - first), workflows)
        elapsed = perf_counter() - began
        samples["load by COPY, with triggers, s"] = [elapsed]
        samples["  the same, tasks per second"] = [tasks / elapsed]
        say(f"{title}: VACUUM ANALYZE")
        began = perf_counter()
        conn.execute("vacuum analyze")
        samples["VACUUM ANALYZE after it, s"] = [perf_counter() - began]
        say(f"{title}: check")
        began = perf_counter()
        drift = find_drift(conn)
        samples["check: count all tasks and compare, s"] = [perf_counter() - began]
    samples["database with its indexes, MB"] = [bench.number("whole", "select pg_database_size('whole')") / 2**20]

    say(f"{title}: completing")
    spread = Size(workflows=workflows, tasks=tasks // workflows)
    each = None if options.transactions is None else max(1, options.transactions // 4)
    text = script(spread, work.COMPLETE, 4)
    rate, done = pgbench(bench, "whole", text, 4, seconds=10 * options.seconds, transactions=each)
    samples["completions per second, 4 clients"] = [rate]
    if (moved := bench.moved("whole")) != done:
        say(f"only {moved} of {done} transactions moved a task")

    for page, place in {"first": 0, "a later": workflows // 2}.items():
        for variant in list_variants(bench, "whole", {"": place}):
            say(f"{title}: {page} page of the list, {variant.name}")
            samples[f"{page} page of 50, {variant.name.rstrip(', ')}, ms"] = [latency(bench, "whole", variant, options)]
    wrong = {"check: count all tasks and compare, s": len(drift) + bench.wrong("whole", "ours")}
    bench.drop("whole")
    return Measurement("whole", title, "", samples, None, (), wrong)
