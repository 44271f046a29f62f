"""docs/serving.md against the code: every endpoint, parameter and ignored field stands there, in both languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from serving import running, tiny_assistant

from tutelage.serve.edge import MAX_BODY
from tutelage.serve.openai import errors
from tutelage.serve.openai.fields import IGNORED
from tutelage.serve.openai.requests import ChatRequest, CompletionRequest
from tutelage.serve.openai.responses import ResponsesRequest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [(DOCS / name).read_text(encoding="utf-8") for name in ("serving.md", "serving.zh.md")]


@pytest.mark.parametrize("page", PAGES, ids=["en", "zh"])
def test_every_field_stands_in_the_page(page):
    named = set(re.findall(r"`([\w.]+)`", page))
    requests = (ChatRequest, CompletionRequest, ResponsesRequest)
    fields = {name for kind in requests for name in (*kind.model_fields, *kind.neutral)} - {"model", "stream_options"}
    assert named >= {*fields, *IGNORED, "stream_options.include_usage"}
    assert f"{MAX_BODY // 2**20} MiB" in page


@pytest.mark.parametrize("page", PAGES, ids=["en", "zh"])
def test_each_parameter_stands_at_the_endpoints_that_take_it_and_at_no_other(page):
    kinds = {"chat": ChatRequest, "responses": ResponsesRequest, "completions": CompletionRequest}
    table = re.search(r"^\| [^|\n]+ \| [^|\n]+ \| [^|\n]+ \|\n\|---\|---\|---\|\n((?:\|.+\n)+)", page, re.MULTILINE)
    rows = [row.split(" | ")[:2] for row in table[1].splitlines()]
    said = {
        name.split(".")[0]: set(re.findall(r"\w+", where))
        for names, where in rows
        for name in re.findall("`(.+?)`", names)
    }
    taken = {name: {at for at, kind in kinds.items() if name in kind.model_fields} for name in said}
    assert said == {name: {*at} if len(at) < 3 else said["seed"] for name, at in taken.items()}
    assert len(said["seed"]) == 1
    assert set(said) == {name for kind in kinds.values() for name in kind.model_fields}


@pytest.mark.parametrize("page", PAGES, ids=["en", "zh"])
def test_every_endpoint_and_status_stands_in_the_page(page):
    with running(tiny_assistant()) as server:
        paths = server.app.openapi()["paths"]
    listed = re.findall(r"`((?:GET|POST) [^\s`]+)`", page)
    routes = {f"{method.upper()} {path}".replace("{model}", "NAME") for path in paths for method in paths[path]}
    assert set(listed) == {*routes, "GET /openapi.json"}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ApiError)]
    rows = re.findall(r"^\| ([\d, 、]+) \|", page, re.MULTILINE)
    assert {int(status) for row in rows for status in re.findall(r"\d+", row)} == {kind.status for kind in kinds}
