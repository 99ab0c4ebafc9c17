"""Many clients on one workflow, and tasks of one workflow that finish together."""

from tests.benchmarks import work
from tests.benchmarks.load import pgbench, sibling_script
from tests.benchmarks.methods import Options, Variant, interleave, rates
from tests.benchmarks.report import Measurement, Target
from tests.benchmarks.server import Bench
from tests.benchmarks.single import IVM, ONE_CTE, OURS, RECOUNT, ROW_LEVEL, TWO_STATEMENTS

ANY_ROW = Variant("updating any one row", "untriggered", work.TOUCH)
VARIANTS = (ANY_ROW, TWO_STATEMENTS, ONE_CTE, ROW_LEVEL, RECOUNT, IVM, OURS)
CLIENTS = (1, 8, 32, 64)
_TOGETHER = 4


def hot(bench: Bench, options: Options, clients: int) -> Measurement:
    title = f"Completing tasks of one hot workflow, {clients} client{'s' if clients > 1 else ''}"
    targets = (Target(OURS.name, 0.75, ANY_ROW.name),) if clients == 32 else ()
    rounds = options.rounds if targets else options.few
    samples, wrong = rates(bench, title, VARIANTS, options, clients=clients, hot=True, rounds=rounds)
    return Measurement(f"hot-{clients}", title, "tps", samples, ANY_ROW.name, targets, wrong)


def siblings(bench: Bench, options: Options) -> Measurement:
    size = bench.size
    each = min(size.workflows, options.transactions or 2_000)
    title = f"Workflows left wrong, {_TOGETHER} tasks finishing together in each of {each:,}"
    variants = tuple(v for v in VARIANTS if v is not ANY_ROW)

    def run(variant: Variant) -> float:
        bench.reset(variant.way)
        text = sibling_script(size, variant.work)
        _, done = pgbench(bench, variant.way, text, _TOGETHER, transactions=each)
        if bench.moved(variant.way) != done:
            raise RuntimeError(f"{variant.name}: {bench.moved(variant.way)} of {done} transactions moved a task")
        return bench.wrong(variant.way)

    samples = interleave(bench, title, variants, 1, run)
    return Measurement("siblings", title, "workflows", samples, None, (Target(OURS.name, 0),))
