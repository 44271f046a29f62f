"""The wheel holds all that the package reads, and `tutelage serve` starts from it in a fresh folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx2
import pytest
from random_start import make_start

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by the installed backend, so without the net."""
    folder = tmp_path_factory.mktemp("wheel")
    words = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([sys.executable, "-m", *words], check=True)
    (made,) = folder.glob("tutelage-*.whl")
    return made


def test_every_file_of_the_package_is_in_it(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    files = [path.relative_to(ROOT) for path in (ROOT / "tutelage").rglob("*") if path.is_file()]
    expected = {path.as_posix() for path in files if "__pycache__" not in path.parts}
    expected |= {f"tutelage/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "recipes").rglob("*.yaml")}
    assert expected - inside == set()
    assert {Path(name).suffix for name in expected} >= {".html", ".js", ".css", ".svg", ".yaml", ".py"}


def test_the_server_starts_from_it(wheel: Path, tmp_path: Path) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    zipfile.ZipFile(wheel).extractall(site)  # what pip does with a wheel of pure Python
    make_start(work)
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    where = [sys.executable, "-c", "import tutelage; print(tutelage.__file__)"]
    said = subprocess.run(where, cwd=work, env=environment, capture_output=True, text=True, check=True).stdout
    assert Path(said.strip()).is_relative_to(site)
    serve = [sys.executable, "-m", "tutelage", "serve", "sft", "--port", "0", "--device", "cpu"]
    with subprocess.Popen(serve, cwd=work, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = re.match(r"http://[\d.:]+", process.stdout.readline())[0]
            page = httpx2.get(f"{url}/chat", headers={"accept-language": "zh"}).text
            assert "新对话" in page
            for name in re.findall(r'(?:href|src)="(static/[^"]+)"', page):
                assert httpx2.get(f"{url}/{name}").status_code == 200, name
            assert httpx2.get(f"{url}/data/conversations").json() == {"conversations": []}  # the store was made
        finally:
            process.terminate()
    assert (work / "store" / "tutelage.db").is_file()
