"""Command line: run the measurements on one private, durable server and print how they compare."""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from tests.benchmarks.measurements import MEASUREMENTS, Options
from tests.benchmarks.report import as_json, table
from tests.benchmarks.server import Bench, Size, commit_latency, running


def main() -> None:
    arguments = _arguments()
    options = Options(
        arguments.rounds or (2 if arguments.quick else 11),
        arguments.seconds or 1,
        arguments.quick,
    )
    # Enough tasks that none is met twice, up to 50,000 transactions per second (20,000 on the hot workflow).
    size = Size(
        tasks=max(20, 10 * options.seconds),
        hot=20_000 * max(2, options.seconds),
        many=100_000 if options.quick else 1_000_000,
    )
    begin = perf_counter()
    directory = Path(tempfile.mkdtemp(prefix="benchmark-", dir=arguments.data))
    directory.chmod(0o755)  # PostgreSQL runs under another account where we are root
    try:
        with running(directory, size) as bench:
            print("setting up", file=sys.stderr, flush=True)
            bench.create()
            header = _header(bench, options)
            for name, value in header.items():
                print(f"{name + ':':<16} {value}")
            print(flush=True)
            measurements = []
            for name in arguments.only or MEASUREMENTS:
                measurements.append(MEASUREMENTS[name](bench, options))
                print(table(measurements[-1]), flush=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(f"took {perf_counter() - begin:.0f} s", file=sys.stderr)
    if arguments.json:
        arguments.json.write_text(json.dumps(as_json(header, measurements), indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a first impression in about a minute")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of each measurement (default 11)")
    parser.add_argument("--seconds", type=int, metavar="N", help="length of a pgbench run (default 1)")
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, metavar="NAME", help=", ".join(MEASUREMENTS))
    parser.add_argument("--data", metavar="DIR", help="where to put the server's data: a real disk")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples to this file")
    return parser.parse_args()


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
        "rounds": f"{options.rounds}, interleaved; pgbench runs of {options.seconds} s",
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
    main()
