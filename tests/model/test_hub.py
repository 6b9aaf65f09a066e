from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stand_in_hubs import REPOSITORY, HuggingFaceHandler, ModelScopeHandler, StandIn, serve

from internvl35.config import PRESETS
from internvl35.errors import CheckpointError
from internvl35.model.hub import released_name, resolve_checkpoint

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


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with serve(HuggingFaceHandler) as hub:
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
    monkeypatch.setattr(module, "EMBEDDED", {"tiny": embedded})
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
    for part in (
        f"no checkpoint {name!r}",
        "no such folder (looked at /",
        "not embedded (tiny, tiny-flash)",
        "8B, 14B",
    ):
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
    with serve(ModelScopeHandler) as hub:
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
