"""Django and SQLAlchemy as they are: both write whole rows back, with values as old as their read."""

from collections.abc import Callable, Iterator
from typing import Any

import django
import psycopg
import pytest
from django.conf import settings
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import ForeignKey, create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from .application import App, succeed
from .schemas import DJANGO, PRISMA

if not settings.configured:
    settings.configure(
        USE_TZ=True,
        DATABASES={"default": {"ENGINE": "django.db.backends.postgresql"}},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    )
    django.setup()

from django.db import connections, migrations, models, transaction
from django.db.migrations.state import ProjectState

Make = Callable[..., App]
both_modes = pytest.mark.parametrize("columns", [False, True], ids=["side", "columns"])


class Run(models.Model):
    name = models.CharField(max_length=200, default="w")
    status = models.CharField(max_length=20, default="running")
    progress = models.SmallIntegerField(default=0)
    version = models.IntegerField(default=1)
    created = models.DateTimeField(auto_now_add=True)
    updated = models.DateTimeField(auto_now=True)

    class Meta:
        app_label = "app"
        db_table = "app_run"
        managed = False


class Step(models.Model):
    run = models.ForeignKey(Run, models.CASCADE, null=True)
    n = models.IntegerField(default=0)
    status = models.CharField(max_length=20, default="pending")
    urgent = models.BooleanField(default=False)

    class Meta:
        app_label = "app"
        db_table = "app_step"
        managed = False


@pytest.fixture
def orm(dsn: str) -> Iterator[None]:
    """Point Django to the test's database."""
    where = conninfo_to_dict(dsn)
    connections["default"].settings_dict.update(
        NAME=where["dbname"], USER=where["user"], HOST=where["host"], PORT=where["port"], PASSWORD=""
    )
    yield
    connections["default"].close()


@both_modes
def test_django_saves_a_stale_model_and_progress_stays_true(make: Make, orm: None, columns: bool) -> None:
    app = make(DJANGO, columns=columns)
    stale = Run.objects.get(pk=app.key(1))
    for step in stale.step_set.order_by("n")[:3]:
        step.status = "completed"
        step.save()
    stale.progress = 15
    stale.version += 1
    stale.save()
    app.assert_exact()
    stale.refresh_from_db()
    assert (stale.progress, stale.version) == (60, 2)
    moved = Run.objects.filter(pk=stale.pk, version=2).update(progress=30, version=3)
    assert moved == 1
    app.assert_exact()


@both_modes
def test_django_creates_updates_and_deletes_in_bulk(make: Make, orm: None, columns: bool) -> None:
    app = make(DJANGO, columns=columns)
    run = Run.objects.create(progress=77)
    Step.objects.bulk_create([Step(run=run, n=n) for n in range(10)])
    app.assert_exact()
    Step.objects.filter(run=run, n__lt=4).update(status="completed")
    steps = list(Step.objects.filter(run=run, n__gte=4))
    for step in steps:
        step.status = "failed" if step.n % 2 else "completed"
    Step.objects.bulk_update(steps, ["status"])
    app.assert_exact()
    # The key of a deferred constraint: the tasks are there before their workflow.
    with transaction.atomic():
        Step.objects.create(run_id=5000, status="completed")
        Step.objects.create(run_id=5000)
        Run.objects.create(pk=5000)
    app.assert_exact()
    Step.objects.filter(run_id=app.key(5)).update(run=run)
    Run.objects.bulk_create([Run(pk=5000, name="again"), Run(pk=5001)], ignore_conflicts=True)
    app.assert_exact()
    with transaction.atomic():  # what its collector does, for models of an installed application
        Step.objects.filter(run=run).delete()
        run.delete()
    app.assert_exact()
    with transaction.atomic():
        Run.objects.all().delete()
        Step.objects.all().delete()
    app.assert_exact()


@both_modes
def test_a_migration_of_django_runs_what_was_printed_and_takes_it_back(make: Make, orm: None, columns: bool) -> None:
    app = make(DJANGO, columns=columns, adopt=False)
    there = succeed(app.dsn, *app.adopt_arguments("--print")).out
    with connections["default"].schema_editor() as editor:
        migrations.RunSQL(there).database_forwards("app", editor, ProjectState(), ProjectState())
    succeed(app.dsn, "adopt", "--continue")
    app.move(app.key(1), "completed")
    app.assert_exact()
    back = migrations.RunSQL("", succeed(app.dsn, "unadopt", "--print").out)
    with connections["default"].schema_editor() as editor:
        back.database_backwards("app", editor, ProjectState(), ProjectState())
    app.check_nothing_there()


class Base(DeclarativeBase):
    pass


class Workflow(Base):
    __tablename__ = "Workflow"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(default="w")
    progress: Mapped[int] = mapped_column(default=0)
    version: Mapped[int] = mapped_column(default=1)
    tasks: Mapped[list["AgentTask"]] = relationship(back_populates="workflow", cascade="all, delete-orphan")
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012


class AgentTask(Base):
    __tablename__ = "AgentTask"

    id: Mapped[str] = mapped_column(primary_key=True)
    workflowId: Mapped[str | None] = mapped_column(ForeignKey("Workflow.id"))
    n: Mapped[int] = mapped_column(default=0)
    workflow: Mapped[Workflow | None] = relationship(back_populates="tasks")


@pytest.fixture
def alchemy(dsn: str) -> Iterator[Callable[[], Session]]:
    """Open sessions of SQLAlchemy on the test's database."""
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
    yield lambda: Session(engine)
    engine.dispose()


def as_loaded(workflow: Workflow) -> dict[str, Any]:
    return {"id": workflow.id, "name": workflow.name, "progress": workflow.progress, "version": workflow.version}


@both_modes
def test_sqlalchemy_merges_a_stale_object_and_progress_stays_true(
    make: Make, alchemy: Callable[[], Session], columns: bool
) -> None:
    app = make(PRISMA, columns=columns)
    with alchemy() as session:
        stale = as_loaded(session.get_one(Workflow, app.key(1)))
    app.move(app.key(1), "completed", 3)
    with alchemy() as session, session.begin():
        # The version did not move with progress: no StaleDataError.
        session.merge(Workflow(**{**stale, "progress": 15, "name": "renamed"}))
    app.assert_exact()
    with alchemy() as session:
        now = session.get_one(Workflow, app.key(1))
        assert (now.progress, now.version, now.name) == (60, 2, "renamed")


@both_modes
def test_sqlalchemy_flushes_new_and_deleted_tasks(make: Make, alchemy: Callable[[], Session], columns: bool) -> None:
    app = make(PRISMA, columns=columns)
    with alchemy() as session, session.begin():
        session.add(Workflow(id="new", progress=50, tasks=[AgentTask(id=f"t{n}", n=n) for n in range(4)]))
    app.assert_exact()
    app.move("new", "completed", 2)
    with alchemy() as session, session.begin():
        workflow = session.get_one(Workflow, "new")
        workflow.tasks.remove(next(task for task in workflow.tasks if task.n == 0))
        workflow.progress = 99
    app.assert_exact()
    with alchemy() as session, session.begin():
        session.get_one(AgentTask, "t1").workflowId = app.key(2)
    app.assert_exact()
    with alchemy() as session, session.begin():
        session.delete(session.get_one(Workflow, "new"))
    app.assert_exact()


@both_modes
def test_a_migration_of_alembic_runs_what_was_printed(
    make: Make, alchemy: Callable[[], Session], columns: bool
) -> None:
    app = make(PRISMA, columns=columns, adopt=False)
    with alchemy() as session, session.begin():  # as op.execute() does
        session.execute(text(succeed(app.dsn, *app.adopt_arguments("--print")).out))
    succeed(app.dsn, "adopt", "--continue")
    app.move(app.key(1), "completed")
    app.assert_exact()
