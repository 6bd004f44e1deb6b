"""Loads a model of a Triton in explicit model control with other settings, through the repository API, and puts it back.

Extension "model repository" of the v2 protocol (triton-inference-server/server, docs/protocol/extension_model_repository.md). What Triton
2.51 does with it was tried: a load without a configuration changes nothing after one with a configuration, so the way back is a load
with the configuration that was served before; a load that fails leaves the model as it was.
"""

import copy
import json
from dataclasses import dataclass
from typing import Any

import httpx

from engine_jobs.errors import UserError
from engine_jobs.load.spec import OFF, Candidate
from engine_jobs.smoke_test.endpoint import Origin
from engine_jobs.smoke_test.http_probe import certificates

TIMEOUT_S = 10.0

NOBODYS_MODEL = "llm-serving-asks-whether-models-can-be-loaded"
"""A name that no model has: a load of it changes nothing, and its error tells a server in explicit model control from others."""


class LoadFailed(Exception):
    """A model did not load; the message is Triton's."""


@dataclass(frozen=True, kw_only=True)
class ModelControl:
    """A model in the repository of the server at `origin`. `load_timeout_s` bounds one load."""

    origin: Origin
    model: str
    load_timeout_s: float

    def configuration(self) -> dict[str, Any]:
        """The model's configuration as it is served. Raises UserError where there is none."""
        status, document = self._call("GET", f"/v2/models/{self.model}/config", None, TIMEOUT_S)
        if status != httpx.codes.OK or not isinstance(document, dict):
            raise UserError(
                f"{self.origin.where()} tells no configuration of the model {self.model!r} ({status}: {_told(document)}): is it "
                "Triton that answers there, and has it a model of this name?"
            )
        return document

    def require_explicit_control(self) -> None:
        """Raises UserError where the server does not let its models be loaded."""
        status, document = self._call("POST", f"/v2/repository/models/{NOBODYS_MODEL}/load", {}, TIMEOUT_S)
        told = _told(document)
        if NOBODYS_MODEL not in told:  # else it looked for such a model, and found none
            raise UserError(
                f"{self.origin.where()} does not let models be loaded ({status}: {told}). Tuning changes how a model is served, so it "
                "is for a server that was started for it: Triton with --model-control-mode=explicit"
            )

    def load(self, configuration: dict[str, Any]) -> None:
        """Serves the model with this configuration from now on. Raises LoadFailed; then it is served as before."""
        body = {"parameters": {"config": json.dumps(configuration)}}
        path = f"/v2/repository/models/{self.model}/load"
        try:
            status, document = self._call("POST", path, body, self.load_timeout_s)
        except UserError as error:
            raise LoadFailed(str(error)) from None
        if status != httpx.codes.OK:
            raise LoadFailed(_told(document))

    def restore(self, configuration: dict[str, Any]) -> bool:
        """Loads the configuration again and says whether it is the one that is served now. Asks three times; raises nothing."""
        for _ in range(3):
            try:
                self.load(configuration)
                if same(self.configuration(), configuration):
                    return True
            except (LoadFailed, UserError):
                continue
        return False

    def way_back(self, file: str) -> str:
        """The command that restores the model by hand from a file with the body of the request."""
        host = f"-H 'Host: {self.origin.host}' " if self.origin.host else ""
        return f"curl {host}-X POST {self.origin.base}/v2/repository/models/{self.model}/load -d @{file}"

    def _call(self, method: str, path: str, body: Any, timeout_s: float) -> tuple[int, Any]:
        """Status and document (or text) of an answer. Raises UserError where there is none."""
        headers = {"Host": self.origin.host} if self.origin.host else {}
        try:
            with httpx.Client(verify=certificates(), timeout=timeout_s, trust_env=False) as client:
                response = client.request(method, self.origin.base + path, headers=headers, json=body)
        except httpx.HTTPError as error:
            raise UserError(f"{self.origin.where(path)} does not answer: {error or type(error).__name__}") from None
        try:
            return response.status_code, response.json()
        except ValueError:
            return response.status_code, response.text


def restoring_body(configuration: dict[str, Any]) -> str:
    """The request's body that loads this configuration."""
    return json.dumps({"parameters": {"config": json.dumps(configuration)}})


def candidate_of(configuration: dict[str, Any]) -> Candidate:
    """The settings of a configuration that a search varies. Raises UserError where it can't vary them."""
    model = configuration.get("name")
    if configuration.get("ensemble_scheduling"):
        steps = sorted({step["model_name"] for step in configuration["ensemble_scheduling"]["step"]})
        raise UserError(
            f"the model {model!r} is an ensemble, which has no instances or queue; tune one of {', '.join(steps)}"
        )
    if configuration.get("sequence_batching"):
        raise UserError(
            f"the model {model!r} batches sequences: dynamic batching, which a search varies, excludes that"
        )
    groups = configuration.get("instance_group") or []
    batching = configuration.get("dynamic_batching")
    return Candidate(
        instances=int(groups[0].get("count", 1)) if groups else 1,
        max_batch_size=int(configuration.get("max_batch_size", 0)),
        queue_delay_us=OFF if batching is None else int(batching.get("max_queue_delay_microseconds", 0)),
    )


def configured(configuration: dict[str, Any], candidate: Candidate) -> dict[str, Any]:
    """The configuration with the candidate's settings. Every instance group gets its count of instances. Preferred batch sizes
    are left to Triton, which prefers the largest: those of another largest size would be refused."""
    changed = copy.deepcopy(configuration)
    changed["max_batch_size"] = candidate.max_batch_size
    groups = changed.get("instance_group") or [{}]
    changed["instance_group"] = [{**group, "count": candidate.instances} for group in groups]
    batching = changed.pop("dynamic_batching", None) or {}
    if candidate.batches:
        batching = {key: value for key, value in batching.items() if key != "preferred_batch_size"}
        changed["dynamic_batching"] = {**batching, "max_queue_delay_microseconds": candidate.queue_delay_us}
    return changed


def instance_kind(configuration: dict[str, Any]) -> str:
    """`CPU`, `GPU`, … of the first instance group."""
    groups = configuration.get("instance_group") or [{}]
    return str(groups[0].get("kind", "KIND_AUTO")).removeprefix("KIND_")


def instance_groups(configuration: dict[str, Any]) -> int:
    return len(configuration.get("instance_group") or [{}])


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two configurations say the same; Triton writes what is not set sometimes as null and sometimes not at all."""
    return {k: v for k, v in one.items() if v is not None} == {k: v for k, v in other.items() if v is not None}


def _told(document: Any) -> str:
    told = document.get("error") if isinstance(document, dict) else document
    return " ".join(str(told).split())[:300]
