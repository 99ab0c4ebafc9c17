"""Celery with django-celery-results, really run: tasks succeed, fail, are tried again, and expire."""

import json
import sys
import time
from typing import Any

import django
from django.conf import settings

host, database, what = sys.argv[1:4]
settings.configure(
    DATABASES={
        "default": {"ENGINE": "django.db.backends.postgresql", "HOST": host, "NAME": database, "USER": "postgres"}
    },
    INSTALLED_APPS=["django.contrib.contenttypes", "django_celery_results"],
    USE_TZ=True,
    SECRET_KEY="driver",
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
)
django.setup()

from celery import Celery  # noqa: E402
from django.core.management import call_command  # noqa: E402

app = Celery("driver", broker="memory://", backend="django-db")
app.conf.update(result_extended=True, task_track_started=True, result_expires=0.001, worker_hijack_root_logger=False)
tried: dict[Any, int] = {}


@app.task(bind=True, name="letter", max_retries=1)
def letter(self: Any, n: int, workflow_id: str) -> int:
    tried[n] = tried.get(n, 0) + 1
    if n % 10 == 3 or (n % 10 == 4 and tried[n] == 1):
        raise self.retry(countdown=0, exc=ValueError("no"))
    return n


def run_celery() -> dict[str, Any]:
    from celery.contrib.testing.worker import start_worker

    counts = {}
    with start_worker(app, pool="solo", perform_ping_check=False, loglevel="ERROR", shutdown_timeout=60):
        for w, many in enumerate((10, 20)):
            results = [letter.apply_async((1000 * w + n,), {"workflow_id": f"w-{w}"}) for n in range(many)]
            results.append(letter.apply_async((999,), {"workflow_id": f"w-{w}"}, expires=-1))
            for result in results:
                result.get(propagate=False, timeout=120)
            counts[f"w-{w}"] = (many - many // 10, many + 1, many // 10, 1)
    return counts


if __name__ == "__main__":
    if what == "migrate":
        for application, version in (part.split("=") for part in sys.argv[4:]):
            call_command("migrate", application, *([version] if version else []), verbosity=0)
    elif what == "celery":
        print(json.dumps({"counts": run_celery()}), flush=True)
    elif what == "prune-celery":
        time.sleep(0.1)
        app.backend.cleanup()
