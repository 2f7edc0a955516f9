"""As much of the Hugging Face hub as publishing takes, on this machine alone.

with hub() as server: ...       # huggingface_hub talks to it
server.repositories["me/mine"]  # what was uploaded: path -> bytes
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_secret"


@dataclass
class Hub:
    """Data set repositories, and what was asked."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    commits: int = 0
    refusing: int = 0  #: an HTTP status that every call gets

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        files = self.repositories[name]
        for line in lines:
            if line["key"] == "file":
                value = line["value"]
                assert value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        self.commits += 1

    def revision(self, name: str) -> str:
        return hashlib.sha1(repr(sorted(self.repositories[name].items())).encode()).hexdigest()


@contextmanager
def hub() -> Iterator[Hub]:
    """A hub to which huggingface_hub of this process talks, with a token of its own."""
    found = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": found}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.ENDPOINT", address)
        patch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        patch.setenv("HF_TOKEN", TOKEN)
        yield found
    server.shutdown()
    server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        path = self._asked()
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(/revision/.+)?", path):
            self._info(found[1])
        elif found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/[^/]+/?", path):
            files = self.hub.repositories.get(found[1], {})
            entries = [
                {"type": "file", "path": p, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                for p, c in files.items()
            ]
            self._answer(entries)
        elif found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(found[1], found[3])
        else:
            self._answer({"error": f"no {path}"}, 404)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        path = self._asked()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.hub.refusing:
            # Some proxies send back what they were sent.
            self._answer(
                {"error": f"refused {self.headers.get('Authorization')}"}, self.hub.refusing
            )
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.hub.repositories:
                self._answer({"error": "it exists", "url": f"/datasets/{name}"}, 409)
                return
            self.hub.repositories[name] = {}
            private = asked.get("visibility") == "private" or bool(asked.get("private"))
            self.hub.private[name] = private
            self._answer({"url": f"http://{self.headers['Host']}/datasets/{name}"})
        elif found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/preupload/.+", path):
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            self._answer({"files": files})
        elif found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/commit/.+", path):
            self.hub.commit(found[1], [json.loads(line) for line in body.splitlines()])
            oid = self.hub.revision(found[1])
            url = f"http://{self.headers['Host']}/datasets/{found[1]}/commit/{oid}"
            self._answer({"success": True, "commitUrl": url, "commitOid": oid})
        else:
            self._answer({"error": f"no {path}"}, 404)

    def _asked(self) -> str:
        self.hub.tokens.add(self.headers.get("Authorization", ""))
        return unquote(urlsplit(self.path).path)

    def _info(self, name: str) -> None:
        if name not in self.hub.repositories:
            self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            return
        files = self.hub.repositories[name]
        self._answer(
            {
                "id": name,
                "sha": self.hub.revision(name),
                "private": self.hub.private[name],
                "siblings": [{"rfilename": path} for path in files],
            }
        )

    def _file(self, name: str, path: str) -> None:
        content = self.hub.repositories[name][path]
        revision = self.hub.revision(name)
        more = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": revision}
        self._send(content, 200, more)

    def _answer(self, content: Any, status: int = 200, more: dict[str, str] | None = None) -> None:
        self._send(json.dumps(content).encode(), status, more or {})

    def _send(self, content: bytes, status: int, more: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in more.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
