"""What importing the package costs and needs, and which module may import which."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import pyapp

from .commands import output_of

PACKAGE = Path(pyapp.__file__).parent
FEATURES = ("pyapp.adopt", "pyapp.web", "pyapp.demo")
ONLY_ON_SOME_PLATFORMS = ("fcntl", "grp", "pwd", "resource", "termios")
COSTLY = ("click", "fastapi", "jinja2", "rich", "sqlparse", "uvicorn", "yoyo")


@cache
def modules() -> dict[str, Path]:
    """All modules of the package, by name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if not {"sql", "migrations"} & set(parts):
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(path: Path, at_once: bool = False) -> Iterator[str]:
    """What a module imports, ``at_once`` or whenever it likes, as far as it is written down."""
    tree = ast.parse(path.read_text("utf-8"))
    nodes = tree.body if at_once else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in modules() else node.module


def python(code: str) -> str:
    return output_of(sys.executable, "-c", code).strip()


def test_importing_the_package_loads_neither_yoyo_nor_what_commands_need() -> None:
    code = f"import pyapp, sys; pyapp.migrate, pyapp.grant, pyapp.aio; print([m for m in {COSTLY} if m in sys.modules])"
    assert python(code) == "[]"


def test_the_helpers_stay_functions_whatever_modules_are_imported() -> None:
    code = (
        "import pyapp.migrate, pyapp.watch, pyapp.renew, pyapp; print(callable(pyapp.migrate), callable(pyapp.watch))"
    )
    assert python(code) == "True True"


def test_every_module_can_be_imported_where_there_are_no_unix_modules() -> None:
    code = f"""
import builtins, importlib
original = builtins.__import__

def blocked(name, globals=None, *rest):
    if name in {ONLY_ON_SOME_PLATFORMS} and (globals or {{}}).get("__name__", "").startswith("pyapp"):
        raise ImportError(name)
    return original(name, globals, *rest)

builtins.__import__ = blocked
for name in {sorted(name for name in modules() if not name.startswith("pyapp.embedded") and name != "pyapp.__main__")}:
    importlib.import_module(name)
"""
    python(code)


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_point_down(name: str) -> None:
    feature = next((one for one in FEATURES if name.startswith(one)), None)
    above = {"pyapp.cli", *FEATURES} - {feature}
    if name.startswith("pyapp.cli") or name == "pyapp.__main__":
        above = set()
    found = {one for one in imports(modules()[name]) if one.startswith("pyapp")}
    assert not [one for one in found for top in above if one == top or one.startswith(f"{top}.")]
    if name == "pyapp.embedded":
        assert found <= {"pyapp.errors"}
    elif not name.startswith(("pyapp.cli", "pyapp.demo")):
        assert "pyapp.embedded" not in found


def test_there_is_no_circle() -> None:
    graph = {
        name: {one for one in imports(path, at_once=True) if one in modules() and one not in ("pyapp", name)}
        for name, path in modules().items()
        if name != "pyapp"
    }
    assert list(TopologicalSorter(graph).static_order())
