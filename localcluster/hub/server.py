"""The Hub's HTTP side: the routes, headers and error codes that `huggingface_hub` reads, over a Catalog.

Not here: uploads, datasets, Spaces, search, Xet storage, the redirect to a CDN (resolve itself gives the bytes).
"""

import json
import re
import sys
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from localcluster.hub.catalog import BRANCH, Catalog, HubFile, HubModel

TREE_PAGE = 1000
"""Entries of one page of a tree; the real Hub's default."""

CHUNK = 2**20


class Refusal(Exception):
    """An answer that is not 200, with the Hub's own error code (https://huggingface.co/docs/hub/api)."""

    def __init__(self, status: HTTPStatus, message: str, code: str | None = None, commit: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.commit = status, message, code, commit


class HubServer(ThreadingHTTPServer):
    """One listening address of the endpoint. `token` is the account's that has access to the gated models."""

    daemon_threads = True

    def __init__(
        self,
        address: tuple[str, int],
        catalog: Catalog,
        token: str,
        handler: "type[HubHandler] | None" = None,
        tree_page: int = TREE_PAGE,
    ) -> None:
        self.catalog, self.token, self.tree_page = catalog, token, tree_page
        super().__init__(address, handler or HubHandler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "llm-serving-hub"
    timeout = 60  # seconds that an idle connection is kept
    server: HubServer

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        query = parse_qs(split.query, keep_blank_values=True)
        try:
            for pattern, route in ROUTES:
                if match := pattern.fullmatch(split.path):
                    route(self, query, **{key: unquote(value) for key, value in match.groupdict().items()})
                    return
            raise Refusal(HTTPStatus.NOT_FOUND, f"This endpoint does not have {split.path}")
        except Refusal as refusal:
            self.send_refusal(refusal)

    do_HEAD = do_GET

    def whoami(self, query: Mapping[str, list[str]]) -> None:
        account = self.account()
        if account is None:
            raise Refusal(HTTPStatus.UNAUTHORIZED, "Invalid username or password.")
        self.send_json({"type": "user", "id": account, "name": account, "fullname": account, "orgs": [], "auth": {}})

    def models(self, query: Mapping[str, list[str]]) -> None:
        found = (self.server.catalog.find(model_id) for model_id in self.server.catalog.ids())
        self.send_json([self.describe(model, query) for model in found if model is not None])

    def info(self, query: Mapping[str, list[str]], model: str, revision: str = BRANCH) -> None:
        self.send_json(self.describe(self.find(model, revision), query))

    def refs(self, query: Mapping[str, list[str]], model: str) -> None:
        branch = {"name": BRANCH, "ref": f"refs/heads/{BRANCH}", "targetCommit": self.find(model, BRANCH).sha}
        self.send_json({"branches": [branch], "tags": [], "converts": []})

    def auth_check(self, query: Mapping[str, list[str]], model: str) -> None:
        self.check_access(self.find(model, BRANCH))
        self.send_json({})

    def tree(self, query: Mapping[str, list[str]], model: str, revision: str, path: str = "") -> None:
        found = self.find(model, revision)
        below = f"{path.strip('/')}/" if path.strip("/") else ""
        recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries: dict[str, dict[str, Any]] = {}
        for file in found.files.values():
            if not file.name.startswith(below):
                continue
            parts = file.name.removeprefix(below).split("/")
            for depth in range(1, len(parts)) if recursive else range(1, min(2, len(parts))):
                folder = below + "/".join(parts[:depth])
                entries[folder] = {"type": "directory", "path": folder, "size": 0, "oid": found.sha}
            if recursive or len(parts) == 1:
                entries[file.name] = self.tree_entry(file)
        if below and not entries:
            raise Refusal(HTTPStatus.NOT_FOUND, f"{path} does not exist on {revision!r}", "EntryNotFound", found.sha)
        limit = min(int(query.get("limit", ["0"])[0]) or self.server.tree_page, self.server.tree_page)
        after = query.get("cursor", [""])[0]
        names = [name for name in sorted(entries) if name > after]
        headers = {"X-Repo-Commit": found.sha}
        if len(names) > limit:
            flags = "&recursive=True" if recursive else ""
            own = f"http://{self.headers['Host']}{urlsplit(self.path).path}"
            headers["Link"] = f'<{own}?cursor={quote(names[limit - 1], safe="")}&limit={limit}{flags}>; rel="next"'
        self.send_json([entries[name] for name in names[:limit]], headers)

    def resolve(self, query: Mapping[str, list[str]], model: str, revision: str, path: str) -> None:
        found = self.find(model, revision)
        self.check_access(found)
        file = found.files.get(path)
        if file is None:
            raise Refusal(HTTPStatus.NOT_FOUND, "Entry not found", "EntryNotFound", found.sha)
        headers = {
            "ETag": f'"{file.etag}"',
            "X-Repo-Commit": found.sha,
            "Accept-Ranges": "bytes",
            "Content-Type": file.content_type,
            "Content-Disposition": f'inline; filename="{file.source.name}";',
        }
        if file.is_lfs:
            headers |= {"X-Linked-Size": str(file.size), "X-Linked-ETag": f'"{file.sha256}"'}
        start, stop = 0, file.size
        status = HTTPStatus.OK
        if wanted := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            start, stop = byte_range(wanted[1], wanted[2], file.size)
            if start >= stop:
                self.send_answer(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, {"Content-Range": f"bytes */{file.size}"})
                return
            status = HTTPStatus.PARTIAL_CONTENT
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
        self.send_answer(status, headers, length=stop - start)
        if self.command == "GET":
            self.send_bytes(file, start, stop)

    def send_bytes(self, file: HubFile, start: int, stop: int) -> None:
        """Streams the file's bytes from `start` up to, and without, `stop`."""
        with file.source.open("rb") as stream:
            stream.seek(start)
            while start < stop and (chunk := stream.read(min(CHUNK, stop - start))):
                self.wfile.write(chunk)
                start += len(chunk)
        if start < stop:
            self.close_connection = True  # cut short on disk: the client must see a broken answer, not a shorter file

    def account(self) -> str | None:
        """Who asks: the cluster's own account, another one (any well-formed token), or nobody."""
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if not scheme:
            return None
        if token.strip() == self.server.token:
            return "llm-serving"
        if re.fullmatch(r"hf_\w+", token.strip()):
            return "another-account"
        raise Refusal(HTTPStatus.UNAUTHORIZED, "Invalid credentials in Authorization header")

    def find(self, model_id: str, revision: str) -> HubModel:
        account = self.account()
        model = self.server.catalog.find(model_id)
        if model is None:
            # The real Hub does not tell a stranger whether a model is absent or private.
            status = HTTPStatus.UNAUTHORIZED if account is None else HTTPStatus.NOT_FOUND
            raise Refusal(
                status, "Invalid username or password." if account is None else "Repository not found", "RepoNotFound"
            )
        if not model.has_revision(revision):
            raise Refusal(HTTPStatus.NOT_FOUND, f"Invalid rev id: {revision}", "RevisionNotFound")
        return model

    def check_access(self, model: HubModel) -> None:
        if not model.gated:
            return
        account = self.account()
        if account is None:
            message = f"Access to model {model.id} is restricted. You must have access to it and be authenticated."
            raise Refusal(HTTPStatus.UNAUTHORIZED, message, "GatedRepo", model.sha)
        if account != "llm-serving":
            message = f"Access to model {model.id} is restricted and you are not in the authorized list."
            raise Refusal(HTTPStatus.FORBIDDEN, message, "GatedRepo", model.sha)

    def describe(self, model: HubModel, query: Mapping[str, list[str]]) -> dict[str, Any]:
        with_blobs = query.get("blobs", ["false"])[0].lower() in ("true", "1")
        when = model.modified.strftime("%Y-%m-%dT%H:%M:%S.000Z")
        fields: dict[str, Any] = {
            "author": model.id.partition("/")[0],
            "sha": model.sha,
            "createdAt": when,
            "lastModified": when,
            "private": False,
            "gated": "manual" if model.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "usedStorage": sum(file.size for file in model.files.values()),
            "siblings": [self.sibling(file, with_blobs) for file in model.files.values()],
        }
        if wanted := query.get("expand"):
            fields = {key: value for key, value in fields.items() if key in wanted}
        return {"_id": model.sha[:24], "id": model.id, "modelId": model.id, **fields}

    def sibling(self, file: HubFile, with_blobs: bool) -> dict[str, Any]:
        if not with_blobs:
            return {"rfilename": file.name}
        entry: dict[str, Any] = {"rfilename": file.name, "size": file.size, "blobId": file.blob_id}
        if file.is_lfs:
            pointer = len(file.lfs_pointer)
            entry["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": pointer}
        return entry

    def tree_entry(self, file: HubFile) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": file.name, "size": file.size, "oid": file.blob_id}
        if file.is_lfs:
            entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(file.lfs_pointer)}
        return entry

    def send_answer(self, status: HTTPStatus, headers: Mapping[str, str], length: int = 0) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(key, value)
        self.end_headers()

    def send_json(
        self, body: object, headers: Mapping[str, str] | None = None, status: HTTPStatus = HTTPStatus.OK
    ) -> None:
        encoded = json.dumps(body).encode()
        self.send_answer(status, {"Content-Type": "application/json", **(headers or {})}, length=len(encoded))
        if self.command != "HEAD":
            self.wfile.write(encoded)

    def send_refusal(self, refusal: Refusal) -> None:
        headers = {"X-Error-Message": refusal.message}
        if refusal.code:
            headers["X-Error-Code"] = refusal.code
        if refusal.commit:
            headers["X-Repo-Commit"] = refusal.commit
        self.send_json({"error": refusal.message}, headers, refusal.status)

    def log_message(self, format: str, *args: Any) -> None:
        sys.stderr.write(f"{self.log_date_time_string()} {self.address_string()} {format % args}\n")


def byte_range(first: str, last: str, size: int) -> tuple[int, int]:
    """Start and end (excluded) of a Range header's numbers, RFC 9110 §14.1.2; an empty range where it can't be met."""
    if not first:
        return (max(size - int(last), 0), size) if last else (0, 0)
    return int(first), min(int(last) + 1 if last else size, size)


MODEL = r"(?P<model>[^/]+(?:/[^/]+)?)"
REVISION = r"(?P<revision>[^/]+)"
ROUTES: tuple[tuple[re.Pattern[str], Callable[..., None]], ...] = tuple(
    (re.compile(pattern), route)
    for pattern, route in (
        (r"/api/whoami-v2", HubHandler.whoami),
        (r"/api/models", HubHandler.models),
        (rf"/api/models/{MODEL}", HubHandler.info),
        (rf"/api/models/{MODEL}/revision/{REVISION}", HubHandler.info),
        (rf"/api/models/{MODEL}/refs", HubHandler.refs),
        (rf"/api/models/{MODEL}/auth-check", HubHandler.auth_check),
        (rf"/api/models/{MODEL}/tree/{REVISION}", HubHandler.tree),
        (rf"/api/models/{MODEL}/tree/{REVISION}/(?P<path>.+)", HubHandler.tree),
        (rf"/{MODEL}/resolve/{REVISION}/(?P<path>.+)", HubHandler.resolve),
    )
)
