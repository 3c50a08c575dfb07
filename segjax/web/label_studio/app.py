"""Addresses of the Label Studio backend. You can skip it: `backend` does the work."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import anyio
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from segjax.web.app import read_json
from segjax.web.label_studio.backend import LabelStudioBackend
from segjax.web.security import Guard, GuardMiddleware

_NAME = "segjax"


def make_label_studio_app(backend: LabelStudioBackend, token: str = "") -> Starlette:
    """Returns the ASGI application of a backend.

    Args:
      backend: answers the requests.
      token: see `Guard`. Label Studio sends it as the password of basic authentication.
    """
    # The network runs in one thread. Requests to retrain never wait for it.
    network, files = anyio.CapacityLimiter(1), anyio.CapacityLimiter(4)

    async def tell_health(request: Request) -> Response:
        return JSONResponse({"status": "UP", "model_class": _NAME})

    def answer(work: Callable[[Mapping[str, Any]], Any], limiter: anyio.CapacityLimiter):
        """Returns a handler that does the work in a thread and explains its errors."""

        async def handle(request: Request) -> Response:
            try:
                body = await read_json(request)
                return JSONResponse(await run_sync(functools.partial(work, body), limiter=limiter))
            except ValueError as error:
                return JSONResponse({"error": str(error)}, 400)
            except OSError as error:
                return JSONResponse({"error": str(error)}, 502)

        return handle

    routes = [
        Route("/", tell_health),
        Route("/health", tell_health),
        Route("/setup", answer(backend.set_up, files), methods=["POST"]),
        Route("/predict", answer(backend.predict, network), methods=["POST"]),
        Route("/webhook", answer(backend.queue_retraining, files), methods=["POST"]),
    ]
    return Starlette(routes=routes, middleware=[Middleware(GuardMiddleware, guard=Guard(token))])
