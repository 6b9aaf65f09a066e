"""Hubs on this machine that the real clients download from and upload to."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REPOSITORY = "OpenGVLab/InternVL3_5-8B"


@dataclass
class StandIn:
    """What the stand-in hub holds and what it was asked for."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Commit to its files."""
    names: dict[str, str] = field(default_factory=dict)
    """Branch or tag to commit."""
    refused_with: tuple[int, str] | None = None
    """Status and error code for every request, as the hub sends for gated repositories."""
    cut_after: int | None = None
    """Bytes of the weights after which the connection breaks, once."""
    withheld: str = ""
    """A file that is listed but not given out."""
    fetched: list[tuple[str, str | None]] = field(default_factory=list)
    """Files fetched and the range asked for."""
    tokens: set[str] = field(default_factory=set)
    """What came in Authorization headers."""
    address: str = ""
    repository: str = REPOSITORY
    """The one repository that there is."""
    exists: bool = True
    """Whether it has been made."""
    is_private: bool | None = None
    """How it was made."""
    messages: list[str] = field(default_factory=list)
    """Messages of the commits that were pushed."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    """Large files by their SHA-256, sent before the commit that names them."""
    large_suffixes: tuple[str, ...] = ()
    """Ends of the names of files that have to be sent as large ones."""
    bodies: list[bytes] = field(default_factory=list)
    """What came in the requests that write."""

    def add(self, name: str, files: dict[str, bytes]) -> str:
        commit = etag("".join(f"{key} {etag(files[key])}\n" for key in files).encode())
        self.commits[commit] = files
        self.names[name] = commit
        return commit

    def find(self, revision: str) -> str | None:
        commit = self.names.get(revision, revision)
        return commit if commit in self.commits else None

    def make(self, name: str, *, is_private: bool, branch: str) -> bool:
        """Make the repository; False if it is there already."""
        if self.exists and self.repository == name:
            return False
        self.exists, self.repository, self.is_private = True, name, is_private
        self.commits.clear()
        self.names.clear()
        self.add(branch, {".gitattributes": b""})
        return True

    def commit(self, branch: str, message: str, changes: dict[str, bytes | None]) -> str:
        """Add files to a branch, or remove those without content."""
        files = dict(self.commits[self.names[branch]])
        for name, content in changes.items():
            if content is None:
                files.pop(name, None)
            else:
                files[name] = content
        self.messages.append(message)
        return self.add(branch, files)

    @property
    def files(self) -> dict[str, bytes]:
        """Files of the main branch."""
        return self.commits[self.names.get("main") or self.names["master"]]


class HuggingFaceHandler(BaseHTTPRequestHandler):
    """The few addresses of the Hugging Face hub that a download asks for."""

    protocol_version = "HTTP/1.1"
    hub: StandIn

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(has_body=False)

    def do_GET(self) -> None:
        self.answer(has_body=True)

    def answer(self, *, has_body: bool) -> None:
        if token := self.headers.get("Authorization"):
            self.hub.tokens.add(token)
        path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
        api, prefix = f"/api/models/{self.hub.repository}/", f"/{self.hub.repository}/resolve/"
        if self.hub.refused_with:
            status, code = self.hub.refused_with
            self.reply(status, b"{}", {"X-Error-Code": code})
        elif not self.hub.exists:
            self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif path == api.rstrip("/"):
            self.answer_listing("revision", "main")
        elif path.startswith(api):
            kind, _, revision = path.removeprefix(api).partition("/")
            self.answer_listing(kind, revision)
        elif path.startswith(prefix):
            revision, _, name = path.removeprefix(prefix).partition("/")
            self.answer_file(revision, name, has_body=has_body)
        else:
            self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def answer_listing(self, kind: str, revision: str) -> None:
        commit = self.hub.find(revision)
        if commit is None:
            self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return
        files = self.hub.commits[commit]
        listing: Any = [
            {"type": "file", "path": name, "size": len(content), "oid": etag(content)}
            for name, content in files.items()
        ]
        if kind == "revision":
            siblings = [{"rfilename": name} for name in files]
            name, is_private = self.hub.repository, bool(self.hub.is_private)
            listing = {
                "id": name,
                "modelId": name,
                "sha": commit,
                "private": is_private,
                "tags": [],
            }
            listing["siblings"] = siblings
        self.reply(200, json.dumps(listing).encode(), {"Content-Type": "application/json"})

    def answer_file(self, revision: str, name: str, *, has_body: bool) -> None:
        commit = self.hub.find(revision)
        content = self.hub.commits[commit].get(name) if commit else None
        if content is None:
            self.reply(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        if name == self.hub.withheld:
            self.reply(410, b"", {})
            return
        asked = self.headers.get("Range")
        if has_body:
            self.hub.fetched.append((name, asked))
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        headers = {
            "ETag": f'"{etag(content)}"', "X-Repo-Commit": str(commit), "Accept-Ranges": "bytes",
        }  # fmt: skip
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        headers["Content-Length"] = str(len(body))
        self.send_response(206 if asked else 200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if has_body and self.hub.cut_after is not None and name == "model.safetensors":
            self.wfile.write(body[: self.hub.cut_after])
            self.hub.cut_after = None
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True
        elif has_body:
            self.wfile.write(body)

    def do_POST(self) -> None:
        if token := self.headers.get("Authorization"):
            self.hub.tokens.add(token)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.bodies.append(body)
        path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
        api = f"/api/models/{self.hub.repository}/"
        if self.hub.refused_with:
            status, code = self.hub.refused_with
            self.reply(status, b"{}", {"X-Error-Code": code})
        elif path == "/api/repos/create":
            self.make_repository(json.loads(body))
        elif path == "/api/validate-yaml":
            self.reply_json({"errors": [], "warnings": []})
        elif path.startswith(f"{api}branch/"):
            branch = path.removeprefix(f"{api}branch/")
            is_new = branch not in self.hub.names
            self.hub.names.setdefault(branch, self.hub.names["main"])
            self.reply(200 if is_new else 409, b"{}", {})
        elif path.startswith(f"{api}preupload/"):
            self.answer_preupload(path.removeprefix(f"{api}preupload/"), json.loads(body))
        elif path == f"/{self.hub.repository}.git/info/lfs/objects/batch":
            self.reply_json(large_file_actions(self.hub, json.loads(body)["objects"]))
        elif path.startswith(f"{api}commit/"):
            self.take_commit(path.removeprefix(f"{api}commit/"), body)
        else:
            self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.blobs[hashlib.sha256(content).hexdigest()] = content
        self.reply(200, b"", {})

    def make_repository(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization'] or 'somebody'}/{asked['name']}"
        is_private = bool(asked.get("private")) or asked.get("visibility") == "private"
        is_new = self.hub.make(name, is_private=is_private, branch="main")
        page = {"url": f"{self.hub.address}/{name}", "name": name}
        self.reply_json(page, 200 if is_new else 409)

    def answer_preupload(self, revision: str, asked: dict[str, Any]) -> None:
        files = self.hub.commits[self.hub.names[revision]]
        self.reply_json(
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs"
                        if file["path"].endswith(self.hub.large_suffixes or ("/",))
                        else "regular",
                        "shouldIgnore": False,
                        "oid": blob_id(files[file["path"]]) if file["path"] in files else None,
                    }
                    for file in asked["files"]
                ]
            }
        )

    def take_commit(self, branch: str, body: bytes) -> None:
        changes: dict[str, bytes | None] = {}
        message = ""
        for line in body.decode().splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                changes[value["path"]] = self.hub.blobs[value["oid"]]
            else:
                changes[value["path"]] = None
        commit = self.hub.commit(branch, message, changes)
        page = f"{self.hub.address}/{self.hub.repository}/commit/{commit}"
        self.reply_json({"commitUrl": page, "commitOid": commit})

    def reply_json(self, content: Any, status: int = 200) -> None:
        self.reply(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class ModelScopeHandler(BaseHTTPRequestHandler):
    """The few addresses of ModelScope that a download asks for."""

    protocol_version = "HTTP/1.1"
    hub: StandIn

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.take_tokens()
        parts = urllib.parse.urlparse(self.path)
        query = dict(urllib.parse.parse_qsl(parts.query))
        commit = self.hub.find(query.get("Revision", "master"))
        files = self.hub.commits.get(commit or "", {})
        if commit and parts.path == f"/api/v1/models/{self.hub.repository}/repo/files":
            listing = [
                {"Path": name, "Name": name, "Type": "blob", "Size": len(content),
                 "Sha256": hashlib.sha256(content).hexdigest()}
                for name, content in files.items()
            ]  # fmt: skip
            self.reply(200, json.dumps({"Code": 200, "Data": {"Files": listing}}).encode(), {})
        elif self.hub.exists and parts.path == f"/api/v1/models/{self.hub.repository}":
            owner, _, name = self.hub.repository.partition("/")
            visibility = 1 if self.hub.is_private else 5
            found = {"Path": owner, "Name": name, "Visibility": visibility}
            self.reply(200, json.dumps({"Code": 200, "Data": found}).encode(), {})
        elif commit and parts.path == f"/api/v1/models/{self.hub.repository}/repo":
            self.answer_file(query["FilePath"], files[query["FilePath"]])
        else:
            self.reply(404, b'{"Code": 10010205001, "Message": "not found"}', {})

    def answer_file(self, name: str, content: bytes) -> None:
        asked = self.headers.get("Range")
        self.hub.fetched.append((name, asked))
        if not asked:
            self.reply(200, content, {})
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, end = int(first), int(last) if last else len(content) - 1
        span = {"Content-Range": f"bytes {start}-{end}/{len(content)}"}
        self.reply(206, content[start : end + 1], span)

    def do_POST(self) -> None:
        self.take_tokens()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.bodies.append(body)
        repository = f"/api/v1/repos/models/{self.hub.repository}/"
        asked = json.loads(body or b"{}")
        if self.hub.refused_with:
            status, message = self.hub.refused_with
            self.reply(status, json.dumps({"Code": status, "Message": message}).encode(), {})
        elif self.path == "/api/v1/models":
            name = f"{asked['Path']}/{asked['Name']}"
            is_new = self.hub.make(name, is_private=asked["Visibility"] == 1, branch="master")
            found = {"Code": 200, "Data": asked}
            taken = {"Code": 10010101001, "Message": "the name is taken already"}
            content = json.dumps(found if is_new else taken).encode()
            self.reply(200 if is_new else 400, content, {})
        elif self.path == f"{repository}info/lfs/objects/batch":
            found = {"Code": 200, "Data": large_file_actions(self.hub, asked["objects"])}
            self.reply(200, json.dumps(found).encode(), {})
        elif self.path.startswith(f"{repository}commit/"):
            branch = self.path.removeprefix(f"{repository}commit/")
            changes: dict[str, bytes | None] = {
                action["path"]: self.hub.blobs[action["sha256"]]
                if action["type"] == "lfs"
                else base64.b64decode(action["content"])
                for action in asked["actions"]
            }
            self.hub.commit(branch, asked["commit_message"], changes)
            self.reply(200, b'{"Code": 200, "Success": true, "Data": {}}', {})
        else:
            self.reply(404, b'{"Code": 10010205001, "Message": "not found"}', {})

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.blobs[hashlib.sha256(content).hexdigest()] = content
        self.reply(200, b"{}", {})

    def take_tokens(self) -> None:
        if token := self.headers.get("Authorization"):
            self.hub.tokens.add(token)

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


def large_file_actions(hub: StandIn, objects: list[dict[str, Any]]) -> dict[str, Any]:
    """Say of each large file where it is to be sent, or that it is here already."""
    answers: list[dict[str, Any]] = []
    for item in objects:
        answer = {"oid": item["oid"], "size": item["size"]}
        if item["oid"] not in hub.blobs:
            upload = {"href": f"{hub.address}/large/{item['oid']}", "header": {}}
            answer |= {"actions": {"upload": upload}}
        answers.append(answer)
    return {"transfer": "basic", "objects": answers}


def blob_id(content: bytes) -> str:
    """What git calls a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def etag(content: bytes) -> str:
    """What changes with a file."""
    return hashlib.sha1(content).hexdigest()


@contextmanager
def serve(handler: type[BaseHTTPRequestHandler]) -> Iterator[StandIn]:
    """Run a hub for as long as it is needed."""
    hub = StandIn()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
