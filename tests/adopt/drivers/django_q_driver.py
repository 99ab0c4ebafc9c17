"""Django Q with its ORM broker, really run: tasks of two groups succeed, fail, and are tried again; older ones go."""

import json
import sys
import time

import django
from django.conf import settings

host, database, what = sys.argv[1:4]
settings.configure(
    DATABASES={
        "default": {"ENGINE": "django.db.backends.postgresql", "HOST": host, "NAME": database, "USER": "postgres"}
    },
    INSTALLED_APPS=["django.contrib.contenttypes", "django_q"],
    Q_CLUSTER={
        "orm": "default",
        "workers": 1,
        "timeout": 1,
        "retry": 2,
        "max_attempts": 2,
        "poll": 0.1,
        "save_limit": 5 if what == "prune" else 0,
        "log_level": "ERROR",
    },
    USE_TZ=True,
    SECRET_KEY="driver",
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
)
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connections  # noqa: E402
from django_q.cluster import Cluster  # noqa: E402
from django_q.models import OrmQ  # noqa: E402
from django_q.tasks import async_task  # noqa: E402

tried: dict[int, int] = {}


def letter(n: int) -> int:
    tried[n] = tried.get(n, 0) + 1
    if n % 10 == 3 or (n % 10 == 4 and tried[n] == 1):
        raise ValueError("no")
    return n


def work() -> None:
    """Run a cluster until the queue is empty: what failed stays in it until its last try."""
    connections.close_all()  # the processes of the cluster are forks
    cluster = Cluster()
    cluster.start()
    until = time.monotonic() + 60
    while OrmQ.objects.exists() and time.monotonic() < until:
        time.sleep(0.2)
    cluster.stop()


if __name__ == "__main__":
    if what == "migrate":
        for application, version in (part.split("=") for part in sys.argv[4:]):
            call_command("migrate", application, *([version] if version else []), verbosity=0)
    elif what == "prune":
        for _ in range(8):
            async_task(letter, 5, group="later")
        work()
    else:
        counts = {}
        for w, many in enumerate((10, 20)):
            for n in range(many):
                async_task(letter, 1000 * w + n, group=f"w-{w}")
            counts[f"w-{w}"] = (many - many // 10, many, many // 10, 0)
        async_task(letter, 5)
        work()
        print(json.dumps({"counts": counts}), flush=True)
