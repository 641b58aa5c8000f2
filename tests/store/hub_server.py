"""A hub on this machine: the few endpoints that a download needs, and the mishaps that a network has."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "c0ffee" + "0" * 34
LARGE = (".safetensors", ".gguf", "tokenizer.json")  # names that end so are stored as LFS
STORE = "/store/"  # where large files really are; a client must not bring its token there


class Hub:
    """The files of one model, and what is to go wrong. `requests` has (method, path, Range, token) of every request."""

    def __init__(self, model: str) -> None:
        self.model, self.files, self.branches = model, dict[str, bytes](), {"main", COMMIT}
        self.requests: list[tuple[str, str, str | None, str | None]] = []
        self.cut: dict[str, list[int]] = {}  # name -> after how many bytes each answer breaks; then it is whole
        self.wrong: dict[str, bytes] = {}  # name -> what comes instead
        self.gated = self.private = False
        self.status = 0  # of every answer, if not 0

    def add(self, directory: Path) -> None:
        self.files |= {
            path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
        }

    def fetched(self, name: str) -> list[str | None]:
        """The Range of every GET of a file's bytes."""
        return [r for method, path, r, _ in self.requests if method == "GET" and path.endswith("/" + name)]

    def listing(self) -> dict[str, Any]:
        return {"id": self.model, "sha": COMMIT, "siblings": [self._about(name) for name in self.files]}

    def _about(self, name: str) -> dict[str, Any]:
        data = self.files[name]
        about: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git_id(data)}
        if name.endswith(LARGE):
            about["lfs"] = {"size": len(data), "sha256": sha256(data), "pointerSize": 134}
        return about


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.hub, self.path.split("?")[0]
        hub.requests.append((self.command, path, self.headers.get("Range"), self.headers.get("Authorization")))
        if hub.status:
            return self._send(hub.status, b"no", {})
        api, files = f"/api/models/{hub.model}", f"/{hub.model}/resolve/"
        if path.startswith("/api/models/") and path.split("/revision/")[0] == api and not hub.private:
            return self._list(path.partition("/revision/")[2] or "main")
        if path.startswith(files) and not hub.private:
            return self._resolve(*path.removeprefix(files).split("/", 1))
        if path.startswith(STORE):
            return self._bytes(path.removeprefix(STORE))
        self._send(401 if hub.private else 404, b"", {"X-Error-Code": "RepoNotFound"})
        return None

    def _list(self, revision: str) -> None:
        if revision not in self.hub.branches:
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        self._send(200, json.dumps(self.hub.listing()).encode(), {"Content-Type": "application/json"})
        return None

    def _resolve(self, revision: str, name: str) -> None:
        if self.hub.gated:
            return self._send(403, b"", {"X-Error-Code": "GatedRepo"})
        data = self.hub.files[name]
        if name.endswith(LARGE):
            linked = {"X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data))}
            port = self.server.server_address[1]
            linked |= {"X-Repo-Commit": COMMIT, "Location": f"http://localhost:{port}{STORE}{name}"}
            return self._send(302, b"", linked)
        self._send(200, self.hub.wrong.get(name, data), {"ETag": f'"{git_id(data)}"', "X-Repo-Commit": COMMIT})
        return None

    def _bytes(self, name: str) -> None:
        data = self.hub.wrong.get(name, self.hub.files[name])
        begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        head = {"Content-Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"} if begin else {}
        cuts = self.hub.cut.get(name, [])
        self._send(206 if begin else 200, data[begin:], head, cuts.pop(0) if cuts else None)

    def _send(self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.close_connection = True


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """The address of the hub while the block runs."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
