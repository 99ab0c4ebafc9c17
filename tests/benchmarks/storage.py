"""What a completion leaves behind: write-ahead log, dead space, and whether workflow rows stay heap-only."""

from tests.benchmarks import work
from tests.benchmarks.bulk import complete_many
from tests.benchmarks.load import create_loop, pgbench, script
from tests.benchmarks.methods import Options, Samples, Variant, interleave, say
from tests.benchmarks.report import Measurement, Target
from tests.benchmarks.server import Bench
from tests.benchmarks.single import COMPLETING, LIMIT, OURS

_SIZE = (
    "select pg_total_relation_size('public.agent_task') + pg_total_relation_size('public.workflow')"
    " + coalesce(pg_total_relation_size(to_regclass('public.workflow_count')), 0)"
)


def wal(bench: Bench, options: Options) -> Measurement:
    """Log written by single completions; the minimum is of a round in which no page needed a full image any more."""
    title = "Write-ahead log of completing one task"
    count = min(500, bench.size.spread)

    def run(variant: Variant) -> float:
        bench.reset(variant.way)
        with bench.connect(variant.way) as conn:
            create_loop(conn, bench.size, "loop_wal", variant.work)
            begin = bench.number(variant.way, "select pg_current_wal_insert_lsn() - '0/0'")
            conn.execute(f"call public.loop_wal(0, {count})")
            return (bench.number(variant.way, "select pg_current_wal_insert_lsn() - '0/0'") - begin) / count

    samples = interleave(bench, title, COMPLETING, max(2, options.few), run)
    return Measurement("wal", title, "bytes", samples, LIMIT.name)


def bloat(bench: Bench, options: Options) -> Measurement:
    """Growth of tables and indexes by single completions, from freshly loaded tables."""
    size = bench.size
    count = size.spread // 10
    title = f"Growth of tables and indexes by completing {count:,} tasks, for each, without VACUUM"
    samples: Samples = {}
    for variant in COMPLETING:
        samples[variant.name] = []
        say(f"{title}: {variant.name}")
        if not bench.create("bloating", variant.way, "base"):
            continue
        with bench.connect("bloating") as conn:
            conn.execute("set synchronous_commit = off")
            create_loop(conn, size, "loop", variant.work)
            begin = bench.number("bloating", _SIZE)
            conn.execute(f"call public.loop(0, {count})")
            samples[variant.name].append((bench.number("bloating", _SIZE) - begin) / count)
        bench.drop("bloating")
    return Measurement("bloat", title, "bytes", samples, LIMIT.name)


def hot_updates(bench: Bench, options: Options) -> Measurement:
    """Share of the updates of workflow rows that stay heap-only (HOT) and so touch no index, by kind of work."""
    size = bench.size
    title = "Updates of workflow rows that stay heap-only (HOT)"
    bulk = complete_many(0, size.workflows * min(10, size.tasks))
    samples: Samples = {}
    for name in ("single completions, one session", "4 clients", "one bulk statement", "32 clients, hot workflow"):
        say(f"{title}: {name}")
        bench.create("updating", OURS.way, "base")
        with bench.connect("updating") as conn:
            if name == "single completions, one session":
                conn.execute("set synchronous_commit = off")
                create_loop(conn, size, "loop", work.COMPLETE)
                conn.execute(f"call public.loop(0, {size.spread // 2})")
            elif name == "one bulk statement":
                conn.execute(bulk)
        if "clients" in name:
            clients = int(name.split()[0])
            each = max(1, (options.transactions or 10_000) // clients)
            text = script(size, work.COMPLETE, clients, hot="hot" in name)
            pgbench(bench, "updating", text, clients, transactions=each)
        samples[name] = [_hot_share(bench, "updating")]
        bench.drop("updating")
    targets = tuple(Target(name, 95) for name in samples)
    return Measurement("hot-updates", title, "%", samples, None, targets)


def _hot_share(bench: Bench, database: str) -> float:
    # Sessions hand in their statistics when they end; all have ended by now, or do within the next look.
    with bench.connect(database) as conn:
        while conn.execute(
            "select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
            " and backend_type = 'client backend'"
        ).fetchone():
            pass
        row = conn.execute(
            "select 100.0 * n_tup_hot_upd / n_tup_upd from pg_stat_user_tables"
            " where relid = 'public.workflow'::regclass"
        ).fetchone()
    if row is None or row[0] is None:
        raise RuntimeError("no update of a workflow was seen")
    return float(row[0])
