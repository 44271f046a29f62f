"""The tests of walls need a kernel and programs that let them stand."""

from __future__ import annotations

import pytest

from tutelage.errors import SandboxError
from tutelage.sandbox.programs import Program
from tutelage.sandbox.run import run
from tutelage.sandbox.walls import Wall


@pytest.fixture(scope="session")
def fallen() -> dict[Wall, str]:
    """The walls that do not stand here, and why."""
    found = {}
    for wall in Wall:
        try:
            run(Program(""), wall=wall)
        except SandboxError as error:
            found[wall] = str(error)
    return found


@pytest.fixture(autouse=True)
def standing(request: pytest.FixtureRequest) -> None:
    """Skips the tests of a wall that does not stand, and where none does those of a wall that is not named."""
    if request.path.stem == "test_filter":
        return
    missing = request.getfixturevalue("fallen")
    given = getattr(getattr(request.node, "callspec", None), "params", {}).get("wall")
    marker = request.node.get_closest_marker("wall")
    needed = [given] if given else list(marker.args) if marker else []
    for wall in needed:
        if wall in missing:
            pytest.skip(f"{wall}: {missing[wall]}")
    if len(missing) == len(Wall):
        pytest.skip("; ".join(missing.values()))
