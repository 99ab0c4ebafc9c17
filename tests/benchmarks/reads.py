"""What readers pay: one workflow, however many tasks it has, and a page of the list."""

from dataclasses import fields

from pyapp.models import Workflow
from tests.benchmarks.load import pgbench
from tests.benchmarks.methods import Options, Variant, interleave, say
from tests.benchmarks.report import Measurement, Target
from tests.benchmarks.server import Bench
from tests.benchmarks.work import FIRST_ID

WORKFLOW_COLUMNS = ", ".join(field.name for field in fields(Workflow))
_COUNTS = (
    "count(*) as created, count(*) filter (where a.status = 'completed') as completed,"
    " count(*) filter (where a.status = 'failed') as failed,"
    " count(*) filter (where a.status = 'cancelled') as cancelled"
)
# Written well: the page first, and then the tasks of its workflows only.
_PAGE_COUNTED = (
    "select w.id, w.name, w.type, w.status, w.created_at, t.*"
    " from (select * from public.workflow where (created_at, id) < {after}"
    " order by created_at desc, id desc limit 50) as w"
    f" cross join lateral (select {_COUNTS} from public.agent_task as a where a.workflow_id = w.id) as t"
    " order by w.created_at desc, w.id desc"
)
_PAGE = (
    "select {columns} from public.workflow_progress as p where (p.created_at, p.workflow_id) < {after}"
    " order by p.created_at desc, p.workflow_id desc limit 50"
)
_SMALL = 10


def read(bench: Bench, options: Options) -> Measurement:
    sizes = bench.size.reads
    title = f"Reading the progress of one workflow of {sizes[0]} to {sizes[-1]:,} tasks"
    _fill(bench, "reading", [*sizes])
    ours = "select * from public.workflow_progress where workflow_id = '10000000-0000-4000-8000-{}'"
    count = f"select {_COUNTS} from public.agent_task as a where workflow_id = '10000000-0000-4000-8000-{{}}'"
    variants = [
        Variant(f"{name}, {tasks:,} tasks", "ours", (statement.format(FIRST_ID + place),))
        for name, statement in (("ours", ours), ("count on read", count))
        for place, tasks in enumerate(sizes)
    ]
    samples = interleave(bench, title, variants, options.few, lambda v: latency(bench, "reading", v, options))
    first, last = variants[0].name, variants[len(sizes) - 1].name
    bench.drop("reading")
    return Measurement("read", title, "ms", samples, first, (Target(last, 1.2, first),))


def list_page(bench: Bench, options: Options) -> Measurement:
    size = bench.size
    title = f"A page of 50 out of {size.listed:,} workflows"
    _fill(bench, "listing", [size.large if place < 50 else _SMALL for place in range(size.listed)])
    variants = list_variants(bench, "listing", {f"of {size.large:,} tasks each": 0, f"of {_SMALL} tasks each": 50})
    samples = interleave(bench, title, variants, options.few, lambda v: latency(bench, "listing", v, options))
    bench.drop("listing")
    return Measurement("list", title, "ms", samples, variants[0].name)


def list_variants(bench: Bench, database: str, pages: dict[str, int]) -> list[Variant]:
    """Return both ways to ask for pages of the list; each page begins after so many workflows."""
    variants = []
    workflows = bench.number(database, "select count(*) from public.workflow")
    with bench.connect(database) as conn:
        for name, statement in (("ours", _PAGE), ("count on read", _PAGE_COUNTED)):
            for page, place in pages.items():
                row = conn.execute(
                    "select format('(%%L::timestamptz, %%L::uuid)', created_at, id) from public.workflow where id = %s",
                    [f"10000000-0000-4000-8000-{FIRST_ID + max(0, place - 1)}"],
                ).fetchone()
                after = row[0] if row and place else "('infinity'::timestamptz, null::uuid)"
                text = statement.format(columns=WORKFLOW_COLUMNS, after=after)
                if conn.execute(text).rowcount != min(50, workflows - place):
                    raise RuntimeError(f"{name}, {page}: not the page that it should be")
                variants.append(Variant(f"{name}, {page}", "ours", (text,)))
    return variants


def latency(bench: Bench, database: str, variant: Variant, options: Options) -> float:
    """Return the milliseconds of a read, in one session."""
    each = None if options.transactions is None else max(1, options.transactions // 5)
    return 1000 / pgbench(bench, database, f"{variant.work[0]};", 1, seconds=options.seconds, transactions=each)[0]


def _fill(bench: Bench, database: str, tasks: list[int]) -> None:
    """Create workflows of so many tasks each, the first one the newest, half of the tasks completed."""
    say(f"creating {len(tasks):,} workflows with {sum(tasks):,} tasks")
    bench.create(database, "ours", "bare")
    with bench.connect(database) as conn:
        # As a bulk load would, with counters that are right.
        conn.execute("set session_replication_role = replica")
        conn.execute(
            "insert into public.workflow (id, name, type, status, created_at,"
            " agents_created, agents_total, agents_completed, progress)"
            f" select ('10000000-0000-4000-8000-' || {FIRST_ID - 1} + w)::uuid, 'workflow', 'benchmark', 'running',"
            " now() - w * interval '1 second', tasks, tasks, tasks / 2, public.progress_percentage(tasks / 2, tasks)"
            " from unnest(%s::integer[]) with ordinality as o (tasks, w)",
            [tasks],
        )
        conn.execute(
            "insert into public.agent_task (workflow_id, agent_type, status)"
            " select w.id, 'agent',"
            " case when n <= w.agents_completed then 'completed' else 'pending' end::public.task_status"
            " from public.workflow as w, generate_series(1, w.agents_created) as n"
        )
        conn.execute("vacuum analyze")
    if bench.wrong(database, "ours"):
        raise RuntimeError(f"database {database} was filled wrongly")
