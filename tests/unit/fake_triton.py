"""A server with Triton's repository API, as 2.51 was seen to behave, whose speed follows from the settings that it serves with."""

import asyncio
import contextlib
import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.unit.load_servers import serving

MODEL = "falcon7b"
CONFIGURATION: dict[str, Any] = {
    "name": MODEL,
    "backend": "python",
    "max_batch_size": 4,
    "instance_group": [{"name": f"{MODEL}_0", "kind": "KIND_CPU", "count": 1, "gpus": []}],
    "parameters": {"tokenizer": {"string_value": "/mnt/models/tokenizer"}},
}
SECONDS = 0.08


@dataclass
class FakeTriton:
    """`explicit`: whether models may be loaded. A model of `too_many` instances or more does not fit. `lost`: from this load on,
    a load changes nothing and says that it did."""

    explicit: bool = True
    too_many: int = 3
    configuration: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(CONFIGURATION))
    loads: list[dict[str, Any]] = field(default_factory=list)
    lost: int | None = None
    under_way: int = 0
    most_under_way_at_load: int = 0
    slowdown: float = 0.0

    @property
    def at_once(self) -> int:
        batched = self.configuration.get("dynamic_batching") is not None
        size = self.configuration["max_batch_size"] if batched else 1
        return int(self.configuration["instance_group"][0]["count"]) * size

    async def tell(self, request: web.Request) -> web.Response:
        return web.json_response(self.configuration)

    async def load(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        if not self.explicit:
            told = "explicit model load / unload is not allowed if polling is enabled"
            return web.json_response({"error": told}, status=503)
        if name != MODEL:
            return web.json_response(
                {"error": f"failed to load '{name}', failed to poll from model repository"}, status=500
            )
        self.most_under_way_at_load = max(self.most_under_way_at_load, self.under_way)
        text = (await request.json()).get("parameters", {}).get("config")
        if text is None:  # after a load with a configuration, one without changes nothing
            return web.Response()
        wanted = json.loads(text)
        if wanted["instance_group"][0]["count"] >= self.too_many:
            return web.json_response({"error": f"load failed for model '{MODEL}': out of memory"}, status=400)
        self.loads.append(wanted)
        if self.lost is None or len(self.loads) < self.lost:
            self.configuration = wanted
            self.places = asyncio.Semaphore(self.at_once)
        return web.Response()

    async def generate(self, request: web.Request) -> web.Response:
        if not hasattr(self, "places"):
            self.places = asyncio.Semaphore(self.at_once)
        self.under_way += 1
        try:
            async with self.places:
                delay = (self.configuration.get("dynamic_batching") or {}).get("max_queue_delay_microseconds", 0)
                await asyncio.sleep(SECONDS + delay / 1e6 + self.slowdown)
        finally:
            self.under_way -= 1
        return web.json_response({"text_output": "It is."})


@contextlib.contextmanager
def fake_triton(triton: FakeTriton) -> Iterator[str]:
    routes = {
        ("GET", f"/v2/models/{MODEL}/config"): triton.tell,
        ("POST", "/v2/repository/models/{model}/load"): triton.load,
        ("POST", f"/v2/models/{MODEL}/generate"): triton.generate,
    }
    with serving(routes) as url:  # type: ignore[arg-type]
        yield url
