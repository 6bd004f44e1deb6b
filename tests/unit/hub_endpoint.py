"""A Hub endpoint for a test, on a port of its own, over a small model that the test may damage."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import numpy as np
from safetensors.numpy import save_file

from localcluster.hub.catalog import Catalog
from localcluster.hub.server import HubHandler, HubServer

TOKEN = "hf_theClustersOwnToken"
OTHER_TOKEN = "hf_someoneElsesToken"
MODEL = "llm-serving/tiny"
GATED = "llm-serving/tiny-gated"


def write_model(folder: Path, *, shards: int = 2, rows: int = 64) -> Path:
    """A checkpoint of `shards` safetensors files (rows x 16 fp32 each), with what fetch takes and what it leaves."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "bloom", "n_head": 2}))
    (folder / "generation_config.json").write_text("{}")
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "README.md").write_text("# tiny\n")
    (folder / "modeling_tiny.py").write_text("raise SystemExit('never to be run')\n")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"onnx")
    (folder / "pytorch_model.bin").write_bytes(b"PK the same weights once more")
    random = np.random.default_rng(0)
    names = [f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
    for name in names:
        save_file({f"{name}.weight": random.normal(size=(rows, 16)).astype(np.float32)}, folder / name)
    index = {"weight_map": {f"{name}.weight": name for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@contextmanager
def hub(models: Path, handler: type[HubHandler] = HubHandler, tree_page: int = 1000) -> Iterator[str]:
    """The address of an endpoint that serves the folders in `models` while the context lasts."""
    with HubServer(("127.0.0.1", 0), Catalog(models), TOKEN, handler, tree_page) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
