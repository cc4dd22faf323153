"""As much of the Hub as downloads of data sets ask for, on loopback, with the troubles that a network has."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """One repository, `team/data`. `broken_after` cuts every answer with a file after so many bytes."""

    files: dict[str, bytes]
    commit: str = COMMIT
    licence: str = "mit"
    page: int = 2
    large_from: int = 100
    """Files of so many bytes are told with their digest, as the Hub does for large ones."""
    told_digest: dict[str, str] = field(default_factory=dict)
    broken_after: int | None = None
    ranges: bool = True
    status: int = 200
    elsewhere: str = ""
    """Another server that files are fetched from, as the Hub sends on to where its large files lie."""
    url: str = ""
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    @property
    def fetched(self) -> list[tuple[str, str]]:
        """Path and range of every file that was asked for."""
        lead = f"/datasets/team/data/resolve/{self.commit}/"
        return [
            (path.removeprefix(lead), headers.get("range", ""))
            for path, headers in self.requests
            if path.startswith(lead)
        ]


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            hub.requests.append((path, {name.lower(): value for name, value in self.headers.items()}))
            if hub.status != 200:
                self.reply(hub.status, b"")
            elif hub.elsewhere and "/resolve/" in path:
                self.reply(302, b"", {"Location": f"{hub.elsewhere}{self.path}"})
            elif path.startswith("/api/datasets/team/data/revision/"):
                self.reply(200, json.dumps({"sha": hub.commit, "cardData": {"license": hub.licence}}).encode())
            elif path == f"/api/datasets/team/data/tree/{hub.commit}":
                self.tree(int(query.rpartition("cursor=")[2]) if "cursor=" in query else 0)
            elif (name := path.removeprefix(f"/datasets/team/data/resolve/{hub.commit}/")) in hub.files:
                self.file(hub.files[name])
            else:
                self.reply(404, b"")

        def tree(self, first: int) -> None:
            names = sorted(hub.files)
            entries = [{"type": "directory", "path": "folder", "size": 0, "oid": "0"}] if not first else []
            entries += [self.entry(name) for name in names[first : first + hub.page]]
            more = first + hub.page < len(names)
            address = f"<{hub.url}/api/datasets/team/data/tree/{hub.commit}?recursive=true&cursor={first + hub.page}>"
            self.reply(200, json.dumps(entries).encode(), {"Link": f'{address}; rel="next"'} if more else {})

        def entry(self, name: str) -> dict[str, Any]:
            data = hub.files[name]
            large = len(data) >= hub.large_from
            blob = hashlib.sha1(b"blob %d\0%b" % (len(data), data)).hexdigest()
            told = hub.told_digest.get(name, hashlib.sha256(data).hexdigest() if large else blob)
            entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data)}
            entry["oid"] = "a" * 40 if large else told
            if large:
                entry["lfs"] = {"oid": told, "size": len(data), "pointerSize": 130}
            return entry

        def file(self, data: bytes) -> None:
            asked = self.headers.get("Range")
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and hub.ranges else 0
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            if hub.broken_after is None:
                self.wfile.write(data[start:])
            else:
                self.wfile.write(data[start : start + hub.broken_after])
                self.close_connection = True

        def reply(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
