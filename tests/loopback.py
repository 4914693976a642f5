"""A server on the loopback that serves small files as the archives do, and breaks off at will."""

import hashlib
import io
import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Loopback:
    """Serves `files`, {path: bytes}; what it was asked is in `asked`, as (path, Range).

    breaks: {path: after how many bytes each of the next answers breaks off}.
    statuses: {path: the status of each of the next answers}.
    ranges: whether parts are served.
    tags: whether answers have an ETag.
    headers: {path: what is sent beside}.
    """

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.breaks: dict[str, list[int]] = {}
        self.statuses: dict[str, list[int]] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.ranges = self.tags = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self, body=True)

            def do_HEAD(self):
                outer.answer(self, body=False)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, handler, body: bool) -> None:
        path = unquote(urlsplit(handler.path).path)
        if body:
            self.asked.append((path, handler.headers.get("Range")))
        if body and self.statuses.get(path):
            handler.send_error(self.statuses[path].pop(0))
            return
        if path not in self.files:
            handler.send_error(404)
            return
        content = self.files[path]
        tag = f'"{hashlib.sha1(content).hexdigest()}"'
        start, wanted = 0, handler.headers.get("Range")
        if self.ranges and wanted and handler.headers.get("If-Range", tag) == tag:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            if start >= len(content):
                handler.send_error(416)
                return
        handler.send_response(206 if start else 200)
        if start:
            whole = f"bytes {start}-{len(content) - 1}/{len(content)}"
            handler.send_header("Content-Range", whole)
        handler.send_header("Content-Length", str(len(content) - start))
        if self.tags:
            handler.send_header("ETag", tag)
        for name, value in self.headers.get(path, {}).items():
            handler.send_header(name, value)
        handler.end_headers()
        if not body:
            return
        stops = self.breaks.get(path)
        end = start + stops.pop(0) if stops else len(content)
        handler.wfile.write(content[start:end])
        handler.close_connection = True


def record(server: Loopback, number: str, files: dict[str, bytes], **changes) -> None:
    """Serves a record of Zenodo; `changes` are of its entries, {name: {key: value}}."""
    entries = []
    for name, content in files.items():
        path = f"/api/records/{number}/files/{name}/content"
        server.files[path] = content
        entry = {
            "key": name,
            "size": len(content),
            "checksum": f"md5:{hashlib.md5(content).hexdigest()}",
            "links": {"self": server.url + path},
        }
        entries.append(entry | changes.get(name, {}))
    about = {"license": {"id": "cc-by-4.0"}, "doi": f"10.5281/zenodo.{number}"}
    content = {"id": int(number), "metadata": about, "files": entries}
    server.files[f"/api/records/{number}"] = json.dumps(content).encode()


def hub(server: Loopback, name: str, files: dict[str, bytes], card: dict) -> None:
    """Serves a data set as the Hugging Face hub does."""
    siblings = []
    for file, content in files.items():
        digest = hashlib.sha256(content).hexdigest()
        lfs = {"sha256": digest, "size": len(content), "pointerSize": 128}
        siblings.append({"rfilename": file, "size": len(content), "blobId": "0" * 40, "lfs": lfs})
        path = f"/datasets/{name}/resolve/{'c' * 40}/{file}"
        server.files[path] = content
        server.headers[path] = {"X-Repo-Commit": "c" * 40}
    info = {"id": name, "sha": "c" * 40, "siblings": siblings, "cardData": card}
    info |= {"tags": ["arxiv:2404.02973"], "private": False, "downloads": 0, "likes": 0}
    server.files[f"/api/datasets/{name}"] = json.dumps(info).encode()


def zipped(members: dict[str, bytes]) -> bytes:
    """A ZIP archive."""
    with zipfile.ZipFile(stream := io.BytesIO(), "w") as made:
        for name, content in members.items():
            made.writestr(name, content)
    return stream.getvalue()
