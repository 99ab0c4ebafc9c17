"""How work is sent: by pgbench from outside, or by a loop inside the server."""

import re
import subprocess

import psycopg
from psycopg.conninfo import make_conninfo

from tests.benchmarks.server import Bench, Size
from tests.benchmarks.work import FIRST_ID, STRIDE, Work


def pgbench(
    bench: Bench, database: str, script: str, clients: int, *, seconds: int = 1, transactions: int | None = None
) -> tuple[float, int]:
    """Return transactions per second and how many there were; runs for some seconds, or some transactions a client."""
    path = bench.server.data_dir.parent / f"{database}.pgbench"
    path.write_text(script)
    command = [str(bench.server.bin_dir / "pgbench"), "--no-vacuum", "--protocol=prepared"]
    command += [f"--client={clients}", "--jobs=1", "--define=seq=-1", f"--file={path}"]
    command.append(f"--time={seconds}" if transactions is None else f"--transactions={transactions}")
    command.append(make_conninfo(bench.server.dsn, dbname=database))
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    rate = re.search(r"^tps = ([0-9.]+)", ran.stdout, re.MULTILINE)
    done = re.search(r"actually processed: (\d+)", ran.stdout)
    if done and done[1] == "0" and transactions is None and seconds < 60:
        # The time went by while the clients connected, on a machine that is very busy.
        return pgbench(bench, database, script, clients, seconds=2 * seconds)
    if ran.returncode or rate is None or done is None:
        raise RuntimeError(f"pgbench failed in database {database}:\n{ran.stdout}{ran.stderr}")
    return float(rate[1]), int(done[1])


def script(size: Size, work: Work, clients: int, *, hot: bool = False, delay: int = 0) -> str:
    """Return a pgbench script that takes another task each time, over all clients; each statement so many µs late."""
    first, count = (size.spread, size.hot) if hot else (0, size.spread)
    workflow = str(FIRST_ID + size.workflows) if hot else f"{FIRST_ID} + :n % {size.workflows}"
    return _script(f"{first} + (:seq * {clients} + :client_id) * {STRIDE} % {count}", workflow, work, delay)


def sibling_script(size: Size, work: Work) -> str:
    """Return a pgbench script in which all clients take the same workflows in the same order, by tasks of their own."""
    return _script(
        f":seq % {size.workflows} + :client_id * {size.workflows}", f"{FIRST_ID} + :n % {size.workflows}", work
    )


def _script(number: str, workflow: str, work: Work, delay: int = 0) -> str:
    lines = ["\\set seq :seq + 1", f"\\set n {number}", f"\\set task {FIRST_ID} + :n", f"\\set workflow {workflow}"]
    for one in work:
        lines += [f"\\sleep {delay} us"] if delay else []
        lines.append(f"{one.format(task=':task', workflow=':workflow')};")
    return "\n".join(lines) + "\n"


def create_loop(conn: psycopg.Connection, size: Size, name: str, work: Work) -> None:
    """Create the procedure that does `work` for many tasks inside the server, a transaction for each."""
    # A transaction is here anyway; each ends with a commit, since plpgsql prepares itself anew in each.
    statements = "".join(
        f"{one.format(task='task_number', workflow='workflow_number')};\n"
        for one in work
        if one not in ("begin", "commit")
    )
    conn.execute(f"""
        create or replace procedure public.{name}(first bigint, rounds bigint)
        language plpgsql
        as $$
        declare
            n bigint;
            task_number bigint;
            workflow_number bigint;
        begin
            for i in first .. first + rounds - 1 loop
                n := i::bigint * {STRIDE} % {size.spread};
                task_number := {FIRST_ID} + n;
                workflow_number := {FIRST_ID} + n % {size.workflows};
                {statements}
                commit;
            end loop;
        end
        $$""")
