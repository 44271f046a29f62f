"""The tests of walls need a kernel and programs that let them stand."""

from __future__ import annotations

import pytest

from tutelage.errors import SandboxError
from tutelage.sandbox.programs import Program
from tutelage.sandbox.run import run
from tutelage.sandbox.walls import Wall


@pytest.fixture(scope="session")
def walls() -> None:
    """Skips where one of the walls does not stand, with the reason."""
    for wall in Wall:
        try:
            run(Program(""), wall=wall)
        except SandboxError as error:
            pytest.skip(f"{wall}: {error}")


@pytest.fixture(autouse=True)
def standing(request: pytest.FixtureRequest) -> None:
    if request.path.stem != "test_filter":
        request.getfixturevalue("walls")
