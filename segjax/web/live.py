"""The socket of a page: prompts come in, masks go out. One decoding runs at a time, newest wins."""

import collections
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from starlette.websockets import WebSocket, WebSocketDisconnect

from segjax.web.messages import MessageError, PromptMessage, parse_message

Decode = Callable[[PromptMessage], Awaitable[dict[str, Any]]]


class PromptQueue:
    """Prompts that wait: all clicks in order, and of the previews the newest one.

    A click makes a waiting preview worthless.
    """

    def __init__(self) -> None:
        self._clicks: collections.deque[PromptMessage] = collections.deque()
        self._hover: PromptMessage | None = None
        self._closed = False
        self._event = anyio.Event()

    def put(self, message: PromptMessage) -> None:
        """Adds a prompt. A preview replaces the one that waits."""
        if message.hover:
            self._hover = message
        else:
            self._hover = None
            self._clicks.append(message)
        self._event.set()

    def close(self) -> None:
        """Ends the queue. What waits is dropped."""
        self._closed = True
        self._event.set()

    async def get(self) -> PromptMessage | None:
        """Returns the next prompt, waiting for one. None: the queue is closed."""
        while not self._closed:
            if self._clicks:
                return self._clicks.popleft()
            if self._hover:
                message, self._hover = self._hover, None
                return message
            self._event = anyio.Event()
            await self._event.wait()
        return None


async def serve_prompts(socket: WebSocket, decode: Decode) -> None:
    """Answers the prompts of a page until it closes its socket.

    Every answer repeats the number of its request. A malformed message gets an answer with "error",
    and the socket stays open.

    Args:
      socket: accepted socket.
      decode: computes the answer to a prompt.
    """
    queue = PromptQueue()
    async with anyio.create_task_group() as group:
        group.start_soon(_answer, socket, queue, decode)
        try:
            while True:
                await _receive(socket, queue)
        except (WebSocketDisconnect, RuntimeError):
            queue.close()


async def _receive(socket: WebSocket, queue: PromptQueue) -> None:
    """Takes one message from the socket."""
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect
    try:
        queue.put(parse_message(message.get("text") or message.get("bytes") or ""))
    except MessageError as error:
        await socket.send_text(json.dumps({"request": None, "error": str(error)}))


async def _answer(socket: WebSocket, queue: PromptQueue, decode: Decode) -> None:
    """Decodes the prompts of the queue, one after another."""
    while (message := await queue.get()) is not None:
        answer: dict[str, Any] = {"request": message.request, "hover": message.hover}
        try:
            answer |= await decode(message)
        except (ValueError, KeyError, OSError) as error:
            answer["error"] = str(error.args[0]) if error.args else type(error).__name__
        # The page may have closed the socket while its prompt was decoded
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await socket.send_text(json.dumps(answer))
