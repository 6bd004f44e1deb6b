"""The text of every configuration file of the archive and the server, for the recipe to show and for `archive` to write."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SERVED_PATH = "/mnt/models"
"""Where KServe's storage initializer puts the artifact."""

CONFIG_PROPERTIES = "config/config.properties"
MODEL_STORE = "model-store"
MODEL_ZIP = "model.zip"
SETUP_CONFIG = "setup_config.json"
REQUIREMENTS = "requirements.txt"
MODEL_CONFIG = "model-config.yaml"

INFERENCE_PORT = 8080
MANAGEMENT_PORT = 8081
METRICS_PORT = 8082


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """TorchServe's settings for one model. `max_batch_delay` in milliseconds, the time-outs in seconds, the sizes in bytes."""

    model_name: str
    version: str
    workers: int = 1
    batch_size: int = 1
    max_batch_delay: int = 100
    response_timeout: int = 600
    startup_timeout: int = 1800
    job_queue_size: int = 100
    number_of_netty_threads: int = 4
    max_request_size: int = 6553500
    max_response_size: int = 6553500
    install_py_dep_per_model: bool = True
    vmargs: str = "-Xmx512m"

    @property
    def archive(self) -> str:
        """The model archive's path in the artifact."""
        return f"{MODEL_STORE}/{self.model_name}.mar"


def config_properties(server: ServerConfig) -> str:
    """TorchServe's configuration (pytorch/serve docs/configuration.md).

    TorchServe itself has the port that KServe routes to, where KServe's own image puts a wrapper before it: the v1 path that
    the wrapper offers is TorchServe's too. The management API is for the pod alone. Who may ask is the gateway's matter, hence
    no tokens (on by default since 0.11.1). The handler decodes requests itself, so that a broken one gets its answer. The
    snapshot, in one line, names the model and its workers.
    """
    model = {
        "defaultVersion": True,
        "marName": f"{server.model_name}.mar",
        "minWorkers": server.workers,
        "maxWorkers": server.workers,
        "batchSize": server.batch_size,
        "maxBatchDelay": server.max_batch_delay,
        "responseTimeout": server.response_timeout,
        "startupTimeout": server.startup_timeout,
    }
    snapshot = {"name": "startup.cfg", "modelCount": 1, "models": {server.model_name: {server.version: model}}}
    properties = {
        "inference_address": f"http://0.0.0.0:{INFERENCE_PORT}",
        "management_address": f"http://127.0.0.1:{MANAGEMENT_PORT}",
        "metrics_address": f"http://0.0.0.0:{METRICS_PORT}",
        "grpc_inference_port": 7070,
        "grpc_management_port": 7071,
        "enable_metrics_api": True,
        "metrics_mode": "prometheus",
        "disable_token_authorization": True,
        "enable_envvars_config": True,
        "allowed_urls": f"file://{SERVED_PATH}/.*",
        "decode_input_request": False,
        "install_py_dep_per_model": server.install_py_dep_per_model,
        "number_of_netty_threads": server.number_of_netty_threads,
        "job_queue_size": server.job_queue_size,
        "default_response_timeout": server.response_timeout,
        "default_startup_timeout": server.startup_timeout,
        "max_request_size": server.max_request_size,
        "max_response_size": server.max_response_size,
        "vmargs": server.vmargs,
        "model_store": f"{SERVED_PATH}/{MODEL_STORE}",
        "model_snapshot": json.dumps(snapshot, separators=(",", ":")),
    }
    return "".join(f"{key}={_property(value)}\n" for key, value in properties.items())


def _property(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def setup_config_json(setup_config: Mapping[str, Any]) -> str:
    """What the handler reads: how Accelerate loads the model."""
    return json.dumps(setup_config, indent=4) + "\n"


def requirements_txt(requirements: Sequence[str]) -> str:
    """What the handler imports, for TorchServe's pip."""
    return "".join(f"{requirement}\n" for requirement in requirements)


def model_config_yaml() -> str:
    """With `useVenv` TorchServe's pip sees what is installed; without it fetches torch again, as a dependency of accelerate."""
    return "useVenv: true\n"


def archived_texts(
    server: ServerConfig, setup_config: Mapping[str, Any], requirements: Sequence[str]
) -> dict[str, str]:
    """The configuration files inside the model archive, by name."""
    texts = {SETUP_CONFIG: setup_config_json(setup_config), REQUIREMENTS: requirements_txt(requirements)}
    if server.install_py_dep_per_model:
        texts[MODEL_CONFIG] = model_config_yaml()
    return texts
