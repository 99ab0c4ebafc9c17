"""Every snapshot is exact while clients do as they please for a while, under attack; ``SOAK_SECONDS`` says how long."""

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable

import psycopg
from psycopg import IsolationLevel

from pyapp.db import interrupted

from .ledger import Ledger, difference

SECONDS = float(os.environ.get("SOAK_SECONDS") or 4)
SEED = int(os.environ.get("SOAK_SEED") or random.randrange(10**6))
# Beside the clients of the ledger, whose tasks nobody else changes: what moves numbers of their workflows otherwise.
ATTACKS = [
    "update workflow set progress = 99, agents_completed = 7, agents_created = 0, progress_updated_at = 'epoch'",
    "update workflow set agents_planned = nullif(9 * (random() * 5)::integer, 0)",
    "update workflow set progress_frozen_at = now() where name = 'w1'",
    "update workflow set progress_frozen_at = null, agents_failed = 3",
    "update workflow set current_stage = 'x' || (random() * 9)::integer, status = 'running'"
    " where status <> 'cancelled'",
    "select repair_progress()",
    "with w as (insert into workflow (name, type) values ('brief', 'app') returning id)"
    " insert into agent_task (workflow_id, agent_type, status) select id, 'a', 'completed' from w",
    "delete from workflow where name = 'brief'",
    # Trees: anything below one of those that stay, or below none; what would make a cycle is refused.
    "do $$ begin update workflow set parent_id ="
    " (select id from workflow where name ~ '^w[0-9]' order by random() limit 1)"
    " where id = (select id from workflow order by random() limit 1);"
    " exception when sqlstate 'WP004' then null; end $$",
    "update workflow set parent_id = null where random() < 0.2 and parent_id is not null",
    "select pg_cancel_backend(pid) from pg_stat_activity where application_name = 'load' order by random() limit 1",
    "select pg_terminate_backend(pid) from pg_stat_activity"
    " where application_name = 'attack' and pid <> pg_backend_pid() order by random() limit 1",
]


def test_every_snapshot_is_exact_under_load_and_attack(
    conn: psycopg.Connection, dsn: str, record_property: Callable[[str, object], None]
) -> None:
    conn.execute(f"alter database {conn.info.dbname} set deadlock_timeout = '20ms'")
    ledger = Ledger(conn, SEED, clients=8)
    until, figures, unexpected = time.monotonic() + SECONDS, Counter[str](), list[BaseException]()

    def goes_on(what: str) -> bool:
        return not unexpected and (time.monotonic() < until or not figures[what])

    def attack(number: int) -> None:
        chance = random.Random(f"{SEED}.{number}")
        levels = [None, IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE]
        while goes_on("attacks"):
            try:
                with psycopg.connect(dsn, application_name="attack") as attacker:
                    attacker.isolation_level = chance.choice(levels)
                    while goes_on("attacks"):
                        for statement in chance.choices(ATTACKS, k=chance.choice([1, 1, 2])):
                            attacker.execute(statement)
                        attacker.rollback() if chance.random() < 0.2 else attacker.commit()
                        figures["attacks"] += 1
            except BaseException as error:
                if not (interrupted(error) or isinstance(error, psycopg.OperationalError)):
                    unexpected.append(error)
                    return
                figures[type(error).__name__] += 1

    def read() -> None:
        try:
            with psycopg.connect(dsn, autocommit=True) as reader:
                while goes_on("snapshots"):
                    assert difference(reader) == []
                    figures["snapshots"] += 1
        except BaseException as error:
            unexpected.append(error)

    threads = [threading.Thread(target=attack, args=[number]) for number in range(3)] + [threading.Thread(target=read)]
    with ledger.load(dsn):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ledger.go_on(1)
    assert unexpected == [], f"seed {SEED}"
    conn.execute("update workflow set progress_frozen_at = null")
    conn.execute("delete from workflow where name = 'brief'")
    ledger.assert_kept(conn)
    record_property("figures: soak", {**figures, "transactions": ledger.acknowledged})
