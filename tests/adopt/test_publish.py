"""Published columns say what was counted, whoever writes there: SQL, Django and SQLAlchemy as they are."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import django
import psycopg
import pytest
import sqlalchemy.orm
from django.conf import settings
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Enum, ForeignKey, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

import pyapp.adopt

from .application import App, succeed
from .shapes import DJANGO, PRISMA, SHAPES, Shape

if not settings.configured:
    settings.configure(
        USE_TZ=True,
        DATABASES={"default": {"ENGINE": "django.db.backends.postgresql"}},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    )
    django.setup()

from django.db import connections, migrations, models, transaction
from django.db.migrations.state import ProjectState

PAGE = Path(pyapp.adopt.__file__).with_name("README.md").read_text("utf-8")
Make = Callable[..., App]
published = pytest.mark.parametrize(
    "shape", [shape for shape in SHAPES if shape.progress], ids=lambda shape: shape.title
)
OPTIMISTIC = replace(PRISMA, ddl=PRISMA.ddl + 'alter table "Workflow" add column version integer not null default 1')


@published
def test_what_others_write_there_is_put_back_at_any_depth(make: Make, shape: Shape) -> None:
    app = make(shape)
    [row] = app.run(
        f"update {shape.workflows} set {shape.progress} = 77 where {shape.workflow_keyed()} returning {shape.progress}",
        **app.bind(2),
    ).fetchall()
    assert row == (40,)
    app.run(
        f"update {shape.workflows} set {shape.progress} = null"
        if shape.progress == "percent"
        else f"update {shape.workflows} set {shape.progress} = 1"
    )
    app.assert_exact()
    app.run(
        f"create table other (n integer);"
        "create function meddle() returns trigger language plpgsql as 'begin"
        f" update {shape.workflows} set {shape.progress} = 5; return null; end';"
        "create trigger meddle after insert on other for each statement execute function meddle();"
        "create function set_it() returns trigger language plpgsql as 'begin"
        f" new.{shape.progress} := 6; return new; end';"
        f"create trigger a_set_it before insert or update on {shape.workflows} for each row execute function set_it();"
        "insert into other values (1)"
    )
    app.move(1, "completed", 3)
    app.workflow(90, again="on conflict do nothing")
    app.workflow(91, "completed", again="on conflict do nothing")
    app.assert_exact()


@pytest.mark.parametrize("shape", [DJANGO, PRISMA], ids=lambda shape: shape.title)
def test_only_what_moves_is_written(make: Make, shape: Shape) -> None:
    app = make(shape)
    version = f"select xmin::text from {shape.workflows} where {shape.workflow_keyed()}"
    before = app.run(version, **app.bind(4)).fetchone()
    app.move(4, "completed", 1)  # 2 of 200
    app.move(4, "running", 0)
    app.run(f"update {shape.tasks} set n = n")
    assert app.run(version, **app.bind(4)).fetchone() == before
    app.move(4, "completed", 3)  # 4 of 200
    assert app.run(version, **app.bind(4)).fetchone() != before


class Run(models.Model):
    name = models.CharField(max_length=200, default="w")
    status = models.CharField(max_length=20, default="running")
    progress = models.SmallIntegerField(default=0)

    class Meta:
        app_label = "app"
        db_table = "app_run"
        managed = False


class Step(models.Model):
    run = models.ForeignKey(Run, models.CASCADE, null=True)
    n = models.IntegerField(default=0)
    status = models.CharField(max_length=20, default="pending")

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


def test_django_saves_a_stale_model_and_progress_stays_true(make: Make, orm: None) -> None:
    app = make(DJANGO)
    stale = Run.objects.get(pk=app.key(1)[0])
    for step in stale.step_set.order_by("n")[:3]:
        step.status = "completed"
        step.save()
    stale.progress = 15
    stale.save()
    app.assert_exact()
    stale.refresh_from_db()
    assert stale.progress == 60
    assert Run.objects.filter(pk=stale.pk).update(progress=30) == 1
    app.assert_exact()


def test_django_creates_updates_and_deletes_in_bulk(make: Make, orm: None) -> None:
    app = make(DJANGO)
    run = Run.objects.create(progress=77)
    Step.objects.bulk_create([Step(run=run, n=n) for n in range(10)])
    app.assert_exact()
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
    Step.objects.filter(run_id=app.key(5)[0]).update(run=run)
    Run.objects.bulk_create([Run(pk=5000, name="again"), Run(pk=5001)], ignore_conflicts=True)
    app.assert_exact()
    with transaction.atomic():
        Run.objects.all().delete()
        Step.objects.all().delete()
    app.assert_exact()


def test_a_migration_of_django_runs_what_was_printed_and_takes_it_back(make: Make, orm: None) -> None:
    app = make(DJANGO, adopt=False)
    there = app.adopt("--print").out
    with connections["default"].schema_editor() as editor:
        migrations.RunSQL(there).database_forwards("app", editor, ProjectState(), ProjectState())
    succeed(app.dsn, "adopt", "--continue")
    app.move(1, "completed")
    app.assert_exact()
    back = migrations.RunSQL("", succeed(app.dsn, "unadopt", "--print").out)
    with connections["default"].schema_editor() as editor:
        back.database_backwards("app", editor, ProjectState(), ProjectState())
    assert app.run("select to_regnamespace('agent_progress')").fetchone() == (None,)


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


def test_sqlalchemy_merges_a_stale_object_and_progress_stays_true(make: Make, alchemy: Callable[[], Session]) -> None:
    app = make(OPTIMISTIC)
    key = app.key(1)[0]
    with alchemy() as session:
        loaded = session.get_one(Workflow, key)
        stale: dict[str, Any] = {"id": key, "name": loaded.name, "version": loaded.version}
    app.move(1, "completed", 3)
    with alchemy() as session, session.begin():
        # The version did not move with progress: no StaleDataError.
        session.merge(Workflow(**{**stale, "progress": 15, "name": "renamed"}))
    app.assert_exact()
    with alchemy() as session:
        now = session.get_one(Workflow, key)
        assert (now.progress, now.version, now.name) == (60, 2, "renamed")


def test_sqlalchemy_flushes_new_and_deleted_tasks(make: Make, alchemy: Callable[[], Session]) -> None:
    app = make(OPTIMISTIC)
    with alchemy() as session, session.begin():
        session.add(Workflow(id="new", progress=50, tasks=[AgentTask(id=f"t{n}", n=n) for n in range(4)]))
    app.assert_exact()
    with alchemy() as session, session.begin():
        workflow = session.get_one(Workflow, "new")
        workflow.tasks.remove(next(task for task in workflow.tasks if task.n == 0))
        workflow.progress = 99
        session.get_one(AgentTask, "t1").workflowId = app.key(2)[0]
    app.assert_exact()
    with alchemy() as session, session.begin():
        session.delete(session.get_one(Workflow, "new"))
    app.assert_exact()


class Counted(DeclarativeBase):
    pass


class Shown(Counted):
    """As the page says that a column tells that the database writes it."""

    __tablename__ = "Workflow"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(default="w")
    progress: Mapped[int] = eval(
        re.findall(r"`(mapped_column\(.*?\))`", PAGE)[0], vars(sqlalchemy) | vars(sqlalchemy.orm)
    )


class Done(Counted):
    __tablename__ = "AgentTask"

    id: Mapped[str] = mapped_column(primary_key=True)
    workflowId: Mapped[str] = mapped_column()
    status: Mapped[str] = mapped_column(Enum("PENDING", "COMPLETED", name="TaskStatus"), default="COMPLETED")


def test_sqlalchemy_reads_what_was_counted_after_a_flush(make: Make, alchemy: Callable[[], Session]) -> None:
    app = make(PRISMA)
    with alchemy() as session, session.begin():
        workflow = Shown(id="new")
        session.add(workflow)
        session.flush()
        assert workflow.progress == 0
        session.add_all([Done(id="a", workflowId="new"), Done(id="b", workflowId="new", status="PENDING")])
        session.flush()
        session.refresh(workflow)
        assert workflow.progress == 50
        session.get_one(Done, "b").status = "COMPLETED"
        session.flush()
        workflow.name = "renamed"
        session.flush()
        assert workflow.progress == 100
    app.assert_exact()


def test_a_migration_of_alembic_runs_what_was_printed(make: Make, alchemy: Callable[[], Session]) -> None:
    operations = pytest.importorskip("alembic.operations")
    migration, autogenerate = (pytest.importorskip(f"alembic.{name}") for name in ("runtime.migration", "autogenerate"))
    app = make(OPTIMISTIC, adopt=False)

    def include(name: str | None, kind: str, _: Any) -> bool:
        return kind != "schema" or name != "agent_progress"

    with alchemy() as session, session.begin():
        context = migration.MigrationContext.configure(
            session.connection(), opts={"include_schemas": True, "include_name": include}
        )
        operations.Operations(context).execute(app.adopt("--print").out)
        differences = str(autogenerate.compare_metadata(context, Base.metadata))
        assert "workflow_counter" not in differences
    succeed(app.dsn, "adopt", "--continue")
    app.move(1, "completed")
    app.assert_exact()
