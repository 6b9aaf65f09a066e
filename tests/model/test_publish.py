from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from stand_in_hubs import HuggingFaceHandler, ModelScopeHandler, StandIn, serve

from internvl35.errors import CheckpointError
from internvl35.model.composite import VisionLanguageModel
from internvl35.model.hub import resolve_checkpoint
from internvl35.model.publish import Destination, choose_hub, publish_folder, published_files

SECRET = "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"
NAME = "somebody/formulas"
FILES = {
    "README.md": b"# Formulas\n",
    "adapter_config.json": b"{}",
    "adapter_model.safetensors": bytes(range(256)) * 40,
    "args.json": b'{"model": "tiny"}',
    "trainer_state.json": b"{}",
    "vision/config.json": b"{}",
}
AT_HOME = ("training_state.safetensors", "training_state-1.json", "val_dataset.jsonl",
           "infer_result/a.jsonl", "runs/events", ".partial-7/config.json", "optimizer.pt",
           "scheduler.pt", "rng_state_0.pth", "global_step4/mp_rank_00.pt")  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "checkpoint-3"
    for name, content in (FILES | dict.fromkeys(AT_HOME, b"mine")).items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(content)
    return made


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody is logged in, and nothing stands between the client and this machine."""
    place = tmp_path / "home"
    place.mkdir()
    for variable in (
        "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN",
        "MODELSCOPE_API_TOKEN", "MODELSCOPE_DOMAIN", "MODELSCOPE_ENDPOINT", "USE_HF",
    ):  # fmt: skip
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setenv("MODELSCOPE_HOME", str(place / "modelscope"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(place / "token"))
    return place


@pytest.fixture
def hub(home: Path) -> Iterator[StandIn]:
    with serve(HuggingFaceHandler) as hub:
        hub.exists = False
        yield hub


@pytest.fixture
def modelscope(home: Path) -> Iterator[StandIn]:
    pytest.importorskip("modelscope.hub.api")
    with serve(ModelScopeHandler) as hub:
        hub.exists = False
        yield hub


def at(stand_in: StandIn, **options: object) -> Destination:
    return Destination(NAME, token=SECRET, endpoint=stand_in.address, **options)  # type: ignore[arg-type]


def pushed(hub: StandIn) -> dict[str, bytes]:
    return {name: content for name, content in hub.files.items() if name != ".gitattributes"}


def test_the_wanted_files_arrive_with_message_and_token(hub: StandIn, folder: Path) -> None:
    page = publish_folder(folder, at(hub, message="Step 3", is_private=True))
    assert page == f"{hub.address}/{NAME}"
    assert pushed(hub) == FILES
    assert hub.messages == ["Step 3"]
    assert hub.is_private is True
    assert hub.tokens == {f"Bearer {SECRET}"}


def test_pushing_twice_changes_nothing_and_a_change_is_pushed(hub: StandIn, folder: Path) -> None:
    publish_folder(folder, at(hub))
    assert hub.is_private is False
    publish_folder(folder, at(hub))
    assert pushed(hub) == FILES
    (folder / "README.md").write_bytes(b"# Better\n")
    publish_folder(folder, at(hub, message="second"))
    assert pushed(hub) == FILES | {"README.md": b"# Better\n"}
    assert hub.messages[-1] == "second"


def test_large_files_go_their_own_way(
    hub: StandIn, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.large_suffixes = (".safetensors",)
    # the stand-in speaks the older protocol of the two for large files
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    publish_folder(folder, at(hub))
    assert pushed(hub) == FILES
    assert list(hub.blobs.values()) == [FILES["adapter_model.safetensors"]]
    publish_folder(folder, at(hub))
    assert pushed(hub) == FILES


def test_a_branch_of_its_own_leaves_the_main_one_alone(hub: StandIn, folder: Path) -> None:
    for _ in range(2):
        publish_folder(folder, at(hub, revision="try-1"))
    assert pushed(hub) == {}
    branch = hub.commits[hub.names["try-1"]]
    assert {name: branch[name] for name in FILES} == FILES


def test_a_link_that_leads_out_of_the_folder_is_not_followed(
    hub: StandIn, folder: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key.txt").write_text("mine")
    for target in (secret / "key.txt", secret):
        (folder / "notes.txt").symlink_to(target)
        with pytest.raises(CheckpointError, match="is a link that leads out of the folder, to"):
            publish_folder(folder, at(hub))
        (folder / "notes.txt").unlink()
    (folder / "notes.txt").symlink_to("README.md")
    publish_folder(folder, at(hub))
    assert pushed(hub) == FILES | {"notes.txt": FILES["README.md"]}


def test_a_folder_of_the_hubs_cache_is_published_though_its_files_are_links(
    hub: StandIn, folder: Path, tmp_path: Path
) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / "1234"
    blobs = snapshot.parents[1] / "blobs"
    for place in (snapshot, blobs):
        place.mkdir(parents=True)
    for name in ("README.md", "adapter_config.json"):
        (blobs / name).write_bytes(FILES[name])
        (snapshot / name).symlink_to(Path("../../blobs") / name)
    publish_folder(snapshot, at(hub))
    assert pushed(hub) == {name: FILES[name] for name in ("README.md", "adapter_config.json")}


def test_a_name_alone_belongs_to_the_owner_of_the_token(hub: StandIn, folder: Path) -> None:
    page = publish_folder(folder, Destination("formulas", token=SECRET, endpoint=hub.address))
    assert page == f"{hub.address}/{NAME}"
    assert pushed(hub) == FILES


def test_the_token_is_neither_shown_nor_written(
    hub: StandIn, folder: Path, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    publish_folder(folder, at(hub))
    assert SECRET not in repr(at(hub))
    assert SECRET not in "".join(capfd.readouterr())
    for place in (folder, home):
        for path in place.rglob("*"):
            assert path.is_dir() or SECRET.encode() not in path.read_bytes()
    assert all(SECRET.encode() not in body for body in hub.bodies)


def test_a_file_that_holds_the_token_is_not_published(hub: StandIn, folder: Path) -> None:
    (folder / "args.json").write_text(json.dumps({"hub_token": SECRET}))
    with pytest.raises(CheckpointError, match=r"args\.json holds the access token") as error:
        publish_folder(folder, at(hub))
    assert SECRET not in str(error.value)
    assert not hub.exists


def test_private_is_not_given_up_for_a_repository_that_is_public(
    hub: StandIn, folder: Path
) -> None:
    hub.make(NAME, is_private=False, branch="main")
    with pytest.raises(CheckpointError, match="exists and is public, but a private"):
        publish_folder(folder, at(hub, is_private=True))
    assert pushed(hub) == {}


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "does not know the token .*; make a new one with the right to write"),
        (403, "does not let this token write to somebody/formulas"),
        (500, "could not be uploaded: the Hugging Face hub answers 500"),
    ],
)
def test_a_refusal_says_what_to_do_in_one_line(
    hub: StandIn, folder: Path, status: int, message: str
) -> None:
    hub.refused_with = (status, "")
    with pytest.raises(CheckpointError, match=message) as error:
        publish_folder(folder, at(hub))
    assert "\n" not in str(error.value)
    assert SECRET not in str(error.value)


def test_a_hub_that_cannot_be_reached_is_said_in_one_line(home: Path, folder: Path) -> None:
    nowhere = Destination(NAME, token=SECRET, endpoint="http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match="could not be uploaded to the Hugging Fa"):
        publish_folder(folder, nowhere)


def test_without_a_token_nothing_is_tried(hub: StandIn, folder: Path) -> None:
    with pytest.raises(CheckpointError, match="pass --hub_token, set HF_TOKEN, or run"):
        publish_folder(folder, Destination(NAME, endpoint=hub.address))
    assert not hub.bodies


def test_a_folder_without_files_is_refused(hub: StandIn, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no file to publish"):
        publish_folder(tmp_path / "empty", at(hub))
    with pytest.raises(CheckpointError, match="is not a folder"):
        publish_folder(tmp_path / "none", at(hub))
    (tmp_path / "empty" / "a").touch()
    with pytest.raises(CheckpointError, match="is not a name that the Hugging Face hub allows"):
        publish_folder(tmp_path / "empty", Destination("a/b/c", token=SECRET, endpoint=hub.address))


def test_what_stays_at_home_is_not_listed(folder: Path) -> None:
    names = {path.relative_to(folder).as_posix() for path in published_files(folder)}
    assert names == FILES.keys()


def test_a_pushed_checkpoint_loads_again(
    hub: StandIn, random_checkpoint: Path, tmp_path: Path
) -> None:
    publish_folder(random_checkpoint, at(hub))
    found = resolve_checkpoint(NAME, endpoint=hub.address, cache_dir=tmp_path, token=SECRET)
    state = VisionLanguageModel.from_pretrained(found).state_dict()
    for name, value in VisionLanguageModel.from_pretrained(random_checkpoint).state_dict().items():
        assert value.equal(state[name])


def test_modelscope_gets_the_same_files_and_a_configuration(
    modelscope: StandIn, folder: Path, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    to = at(modelscope, hub="modelscope", is_private=True, message="Step 3")
    assert publish_folder(folder, to) == f"{modelscope.address}/models/{NAME}"
    files = pushed(modelscope)
    assert json.loads(files.pop("configuration.json"))["task"] == "image-text-to-text"
    assert files == FILES
    assert modelscope.is_private is True
    assert [message.split(" (batch")[0] for message in modelscope.messages] == ["Step 3"]
    assert modelscope.tokens == {f"Bearer {SECRET}"}
    publish_folder(folder, to)
    assert pushed(modelscope).keys() == FILES.keys() | {"configuration.json"}
    printed = capfd.readouterr()
    assert printed.out == ""
    assert SECRET not in printed.err
    for place in (folder, home):
        for path in place.rglob("*"):
            assert path.is_dir() or SECRET.encode() not in path.read_bytes()
    assert {path.name for path in folder.iterdir() if path.name.startswith(".ms")} == set()


def test_modelscope_refuses_in_one_line_too(modelscope: StandIn, folder: Path) -> None:
    to = at(modelscope, hub="modelscope", is_private=True)
    for status, message in ((401, "does not know the token"), (403, "does not let this token")):
        modelscope.refused_with = (status, "no")
        with pytest.raises(CheckpointError, match=f"ModelScope {message}") as error:
            publish_folder(folder, to)
        assert "\n" not in str(error.value)
    modelscope.refused_with = None
    modelscope.make(NAME, is_private=False, branch="master")
    with pytest.raises(CheckpointError, match="exists and is public"):
        publish_folder(folder, to)
    with pytest.raises(CheckpointError, match="'formulas' is no repository of ModelScope"):
        publish_folder(folder, Destination("formulas", hub="modelscope", token=SECRET))


def test_a_checkpoint_pushed_to_modelscope_loads_again(
    modelscope: StandIn, random_checkpoint: Path, tmp_path: Path
) -> None:
    where = tmp_path / "checkpoint"
    VisionLanguageModel.from_pretrained(random_checkpoint).save_pretrained(where)
    publish_folder(where, at(modelscope, hub="modelscope"))
    found = resolve_checkpoint(
        NAME, hub="modelscope", endpoint=modelscope.address, cache_dir=tmp_path / "cache"
    )
    state = VisionLanguageModel.from_pretrained(found).state_dict()
    for name, value in VisionLanguageModel.from_pretrained(random_checkpoint).state_dict().items():
        assert value.equal(state[name])


def test_modelscope_without_the_package_names_the_extra(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("internvl35.model.publish.importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"pip install 'internvl35\[modelscope\]'"):
        publish_folder(folder, Destination(NAME, hub="modelscope", token="x"))


def test_the_hub_follows_flag_environment_and_token() -> None:
    assert choose_hub(None, "ms-abc", {}) == ("modelscope", "the token begins with ms-")
    assert choose_hub(None, "ms-abc", {"USE_HF": "1"}) == ("hf", "USE_HF is 1")
