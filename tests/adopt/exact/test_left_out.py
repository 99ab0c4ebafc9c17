"""What is left out here is there."""

from pathlib import Path

import pytest

from .conftest import LEFT_OUT


@pytest.fixture(autouse=True)
def no_drift() -> None:
    """Without a database."""


def test_each_test_that_is_left_out_exists() -> None:
    modules = (Path(__file__).parents[2] / file.name for file in Path(__file__).parent.glob("test_*.py"))
    source = "".join(module.read_text("utf-8") for module in modules if module.exists())
    names = {name for left_out in LEFT_OUT.values() for name in left_out}
    assert {name for name in names if f"def {name}(" not in source} == set()
