import pytest

pytest.register_assert_rewrite("tests.adopt.application", "tests.adopt.counted")
