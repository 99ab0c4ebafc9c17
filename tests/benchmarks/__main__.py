"""Measure what exact progress costs, on one private, durable server, and print how the ways of keeping it compare."""

import argparse
import os
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from pyapp.embedded import EmbeddedError, binaries
from tests.benchmarks.catalogue import DEFAULT_SIZE, FULL_SIZE, MEASUREMENTS, QUICK_SIZE, chosen
from tests.benchmarks.methods import Options, say
from tests.benchmarks.report import Measurement, heading, table
from tests.benchmarks.server import Bench, commit_latency, running

FIGURES = Path(__file__).with_name("figures.txt")
PICTURE = Path(__file__).parents[2] / ".github" / "benchmark.svg"


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    if arguments.renew:
        arguments.plot = PICTURE
    if arguments.plot:
        try:  # before minutes of measuring
            import tests.benchmarks.plot as plot
        except ImportError:
            return _refuse("--plot needs matplotlib: pip install -e '.[benchmark]'")
    try:
        header, measurements = _measure(arguments)
    except EmbeddedError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        return _refuse("interrupted", 130)
    if arguments.renew:
        FIGURES.write_text("\n".join([heading(header), *map(table, measurements)]))
    if arguments.plot and not plot.draw(header, measurements, arguments.plot):
        return _refuse("none of these measurements can be drawn")
    return 0


def _measure(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[Measurement]]:
    names = arguments.only or chosen(quick=arguments.quick, full=arguments.full, renew=arguments.renew)
    options = Options(
        rounds=arguments.rounds or (2 if arguments.quick else 5 if arguments.renew else Options.rounds),
        seconds=arguments.seconds or 1,
        transactions=1_500 if arguments.quick and not arguments.seconds else None,
    )
    size = FULL_SIZE if arguments.full else QUICK_SIZE if arguments.quick else DEFAULT_SIZE
    # Enough tasks that none is met twice: up to 20,000 transactions per second, on the hot workflow as well.
    size = replace(size, tasks=size.tasks * max(1, options.seconds // 2), hot=size.hot * max(1, options.seconds // 2))
    bin_dir = _bin_dir(arguments.postgres)
    # Else a `timeout` or `kill` would leave the server behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    begin = perf_counter()
    directory = Path(tempfile.mkdtemp(prefix="benchmark-", dir=arguments.data))
    directory.chmod(0o755)  # PostgreSQL runs under another account where we are root
    try:
        with running(directory, size, bin_dir) as bench:
            header, measurements = run(bench, options, names)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    say(f"took {perf_counter() - begin:.0f} s")
    return header, measurements


def run(bench: Bench, options: Options, names: Sequence[str]) -> tuple[dict[str, Any], list[Measurement]]:
    """Measure what is named, and print it as it comes; return the header and the measurements."""
    say("setting up")
    bench.create_templates()
    header = _header(bench, options)
    print(heading(header), flush=True)
    measurements = []
    for place, name in enumerate(names, 1):
        begin = perf_counter()
        measurements.append(MEASUREMENTS[name](bench, options))
        say(f"[{place}/{len(names)}] {name} took {perf_counter() - begin:.0f} s")
        print(table(measurements[-1]), flush=True)
    return header, measurements


def _bin_dir(postgres: str) -> Path:
    return binaries(int(postgres)) if postgres.isdecimal() else Path(postgres)


def _refuse(message: str, status: int = 2) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        epilog="What each measurement is, and how it is taken: tests/benchmarks/README.md",
    )
    much = parser.add_mutually_exclusive_group()
    much.add_argument("--quick", action="store_true", help="a first impression in about a minute, on less data")
    much.add_argument("--full", action="store_true", help="all, with ten million tasks: half an hour, 10 GB of disk")
    much.add_argument("--renew", action="store_true", help="renew figures.txt and the picture: less than ten minutes")
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, metavar="NAME", help=", ".join(MEASUREMENTS))
    parser.add_argument("--rounds", type=_positive, metavar="N", help="rounds of each measurement (default 9)")
    parser.add_argument("--seconds", type=_positive, metavar="N", help="length of a pgbench run (default 1)")
    parser.add_argument(
        "--postgres",
        default="18",
        metavar="18|16|DIR",
        help="the embedded PostgreSQL 18 or 16, or the bin directory of an installed one (default 18)",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="where to put the server's data: a real disk")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the results, as .svg")
    arguments = parser.parse_args(argv)
    for directory in (arguments.data, arguments.plot and arguments.plot.absolute().parent):
        if directory and not directory.is_dir():
            parser.error(f"no directory {directory}")
    if arguments.plot and arguments.plot.suffix != ".svg":
        parser.error("--plot takes a file name that ends in .svg")
    return arguments


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of 1 or more")
    return int(text)


def _header(bench: Bench, options: Options) -> dict[str, Any]:
    with bench.connect("postgres") as conn:
        version = conn.execute("show server_version").fetchone()
    return {
        "PostgreSQL": version[0] if version else "",
        "schema": f"sql/*.sql of sha256 {bench.fingerprint[:12]}",
        "machine": f"{os.cpu_count()} cores, {_processor()}, {platform.system()} {platform.release()}",
        "load": f"{os.getloadavg()[0]:.1f} (one-minute average at the start)",
        "durability": "fsync on, synchronous_commit on",
        "commit latency": f"{commit_latency(bench):.2f} ms (median, one session)",
        "rounds": f"{options.rounds}, interleaved; pgbench runs of {options.length}",
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
