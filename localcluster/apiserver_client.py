"""The few requests that `up` and `status` make of the apiserver, over the standard library alone so that they start fast."""

import http.client
import json
import ssl
from typing import Any

from localcluster.paths import APISERVER_PORT, HOST_ADDRESS
from localcluster.pki import Pki


class ApiserverError(Exception):
    """The apiserver answered with an error: its status code and message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class ApiserverClient:
    """Speaks as the cluster's admin."""

    def __init__(self, pki: Pki, *, timeout_s: float = 10.0) -> None:
        self.timeout_s = timeout_s
        self.context = ssl.create_default_context(cafile=pki.authority.certificate)
        admin = pki.pair("admin")
        self.context.load_cert_chain(admin.certificate, admin.key)

    def request(self, method: str, path: str, body: object = None, *, content_type: str = "application/json") -> Any:
        """The answer's JSON (its text where it is none). Raises ApiserverError for a status of 400 or more, else OSError."""
        connection = http.client.HTTPSConnection(
            HOST_ADDRESS, APISERVER_PORT, timeout=self.timeout_s, context=self.context
        )
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(method, path, payload, {"Content-Type": content_type})
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
        except http.client.HTTPException as error:
            raise OSError(f"the apiserver's answer broke off: {error}") from error
        finally:
            connection.close()
        is_json = "json" in response.headers.get("Content-Type", "")
        answer = json.loads(text) if is_json else text
        if response.status >= 400:
            raise ApiserverError(response.status, answer.get("message", text) if isinstance(answer, dict) else text)
        return answer

    def get(self, path: str) -> Any:
        return self.request("GET", path)

    def is_ready(self) -> bool:
        """Whether /readyz says ok."""
        try:
            return bool(self.get("/readyz") == "ok")
        except (OSError, ApiserverError):
            return False
