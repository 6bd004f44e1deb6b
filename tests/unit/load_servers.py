"""Real HTTP servers on loopback that play a served model under load: a known service time, a limited number at once, failures,
event streams."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def generate(seconds: float, at_once: int = 1000, text: str = "It is.") -> Handler:
    """Answers after so many seconds, so many requests at the same time; others wait."""
    places = asyncio.Semaphore(at_once)

    async def handle(request: web.Request) -> web.Response:
        async with places:
            await asyncio.sleep(seconds)
        return web.json_response({"text_output": text})

    return handle


def failing(every: int, error: str) -> Handler:
    """Each `every`-th request is refused with 503."""
    count = 0

    async def handle(request: web.Request) -> web.Response:
        nonlocal count
        count += 1
        refused = count % every == 0
        await asyncio.sleep(0.005)
        if refused:
            return web.json_response({"error": error}, status=503)
        return web.json_response({"text_output": "It is."})

    return handle


def stream(first: float, between: float, events: list[dict[str, object]]) -> Handler:
    """Sends the events so many seconds apart, as an event stream."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number, event in enumerate(events):
            await asyncio.sleep(between if number else first)
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
        await response.write_eof()
        return response

    return handle


@contextlib.contextmanager
def serving(routes: dict[tuple[str, str], Handler]) -> Iterator[str]:
    """Serves (method, path) -> handler; gives the server's URL."""
    loop = asyncio.new_event_loop()
    started = threading.Event()
    url: list[str] = []

    async def start() -> web.AppRunner:
        application = web.Application()
        for (method, path), handler in routes.items():
            application.router.add_route(method, path, handler)
        runner = web.AppRunner(application, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        (address, *_) = runner.addresses
        url.append(f"http://127.0.0.1:{address[1]}")
        return runner

    def serve() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        started.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield url[0]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
