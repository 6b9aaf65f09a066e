from __future__ import annotations

import hashlib
import json
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from internvl35.config import PRESETS
from internvl35.errors import CheckpointError
from internvl35.model.hub import released_name, resolve_checkpoint

REPOSITORY = "OpenGVLab/InternVL3_5-8B"
WEIGHTS = bytes(range(256)) * 48_000  # more than the 10 MB that are written at a time
DATA = {
    "config.json": b"{}",
    "model.safetensors": WEIGHTS,
    "merges.txt": b"a b\n",
    "tokenizer.json": b'{"version": "1.0"}',
    "chat_template.jinja": b"{{ messages }}",
}
EVIL = {
    "modeling_internvl_chat.py": b"raise SystemExit",
    "pytorch_model.bin": b"cos\nsystem\n",
    "training_args.pt": b"cos\nsystem\n",
    "scalars.pkl": b"cos\nsystem\n",
    "run.sh": b"rm -rf /",
}


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

    def add(self, name: str, files: dict[str, bytes]) -> str:
        commit = etag("".join(f"{key} {etag(files[key])}\n" for key in files).encode())
        self.commits[commit] = files
        self.names[name] = commit
        return commit

    def find(self, revision: str) -> str | None:
        commit = self.names.get(revision, revision)
        return commit if commit in self.commits else None


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
        api, prefix = f"/api/models/{REPOSITORY}/", f"/{REPOSITORY}/resolve/"
        if self.hub.refused_with:
            status, code = self.hub.refused_with
            self.reply(status, b"{}", {"X-Error-Code": code})
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
            listing = {"id": REPOSITORY, "modelId": REPOSITORY, "sha": commit, "siblings": siblings}
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
        parts = urllib.parse.urlparse(self.path)
        query = dict(urllib.parse.parse_qsl(parts.query))
        commit = self.hub.find(query.get("Revision", "master"))
        files = self.hub.commits.get(commit or "", {})
        if commit and parts.path == f"/api/v1/models/{REPOSITORY}/repo/files":
            listing = [
                {"Path": name, "Name": name, "Type": "blob", "Size": len(content),
                 "Sha256": hashlib.sha256(content).hexdigest()}
                for name, content in files.items()
            ]  # fmt: skip
            self.reply(200, json.dumps({"Code": 200, "Data": {"Files": listing}}).encode(), {})
        elif commit and parts.path == f"/api/v1/models/{REPOSITORY}/repo":
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

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


def etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def serve(handler: type[BaseHTTPRequestHandler]) -> Iterator[StandIn]:
    hub = StandIn()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield hub
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    for hub in serve(HuggingFaceHandler):
        hub.add("main", DATA | EVIL)
        yield hub


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_only_data_files_are_fetched_and_the_second_time_none(hub: StandIn, tmp_path: Path) -> None:
    where = {"endpoint": hub.address, "cache_dir": tmp_path, "show_progress": False}
    folder = resolve_checkpoint("8B", **where)
    assert contents(folder) == DATA
    assert {name for name, _ in hub.fetched} == DATA.keys()
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".py", ".bin", ".pt", ".pkl", ".sh")]
    hub.fetched.clear()
    assert resolve_checkpoint(REPOSITORY, **where) == folder
    assert hub.fetched == []


def test_a_broken_download_goes_on_where_it_stopped(hub: StandIn, tmp_path: Path) -> None:
    hub.cut_after = 11_000_000
    folder = resolve_checkpoint(REPOSITORY, endpoint=hub.address, cache_dir=tmp_path)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [asked for name, asked in hub.fetched if name == "model.safetensors"]
    assert len(ranges) == 2
    assert ranges[0] is None
    assert ranges[1] is not None
    assert 0 < int(ranges[1].removeprefix("bytes=").rstrip("-")) <= 11_000_000


def test_after_a_failure_complete_files_are_not_fetched_again(hub: StandIn, tmp_path: Path) -> None:
    hub.withheld = "model.safetensors"
    with pytest.raises(CheckpointError, match=r"could not be fetched .* try again: complete files"):
        resolve_checkpoint(REPOSITORY, endpoint=hub.address, cache_dir=tmp_path)
    kept = {path.name for path in tmp_path.rglob("snapshots/*/*")}
    hub.withheld = ""
    hub.fetched.clear()
    folder = resolve_checkpoint(REPOSITORY, endpoint=hub.address, cache_dir=tmp_path)
    assert kept
    assert {name for name, _ in hub.fetched} == DATA.keys() - kept
    assert contents(folder) == DATA


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: StandIn, tmp_path: Path) -> None:
    old = hub.add("v1.0", DATA | {"config.json": b'{"old": true}'})
    where = {"endpoint": hub.address, "cache_dir": tmp_path}
    for revision, text in (("main", b"{}"), ("v1.0", b'{"old": true}'), (old, b'{"old": true}')):
        folder = resolve_checkpoint(REPOSITORY, revision=revision, **where)
        assert (folder / "config.json").read_bytes() == text
    with pytest.raises(CheckpointError, match="has no revision 'v9'; pass a branch, tag or commit"):
        resolve_checkpoint(REPOSITORY, revision="v9", **where)


def test_offline_finds_what_was_fetched_and_asks_nobody(hub: StandIn, tmp_path: Path) -> None:
    where = {"endpoint": hub.address, "cache_dir": tmp_path}
    with pytest.raises(CheckpointError, match="not completely on this machine"):
        resolve_checkpoint(REPOSITORY, offline=True, **where)
    folder = resolve_checkpoint(REPOSITORY, **where)
    hub.refused_with = (500, "")
    hub.fetched.clear()
    assert resolve_checkpoint(REPOSITORY, offline=True, **where) == folder
    assert hub.fetched == []


def test_the_variable_of_the_hub_keeps_it_offline_too(
    hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = {"endpoint": hub.address, "cache_dir": tmp_path}
    folder = resolve_checkpoint(REPOSITORY, **where)
    hub.fetched.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read at import
    assert resolve_checkpoint(REPOSITORY, **where) == folder
    with pytest.raises(CheckpointError, match="not completely on this machine"):
        resolve_checkpoint("OpenGVLab/InternVL3_5-1B", **where)
    assert hub.fetched == []


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "GatedRepo", "does not give access to .*; ask for access on its page, then run"),
        (401, "RepoNotFound", "does not give access to .*; check the name; if it is right, ask"),
        (401, "", "does not give access"),
        (500, "", "could not be fetched .*500"),
        (404, "RepoNotFound", "no checkpoint 'OpenGVLab/InternVL3_5-8B', neither a local folder"),
    ],
)
def test_a_refusal_says_what_to_do_in_one_line(
    hub: StandIn, tmp_path: Path, status: int, code: str, message: str
) -> None:
    hub.refused_with = (status, code)
    with pytest.raises(CheckpointError, match=message) as caught:
        resolve_checkpoint(REPOSITORY, endpoint=hub.address, cache_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_hub_that_cannot_be_reached_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be reached or must not be; go online") as e:
        resolve_checkpoint(REPOSITORY, endpoint="http://127.0.0.1:9", cache_dir=tmp_path)
    assert "\n" not in str(e.value)


def test_a_token_reaches_the_hub(hub: StandIn, tmp_path: Path) -> None:
    resolve_checkpoint(REPOSITORY, endpoint=hub.address, cache_dir=tmp_path, token="hf_secret")
    assert hub.tokens == {"Bearer hf_secret"}


def test_a_repository_without_a_config_is_no_checkpoint(hub: StandIn, tmp_path: Path) -> None:
    hub.add("main", {"README.txt": b"hello"})
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        resolve_checkpoint(REPOSITORY, endpoint=hub.address, cache_dir=tmp_path)


def test_an_existing_folder_wins_over_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / REPOSITORY).mkdir(parents=True)
    (tmp_path / "8B").mkdir()
    assert resolve_checkpoint(REPOSITORY) == Path(REPOSITORY)
    assert resolve_checkpoint("8B") == Path("8B")
    assert resolve_checkpoint(tmp_path) == tmp_path


def test_the_embedded_checkpoint_is_meant_by_its_name_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import internvl35.model.hub as module

    embedded = tmp_path / "package" / "tiny"
    embedded.mkdir(parents=True)
    monkeypatch.setattr(module, "TINY_FOLDER", embedded)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert resolve_checkpoint("tiny") == embedded
    assert resolve_checkpoint("./tiny") == Path("tiny")
    embedded.rmdir()
    with pytest.raises(CheckpointError, match="lacks the embedded checkpoint"):
        resolve_checkpoint("tiny")


@pytest.mark.parametrize(
    "name", ["./nowhere", "/no/where", "~/nowhere", "a/b/c", "nowhere", "a\\b", "", "-x/y"]
)
def test_a_name_that_means_nothing_lists_what_was_tried(name: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        resolve_checkpoint(name)
    for part in (f"no checkpoint {name!r}", "no such folder (looked at /", "'tiny'", "8B, 14B"):
        assert part in str(caught.value)


def test_a_path_object_is_never_looked_up_on_a_hub(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        resolve_checkpoint(Path("owner/name"))
    file = tmp_path / "config.json"
    file.write_text("{}")
    with pytest.raises(CheckpointError, match="is a file; pass the folder"):
        resolve_checkpoint(file)
    with pytest.raises(CheckpointError, match="hub is 'ftp'; needed: 'hf' or 'modelscope'"):
        resolve_checkpoint("owner/name", hub="ftp")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("8B", "OpenGVLab/InternVL3_5-8B"),
        ("14b", "OpenGVLab/InternVL3_5-14B"),
        ("1B-HF", "OpenGVLab/InternVL3_5-1B-HF"),
        ("30B-A3B", "OpenGVLab/InternVL3_5-30B-A3B"),
        ("20B-A4B", "OpenGVLab/InternVL3_5-GPT-OSS-20B-A4B-Preview"),
        ("gpt-oss-20b-a4b-preview-HF", "OpenGVLab/InternVL3_5-GPT-OSS-20B-A4B-Preview-HF"),
        ("InternVL3_5-2B-Flash", "OpenGVLab/InternVL3_5-2B-Flash"),
        ("OpenGVLab/InternVL3_5-8B", None),
        ("8", None),
        ("88B", None),
    ],
)
def test_sizes_and_released_names_are_completed(name: str, full: str | None) -> None:
    assert released_name(name) == full


def test_every_preset_is_known_by_its_size() -> None:
    assert {released_name(size) for size in PRESETS} == {p.hub_id for p in PRESETS.values()}


def test_modelscope_without_the_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("internvl35.model.hub.importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"pip install 'internvl35\[modelscope\]'"):
        resolve_checkpoint("8B", hub="modelscope")


@pytest.fixture
def modelscope() -> Iterator[StandIn]:
    pytest.importorskip("modelscope.hub.snapshot_download")
    for hub in serve(ModelScopeHandler):
        hub.add("master", DATA | EVIL)
        yield hub


def test_modelscope_gives_data_files_only_once_and_by_revision(
    modelscope: StandIn, tmp_path: Path
) -> None:
    where: Any = {"hub": "modelscope", "endpoint": modelscope.address, "cache_dir": tmp_path}
    with pytest.raises(CheckpointError, match="could not be fetched from ModelScope") as caught:
        resolve_checkpoint("8B", offline=True, **where)
    assert "\n" not in str(caught.value)
    folder = resolve_checkpoint("8B", **where)
    assert {name: (folder / name).read_bytes() for name in DATA} == DATA
    assert {name for name, _ in modelscope.fetched} == DATA.keys()
    modelscope.fetched.clear()
    assert resolve_checkpoint("8B", offline=True, **where) == folder
    assert resolve_checkpoint("8B", **where) == folder
    assert modelscope.fetched == []
    modelscope.add("v1.0", DATA | {"config.json": b'{"old": true}'})
    old = resolve_checkpoint("8B", revision="v1.0", **where)
    assert (old / "config.json").read_bytes() == b'{"old": true}'
    with pytest.raises(CheckpointError, match="check name, revision and network"):
        resolve_checkpoint("8B", revision="v9", **where)
