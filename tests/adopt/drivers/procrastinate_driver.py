"""Procrastinate, really run: jobs of three workflows succeed, fail, are retried, cancelled and aborted."""

import asyncio
import json
import logging
import sys

import procrastinate
from procrastinate import PsycopgConnector, RetryStrategy

logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
app = procrastinate.App(connector=PsycopgConnector(conninfo=sys.argv[1]))
tried: dict[int, int] = {}


@app.task(name="letter", retry=RetryStrategy(max_attempts=2, wait=0))
async def letter(workflow_id: str, n: int, workflow_name: str = "") -> None:
    tried[n] = tried.get(n, 0) + 1
    if n % 10 == 3 or (n % 10 == 4 and tried[n] == 1):
        raise ValueError("no")


@app.task(name="tick")
async def tick() -> None:
    pass


async def main() -> None:
    async with app.open_async():
        counts = {}
        for w in range(3):
            many = 10 + 10 * w
            for n in range(many):
                await letter.defer_async(workflow_id=f"w-{w}", workflow_name=f"Letters {w}", n=1000 * w + n)
            cancelled = await letter.defer_async(workflow_id=f"w-{w}", workflow_name=f"Letters {w}", n=999)
            await app.job_manager.cancel_job_by_id_async(cancelled)
            failed = many // 10
            counts[f"w-{w}"] = (many - failed, many + 1, failed, 1)
        await tick.defer_async()
        await app.run_worker_async(wait=False, concurrency=8, install_signal_handlers=False, listen_notify=False)
        print(json.dumps({"counts": counts}), flush=True)


async def prune() -> None:
    async with app.open_async():
        await app.job_manager.delete_old_jobs(nb_hours=0)


asyncio.run(prune() if sys.argv[2:] == ["prune"] else main())
