"""The pages as an ASGI application: ``create_pages``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from anyio import to_thread
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from tutelage.errors import Conflict, NotFound, QueueFull, UsageError
from tutelage.serve.pages import security
from tutelage.serve.pages.backend import Person
from tutelage.serve.pages.endpoints import ENDPOINTS, Endpoint, Shape
from tutelage.serve.pages.stored import StoredBackend
from tutelage.serve.pages.streaming import events
from tutelage.serve.pages.strings import choose_language, strings

FOLDER = Path(__file__).parent


class Pages:
    """The handlers, and what they share. See ``create_pages``."""

    def __init__(self, backend: StoredBackend, secret: bytes, cookie: security.Cookie, accounts: bool) -> None:
        self.backend, self.secret, self.cookie, self.accounts = backend, secret, cookie, accounts
        self.passwords = security.Passwords()
        self.throttle = security.Throttle(time.monotonic)
        self.templates = Environment(
            loader=FileSystemLoader(FOLDER / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )

    def routes(self) -> Iterator[Route | Mount]:
        yield Mount("/static", StaticFiles(directory=FOLDER / "static"))
        yield Route("/", lambda request: RedirectResponse("chat", 303))
        for name in ("chat", "rank", "settings"):
            yield Route(f"/{name}", partial(self.page, name))
        if self.accounts:
            for name in ("login", "signup"):
                yield Route(f"/{name}", partial(self.page, name))
            yield Route("/login", self.log_in, methods=["POST"])
            yield Route("/signup", self.sign_up, methods=["POST"])
            yield Route("/logout", self.log_out, methods=["POST"])
            yield Route("/password", self.change_password, methods=["POST"])
        yield Route("/data/export", self.export)
        for name, endpoint in ENDPOINTS.items():
            handler = self.stream if name == "stream" else partial(self.data, name, endpoint)
            yield Route(f"/{endpoint.path}", handler, methods=[endpoint.method])

    # Who asks ---------------------------------------------------------------------------------------------------------

    def session(self, request: Request) -> str:
        return request.cookies.get(self.cookie.name, "")

    async def person(self, request: Request) -> Person | None:
        if not self.accounts:
            return await to_thread.run_sync(self.backend.only_person)
        session = self.session(request)
        return await to_thread.run_sync(self.backend.person_of, session) if session else None

    def token_is_right(self, request: Request, token: object) -> bool:
        return security.csrf_valid(self.secret, self.session(request), token if isinstance(token, str) else "")

    # Pages ------------------------------------------------------------------------------------------------------------

    async def page(self, name: str, request: Request) -> Response:
        person = await self.person(request)
        if name in ("login", "signup"):
            return RedirectResponse("chat", 303) if person else self.html(name, request, None)
        return self.html(name, request, person) if person else RedirectResponse("login", 303)

    def html(
        self, name: str, request: Request, person: Person | None, *, problem: str = "", status: int = 200, **values: Any
    ) -> Response:
        """A template. A visitor without a session gets one, to which the tokens of the forms are bound."""
        session = self.session(request) or security.new_session()
        language = choose_language(person.language if person else None, request.headers.get("accept-language", ""))
        text = strings(language)
        theme = request.cookies.get("tutelage-theme")  # of the device, so that the login page has it too
        page = self.templates.get_template(f"{name}.html").render(
            t=text, texts=json.dumps(text, ensure_ascii=False), page=name, language=language, person=person,
            theme=theme if theme in ("light", "dark") else "auto",
            accounts=self.accounts, csrf=security.csrf_token(self.secret, session),
            problem=text[problem].format(**values) if problem else "",
        )  # fmt: skip
        response = HTMLResponse(page, status)
        if session != self.session(request):
            self.cookie.put(response, session)
        return response

    # Accounts ---------------------------------------------------------------------------------------------------------

    async def form(self, request: Request) -> dict[str, str] | None:
        """The fields of a form, urlencoded or multipart; None without the session's token."""
        async with request.form(max_files=0, max_fields=10) as form:
            fields = {name: value for name, value in form.items() if isinstance(value, str)}
        return fields if self.token_is_right(request, fields.get("csrf")) else None

    def slowed(self, request: Request, name: str, refuse: Callable[..., Response]) -> Response | None:
        """Counts a try; returns the refusal if it comes too early."""
        wait = self.throttle.admit(name, request.client.host if request.client else "")
        if not wait:
            return None
        response = refuse(problem="login_wait", status=429, seconds=int(wait) + 1)
        response.headers["Retry-After"] = str(int(wait) + 1)
        return response

    async def log_in(self, request: Request) -> Response:
        refuse = partial(self.html, "login", request, None)
        fields = await self.form(request)
        if fields is None:
            return refuse(problem="form_stale", status=403)
        name, password = fields.get("name", "").strip(), fields.get("password", "")
        if slowed := self.slowed(request, name, refuse):
            return slowed
        known = await to_thread.run_sync(self.backend.credentials, name)
        if not await self.passwords.verify(known[1] if known else None, password) or known is None:
            return refuse(problem="login_wrong", status=403)
        self.throttle.succeeded(name)
        if self.passwords.outdated(known[1]):
            stored = await self.passwords.hash(password)
            await to_thread.run_sync(self.backend.new_password_hash, known[0], stored)
        return await self.enter(request, known[0])

    async def sign_up(self, request: Request) -> Response:
        refuse = partial(self.html, "signup", request, None)
        fields = await self.form(request)
        if fields is None:
            return refuse(problem="form_stale", status=403)
        name, password = fields.get("name", "").strip(), fields.get("password", "")
        problem = security.password_problem(password) or ("" if fields.get("consent") else "consent_missing")
        if not 1 <= len(name) <= 64 or not name.isprintable():
            problem = "name_bad"
        if problem:
            return refuse(problem=problem, status=400)
        if slowed := self.slowed(request, "", refuse):
            return slowed
        self.throttle.succeeded("")  # only the address counts here: each account costs a hash
        stored = await self.passwords.hash(password)
        language = choose_language(None, request.headers.get("accept-language", ""))
        consent = strings(language)["sign_up_consent"]
        try:
            person = await to_thread.run_sync(self.backend.sign_up, name, stored, language, consent)
        except Conflict:
            return refuse(problem="name_taken", status=409)
        return await self.enter(request, person)

    async def enter(self, request: Request, person: Person) -> Response:
        """Log in under a new session id, so that one planted in the browser beforehand is worth nothing."""
        session = await to_thread.run_sync(self.backend.log_in, person, self.session(request))
        response = RedirectResponse("chat", 303)
        self.cookie.put(response, session)
        return response

    async def log_out(self, request: Request) -> Response:
        fields, person = await self.form(request), await self.person(request)
        if fields is None:
            return self.html("login", request, None, problem="form_stale", status=403)
        if person and "everywhere" in fields:
            await to_thread.run_sync(self.backend.log_out_everywhere, person)
        await to_thread.run_sync(self.backend.log_out, self.session(request))
        response = RedirectResponse("login", 303)
        self.cookie.put(response, security.new_session())
        return response

    async def change_password(self, request: Request) -> Response:
        """All sessions end, and this browser has a new one."""
        fields, person = await self.form(request), await self.person(request)
        if person is None:
            return RedirectResponse("login", 303)
        refuse = partial(self.html, "settings", request, person)
        if fields is None:
            return refuse(problem="form_stale", status=403)
        if slowed := self.slowed(request, person.name, refuse):
            return slowed
        known = await to_thread.run_sync(self.backend.credentials, person.name)
        if not await self.passwords.verify(known[1] if known else None, fields.get("password", "")):
            return refuse(problem="password_wrong", status=403)
        if problem := security.password_problem(fields.get("new", "")):
            return refuse(problem=problem, status=400)
        self.throttle.succeeded(person.name)
        stored = await self.passwords.hash(fields["new"])
        await to_thread.run_sync(self.backend.new_password_hash, person, stored)
        return await self.enter(request, person)

    # Data -------------------------------------------------------------------------------------------------------------

    async def data(self, name: str, endpoint: Endpoint, request: Request) -> Response:
        """Call the backend's method of the endpoint's name with the person, the id and the body that there are."""
        person = await self.person(request)
        if person is None:
            return _problem("log in first", 401)
        if endpoint.method != "GET" and not self.token_is_right(request, request.headers.get("x-csrf-token")):
            return _problem("reload the page: its token is not the session's", 403)
        arguments: list[Any] = [person, *request.path_params.values()]
        if endpoint.body is not None:
            if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
                return _problem("the body should be JSON", 415)
            try:
                arguments.append(endpoint.body.model_validate_json(await request.body()))
            except ValidationError as error:
                first = error.errors(include_url=False, include_input=False)[0]
                return _problem(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", 422)
        reply = await to_thread.run_sync(getattr(self.backend, name), *arguments)
        assert isinstance(reply, Shape)
        return Response(reply.model_dump_json(), media_type="application/json")

    async def stream(self, request: Request) -> Response:
        person = await self.person(request)
        if person is None:
            return _problem("log in first", 401)
        read = partial(self.backend.answer, person, request.path_params["id"])
        await to_thread.run_sync(read)  # raises NotFound before the response has begun
        after = request.headers.get("last-event-id") or request.query_params.get("after", "0")
        if not after.isascii() or not after.isdigit() or len(after) > 9:
            return _problem("after should be a number", 422)
        return StreamingResponse(
            events(read, int(after)), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
        )

    async def export(self, request: Request) -> Response:
        person = await self.person(request)
        if person is None:
            return RedirectResponse("../login", 303)
        stored = await to_thread.run_sync(self.backend.export, person)
        headers = {"Content-Disposition": 'attachment; filename="tutelage-data.json"'}
        return JSONResponse(stored, headers=headers)


def create_pages(
    backend: StoredBackend,
    *,
    secret: bytes,
    accounts: bool,
    https: bool = False,
    base: str = "/",
    retry_after: Callable[[], int] = lambda: 1,
) -> security.SafeHeaders:
    """The pages over a backend. Whoever serves them checks Host, Origin and the size of a body (see ``edge``).

    ``secret``: 32 random bytes that stay the same over restarts.
    ``accounts``: with sign-up and login; without, whoever reaches the server is the one user, so bind to loopback only.
    ``base``: the path that the pages are mounted at, which ends in a slash.
    ``retry_after``: seconds after which a full queue has probably moved.
    """
    pages = Pages(backend, secret, security.Cookie(https, base), accounts)
    app = Starlette(
        routes=list(pages.routes()),
        exception_handlers={
            NotFound: lambda request, error: _problem(str(error), 404),
            Conflict: lambda request, error: _problem(str(error), 409),
            UsageError: lambda request, error: _problem(str(error), 400),
            QueueFull: lambda request, error: _problem(str(error), 429, {"Retry-After": str(retry_after())}),
        },
    )
    return security.SafeHeaders(app)


def _problem(problem: str, status: int, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": problem}, status, headers)
