"""How variants are measured beside each other: by rate, by processor time, by the time of one statement."""

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter

from tests.benchmarks import work
from tests.benchmarks.load import create_loop, pgbench, script
from tests.benchmarks.server import Bench, processor_seconds
from tests.benchmarks.work import FIRST_ID, Work

Samples = dict[str, list[float]]


@dataclass(frozen=True)
class Options:
    """How long to measure."""

    rounds: int = 9
    seconds: int = 1
    transactions: int | None = None  # of each pgbench run, instead of seconds
    batch: int = 1_000  # transactions of one loop inside the server

    @property
    def length(self) -> str:
        return f"{self.seconds} s" if self.transactions is None else f"{self.transactions:,} transactions"

    @property
    def few(self) -> int:
        """Rounds of what has no target, or is steady."""
        return max(1, (self.rounds + 2) // 3)


@dataclass(frozen=True)
class Variant:
    """Something to compare: its name, its way of keeping count (a database), what it sends."""

    name: str
    way: str
    work: Work


def say(message: str) -> None:
    print(f"  {message}", file=sys.stderr, flush=True)


def interleave(
    bench: Bench, title: str, variants: Sequence[Variant], rounds: int, run: Callable[[Variant], float]
) -> Samples:
    """Run every variant in every round, each time another one first; return the samples of each."""
    samples: Samples = {variant.name: [] for variant in variants}
    present = [variant for variant in variants if bench.ensure(variant.way)]
    for number in range(rounds):
        say(f"{title}: round {number + 1} of {rounds}")
        for offset in range(len(present)):
            variant = present[(number + offset) % len(present)]
            samples[variant.name].append(run(variant))
    return samples


def rates(
    bench: Bench,
    title: str,
    variants: Sequence[Variant],
    options: Options,
    *,
    clients: int = 4,
    hot: bool = False,
    delay: int = 0,
    rounds: int | None = None,
) -> tuple[Samples, dict[str, int]]:
    """Return transactions per second, and of how many workflows the numbers were wrong after it."""
    wrong = {variant.name: 0 for variant in variants}
    each = None if options.transactions is None else max(1, options.transactions // clients)

    def run(variant: Variant) -> float:
        bench.reset(variant.way)
        text = script(bench.size, variant.work, clients, hot=hot, delay=delay)
        rate, done = pgbench(bench, variant.way, text, clients, seconds=options.seconds, transactions=each)
        if variant.work is not work.TOUCH:
            moved = bench.moved(variant.way)
            if moved != done:
                say(f"{variant.name}: only {moved} of {done} transactions moved a task")
        wrong[variant.name] = max(wrong[variant.name], bench.wrong(variant.way))
        return rate

    return interleave(bench, title, variants, rounds or options.rounds, run), wrong


def processor_times(bench: Bench, title: str, variants: Sequence[Variant], options: Options) -> Samples:
    """Return microseconds per transaction in one session that does not wait for the disk."""
    present = [variant for variant in variants if bench.ensure(variant.way)]
    batch, rounds = options.batch, 2 * options.rounds
    with ExitStack() as stack:
        sessions = {v.name: stack.enter_context(bench.connect(v.way)) for v in present}
        for number, variant in enumerate(present):
            bench.reset(variant.way)
            sessions[variant.name].execute("set synchronous_commit = off")
            create_loop(sessions[variant.name], bench.size, f"loop_{number}", variant.work)
        names = [variant.name for variant in present]
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

        samples = interleave(bench, title, variants, rounds, run)
    ways = [variant.way for variant in present]
    for way in dict.fromkeys(ways):
        if (moved := bench.moved(way)) != (expected := ways.count(way) * rounds * batch):
            say(f"{title}, {way}: {moved} tasks moved, not {expected}")
        bench.reset(way)
    return samples


def statement_time(bench: Bench, variant: Variant, expected: int, *, check: bool = False) -> float:
    """Return the milliseconds of a bulk statement without its commit; undone, so that it can be repeated.

    `check` looks at the counters as well.
    """
    with bench.connect(variant.way) as conn:
        # One task first: a new session has yet to read the catalogue and to compile the triggers.
        for one in ("begin", work.COMPLETE[0].format(task=FIRST_ID), "rollback", "begin"):
            conn.execute(one)
        begin = perf_counter()
        conn.execute(variant.work[0])
        elapsed = perf_counter() - begin
        row = conn.execute("select count(*) from public.agent_task where status <> 'pending'").fetchone()
        wrong = bench.wrong_in(conn, variant.way) if check else 0
        conn.execute("rollback")
        if wrong:
            raise RuntimeError(f"{variant.name}: {wrong} workflows are wrong")
        if row != (expected,):
            raise RuntimeError(f"{variant.name}: {row} tasks moved, not {expected}")
        bench.vacuum(conn)
    return elapsed * 1000
