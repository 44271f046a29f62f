"""The application: routes, what every request passes, and errors in one shape."""

from __future__ import annotations

from collections.abc import Collection

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response

from tutelage import __version__
from tutelage.serve.edge import BodyLimit, Edge, Guard
from tutelage.serve.keys import Keys
from tutelage.serve.limits import Limits
from tutelage.serve.metrics import CONTENT_TYPE, Metrics
from tutelage.serve.openai import routes, tokenizing
from tutelage.serve.openai.errors import ApiError, as_json, on_api_error, on_http_error, on_invalid
from tutelage.serve.served import Served

router = APIRouter()


def create_app(
    served: Served, *, keys: Keys | None = None, hosts: Collection[str] = (), limits: Limits | None = None
) -> FastAPI:
    """The application that serves a model. ``hosts``: names that it answers to, beside localhost and addresses.

    Assign ``app.state.served`` to serve another model from the next request on.
    """
    limits = limits or Limits()
    metrics = Metrics(lambda: app.state.served.service)
    app = FastAPI(
        title="tutelage",
        version=__version__,
        docs_url=None,  # both pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        middleware=[
            Middleware(Edge, metrics=metrics),
            Middleware(Guard, hosts=hosts, keys=keys, limits=limits),
            Middleware(BodyLimit),
        ],
        exception_handlers={
            ApiError: on_api_error,
            RequestValidationError: on_invalid,
            HTTPException: on_http_error,
        },
    )
    app.state.served, app.state.metrics, app.state.limits = served, metrics, limits
    app.state.retired = []  # services of models that served before and still finish answers
    app.state.before = None  # the ``Served`` that the store promoted before, if answers are compared
    app.state.pages = None
    app.include_router(router)
    app.include_router(routes.router)
    app.include_router(tokenizing.router)
    return app


@router.head("/health", include_in_schema=False)  # load balancers ask so
@router.get("/health")
async def health(http: Request) -> Response:
    """Whether requests are answered, and by which model; 503 if not. Needs no key."""
    served: Served = http.app.state.served
    ready = served.service.is_open
    said = {"status": "ready" if ready else "not ready", "model": served.id}
    return Response(as_json(said), 200 if ready else 503, media_type="application/json")


@router.get("/metrics")
async def metrics_page(http: Request) -> Response:
    """Counters for Prometheus."""
    metrics: Metrics = http.app.state.metrics
    return Response(metrics.page(), media_type=CONTENT_TYPE)
