"""What one completion costs as workflows grow: it must not depend on how many tasks there are."""

from tests.benchmarks import work
from tests.benchmarks.methods import Options, Samples, say
from tests.benchmarks.report import Measurement, Target
from tests.benchmarks.server import Bench, processor_seconds
from tests.benchmarks.single import LIMIT, OURS, RECOUNT, ROW_LEVEL
from tests.benchmarks.work import FIRST_ID

# Workflows of each size, and tasks that are completed in each: the same number of rows is touched whatever the size.
_WORKFLOWS = 4
_TASKS = 10
_FILL = """
insert into public.workflow (id, name, type, status, agents_created, agents_total)
select
    ('10000000-0000-4000-8000-' || {first} + {place} * 10 + w)::uuid,
    'workflow',
    'benchmark',
    'running',
    {size},
    {size}
from generate_series(1, {workflows}) as w;

insert into public.agent_task (id, workflow_id, agent_type)
select
    ('20000000-0000-4000-8000-' || {first} + ({place} * 10 + w) * 1000000 + t)::uuid,
    ('10000000-0000-4000-8000-' || {first} + {place} * 10 + w)::uuid,
    'agent'
from generate_series(1, {workflows}) as w, generate_series(1, {size}) as t;
"""
_LOOP = """
create procedure public.complete_some(place bigint)
language plpgsql
as $$
begin
    for w in 1 .. {workflows} loop
        for t in 1 .. {tasks} loop
            {complete};
            commit;
        end loop;
    end loop;
end
$$
"""
_REOPEN = """
set session_replication_role = replica;
update public.agent_task set status = 'pending', completed_at = null where status <> 'pending';
update public.workflow set progress = 0, agents_completed = 0;
"""


def growth(bench: Bench, options: Options) -> Measurement:
    sizes = bench.size.growing
    title = f"Completing one task in workflows of {sizes[0]} to {sizes[-1]:,} tasks, inside the server"
    complete = work.COMPLETE[0].format(task=f"{FIRST_ID} + (place * 10 + w) * 1000000 + t")
    samples: Samples = {}
    for variant in (LIMIT, ROW_LEVEL, RECOUNT, OURS):
        say(f"{title}: {variant.name}")
        bench.create("growing", variant.way, "bare")
        with bench.connect("growing") as conn:
            conn.execute("set synchronous_commit = off")
            conn.execute("set session_replication_role = replica")
            for place, size in enumerate(sizes):
                conn.execute(_FILL.format(first=FIRST_ID, place=place, size=size, workflows=_WORKFLOWS))
            conn.execute(_LOOP.format(complete=complete, workflows=_WORKFLOWS, tasks=_TASKS))
            conn.execute("vacuum analyze")
            # The first round fills caches.
            for number in range(1 + (options.few if variant is RECOUNT else 4 * options.rounds)):
                conn.execute("set session_replication_role = origin")
                for place, size in enumerate(sizes):
                    begin = processor_seconds(conn)
                    conn.execute(f"call public.complete_some({place})")
                    used = processor_seconds(conn) - begin
                    if number:
                        name = f"{variant.name}, {size:,} tasks"
                        samples.setdefault(name, []).append(used / (_WORKFLOWS * _TASKS) * 1e6)
                moved = bench.moved("growing")
                if moved != len(sizes) * _WORKFLOWS * _TASKS or bench.wrong("growing", variant.way):
                    raise RuntimeError(f"{variant.name}: {moved} tasks moved, or drift")
                conn.execute(_REOPEN)
                bench.vacuum(conn)
        bench.drop("growing")
    first = f"{OURS.name}, {sizes[0]:,} tasks"
    targets = tuple(Target(f"{OURS.name}, {size:,} tasks", 1.1, first) for size in sizes[1:])
    return Measurement("growth", title, "µs", samples, first, targets)
