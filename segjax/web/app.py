"""Addresses of the annotation server. You can skip it: `segjax.web.project` does the work."""

import functools
import json
import pathlib
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from segjax.engine.annotations import ConflictError
from segjax.engine.images import MAX_BYTES as MAX_UPLOAD
from segjax.web.live import serve_prompts
from segjax.web.messages import PromptMessage
from segjax.web.project import Project
from segjax.web.security import COOKIE, Guard, GuardMiddleware

STATIC = pathlib.Path(__file__).parent / "static"
_MAX_BODY = 32 * 2**20  # of a commit: the runs of a large mask
Handler = Callable[[Request], Awaitable[Response]]


def make_app(project: Project, token: str = "") -> Starlette:
    """Returns the ASGI application of a project.

    Args:
      project: the folder and its models.
      token: see `Guard`.
    """
    server = _Server(project, token)
    routes = [
        Route("/", server.show_page),
        Route("/api/state", _guarded(server.show_state)),
        Route("/api/images", _guarded(server.add_image), methods=["POST"]),
        Route("/api/images/{id}", _guarded(server.open_image), methods=["POST"]),
        Route("/api/images/{id}/lease", _guarded(server.renew_lease), methods=["POST"]),
        Route("/api/images/{id}/image.jpg", _guarded(server.show_image)),
        Route("/api/images/{id}/objects", _guarded(server.commit), methods=["POST"]),
        Route("/api/images/{id}/done", _guarded(server.set_done), methods=["POST"]),
        Route("/api/images/{id}/everything", _guarded(server.find_everything), methods=["POST"]),
        Route("/api/images/{id}/objects/{object}.png", _guarded(server.cut_out)),
        Route("/api/coco.json", _guarded(server.export_coco)),
        Route("/api/sa1b.zip", _guarded(server.export_sa1b)),
        WebSocketRoute("/api/prompts", server.answer_prompts),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    return Starlette(routes=routes, middleware=[Middleware(GuardMiddleware, guard=Guard(token))])


def _guarded(handler: Handler) -> Handler:
    """Returns a handler whose errors become answers with a sentence for the page."""

    @functools.wraps(handler)
    async def answer(request: Request) -> Response:
        """Runs the handler. Errors of the user, of conflicts and of the disk get their status."""
        try:
            return await handler(request)
        except KeyError as error:
            return JSONResponse({"error": str(error.args[0])}, 404)
        except ConflictError as error:
            return JSONResponse({"error": str(error)}, 409)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        except OSError as error:
            reason = f"{error.strerror}: {error.filename}" if error.strerror else str(error)
            text = f"not saved: {reason}. Nothing is lost on the page; make room and commit again"
            return JSONResponse({"error": text}, 507)

    return answer


class _Server:
    """Handlers. Decoding runs in one thread, everything in another, files in the pool."""

    def __init__(self, project: Project, token: str) -> None:
        self.project, self.token = project, token
        self._decoding, self._jobs = anyio.CapacityLimiter(1), anyio.CapacityLimiter(1)

    async def show_page(self, request: Request) -> Response:
        response = FileResponse(STATIC / "index.html")
        if self.token:
            # Later requests, and the socket, have the token as a cookie
            response.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
        return response

    async def show_state(self, request: Request) -> Response:
        session = request.query_params.get("session", "")
        return JSONResponse(await run_in_threadpool(self.project.describe, session))

    async def add_image(self, request: Request) -> Response:
        data = await _read_body(request, MAX_UPLOAD)
        name = request.query_params.get("name", "image.png")
        entry = await run_in_threadpool(self.project.images.add, name, data)
        return JSONResponse({"id": entry.id, "name": entry.name})

    async def open_image(self, request: Request) -> Response:
        body = await read_json(request)
        id, session = request.path_params["id"], str(body.get("session", ""))
        open_image = functools.partial(
            self.project.open_image, id, session, str(body.get("annotator", ""))[:100]
        )
        answer = await run_sync(open_image, limiter=self._decoding)
        return JSONResponse(answer)

    async def renew_lease(self, request: Request) -> Response:
        body = await read_json(request)
        id, session = request.path_params["id"], str(body.get("session", ""))
        annotator = str(body.get("annotator", ""))[:100]
        holder = self.project.leases.take(id, session, annotator)
        await run_sync(self.project.embed_next, id, limiter=self._jobs)
        return JSONResponse({"holder": holder})

    async def show_image(self, request: Request) -> Response:
        id = request.path_params["id"]
        tag = await run_in_threadpool(self.project.get_key_digest, id)
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304)
        data = await run_in_threadpool(self.project.encode_jpeg, id)
        headers = {"etag": tag, "cache-control": "no-cache"}
        return Response(data, media_type="image/jpeg", headers=headers)

    async def commit(self, request: Request) -> Response:
        body = await read_json(request)
        commit = functools.partial(self.project.commit, request.path_params["id"], body)
        return JSONResponse(await run_sync(commit, limiter=self._decoding))

    async def set_done(self, request: Request) -> Response:
        body = await read_json(request)
        set_done = functools.partial(self.project.set_done, request.path_params["id"], body)
        return JSONResponse(await run_in_threadpool(set_done))

    async def cut_out(self, request: Request) -> Response:
        data = await run_in_threadpool(
            self.project.cut_out, request.path_params["id"], request.path_params["object"]
        )
        return Response(data, media_type="image/png")

    async def export_coco(self, request: Request) -> Response:
        content = await run_in_threadpool(self.project.export_coco)
        headers = {"content-disposition": 'attachment; filename="annotations.json"'}
        return JSONResponse(content, headers=headers)

    async def export_sa1b(self, request: Request) -> Response:
        content = await run_in_threadpool(self.project.export_sa1b)
        headers = {"content-disposition": 'attachment; filename="sa1b.zip"'}
        return Response(content, media_type="application/zip", headers=headers)

    async def find_everything(self, request: Request) -> Response:
        """Streams lines of JSON: the progress, and at last the masks."""
        body = await read_json(request)
        names = body.get("names") or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("names is not a list of texts")
        id = request.path_params["id"]
        self.project.images.find(id)  # an error before the stream begins
        # The job sends messages from its thread, and the answer streams them
        send, receive = anyio.create_memory_object_stream[dict[str, Any]](100)

        def advance(done: int, total: int) -> None:
            """Sends the progress from the thread of the job. A reader who left is no error."""
            try:
                anyio.from_thread.run(send.send, {"done": done, "total": total})
            except anyio.BrokenResourceError:
                raise _PageGoneError from None

        async def work() -> None:
            """Runs the job and sends its result."""
            async with send:
                try:
                    find = functools.partial(self.project.find_everything, id, names, advance)
                    await send.send({"masks": await run_sync(find, limiter=self._jobs)})
                except _PageGoneError:
                    return
                except (ValueError, KeyError, OSError) as error:
                    await send.send({"error": str(error.args[0])})

        async def lines():
            """Yields the messages of the job as lines."""
            async with anyio.create_task_group() as group:
                group.start_soon(work)
                async with receive:
                    async for message in receive:
                        yield json.dumps(message) + "\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    async def answer_prompts(self, socket: WebSocket) -> None:
        await socket.accept()

        async def decode(message: PromptMessage) -> dict[str, Any]:
            """Decodes in the one thread that runs the network."""
            return await run_sync(self.project.decode, message, limiter=self._decoding)

        await serve_prompts(socket, decode)


class _PageGoneError(Exception):
    """The page left while a job ran."""


async def _read_body(request: Request, most: int) -> bytes:
    """Reads a request's body.

    Raises:
      ValueError: it has too many bytes.
    """
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise ValueError(f"the request has more than {most:,} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


async def read_json(request: Request) -> dict[str, Any]:
    """Reads a request's body as a JSON object."""
    data = await _read_body(request, _MAX_BODY)
    try:
        body = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        raise ValueError("the request's body is no JSON") from None
    if not isinstance(body, dict):
        raise ValueError("the request's body is no JSON object")
    return body
