"""The page on this machine's loopback address, and the votes that it sends back.

with served(study, Path("study")) as address: ...    # http://127.0.0.1:PORT/
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmark.api import UserError
from benchmark.people.records import PAGE, VOTES, Study, parsed_votes
from benchmark.store.files import write_atomically

HOST = "127.0.0.1"
_LARGEST = 1_000_000  #: bytes of a request
_SKIPPED = 2**24  #: bytes that are read of what is too large, before it is refused
_WAITS = 10  #: seconds for a request that was begun


@contextmanager
def served(study: Study, folder: Path, port: int = 0) -> Iterator[str]:
    """The page's address while it is served; `port` 0 is any free one. Raises UserError."""
    if not (folder / PAGE).is_file():
        raise UserError(f"{folder / PAGE} is missing: bring it back, or make the study anew")
    try:
        server = ThreadingHTTPServer((HOST, port), partial(_Handler, study, folder))
    except OSError as error:
        raise UserError(f"--port {port} cannot be served from: {error.strerror}") from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    """Gives the page, and takes votes; answers nothing that is asked under another name."""

    timeout = _WAITS

    def __init__(self, study: Study, folder: Path, *args: Any) -> None:
        self._study, self._folder = study, folder
        super().__init__(*args)

    def do_GET(self) -> None:
        """The page."""
        if not self._is_meant():
            return
        if self.path not in ("/", f"/{PAGE}"):
            self._say(HTTPStatus.NOT_FOUND, "there is only the page")
            return
        self._send(HTTPStatus.OK, (self._folder / PAGE).read_bytes(), "text/html; charset=utf-8")

    def do_POST(self) -> None:
        """One person's votes: kept once; the same again is taken for the same."""
        if not self._is_meant():
            return
        length = self.headers.get("Content-Length", "")
        if self.path != "/votes" or not length.isdecimal() or int(length) > _LARGEST:
            if length.isdecimal():  # who still sends would not hear the answer
                self._skip(min(int(length), _SKIPPED))
            self._say(HTTPStatus.BAD_REQUEST, "no votes")
            return
        content = self.rfile.read(int(length))
        try:
            votes = parsed_votes(content, self._study, "what was sent")
        except UserError as error:
            self._say(HTTPStatus.BAD_REQUEST, str(error))
            return
        path = self._folder / VOTES / f"{votes.person}.json"
        if path.exists() and path.read_bytes() != content:
            self._say(HTTPStatus.CONFLICT, "there are other answers of this browser already")
            return
        write_atomically(path, content)
        print(f"votes of {votes.person[:8]}: {len(votes.answers)} answers", flush=True)
        self._say(HTTPStatus.OK, "thank you")

    def _skip(self, length: int) -> None:
        while length and (part := self.rfile.read(min(length, 2**16))):
            length -= len(part)

    def _is_meant(self) -> bool:
        """Whether it was asked by this address: a foreign page may not reach it by a name."""
        assert isinstance(self.server, ThreadingHTTPServer)
        port = self.server.server_port
        if self.headers.get("Host") in (f"{HOST}:{port}", f"localhost:{port}"):
            return True
        self._say(HTTPStatus.FORBIDDEN, "asked under another name")
        return False

    def _say(self, status: HTTPStatus, text: str) -> None:
        self._send(status, text.encode(), "text/plain; charset=utf-8")

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what matters is printed above."""
