"""From a folder to a repository on a hub: Hugging Face or ModelScope.

The token is handed to the hub's own client and nowhere else: it is neither printed nor written.
What is in the folder is left to whoever made it, the way back to :mod:`internvl35.model.hub`.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import os
import re
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HFValidationError

from internvl35.errors import CheckpointError
from internvl35.hub_choice import is_hugging_face
from internvl35.model.hub import HTTP_ERROR, Hub

NOT_PUBLISHED = (
    "training_state*", "val_dataset*", "val_images/*", "infer_result/*", "runs/*", ".partial-*",
    "*/.partial-*", "*.lock", "optimizer.*", "scheduler.*", "scaler.*", "rng_state*",
    "global_step*/*",
)  # fmt: skip
"""Patterns of what stays at home: optimizer states, those of other tools among them, validation
rows and answers to them."""

HUB_TITLES: dict[Hub, str] = {"hf": "the Hugging Face hub", "modelscope": "ModelScope"}
"""What a hub is called in messages."""

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_TEXT_SUFFIXES = (".json", ".jsonl", ".md", ".txt", ".yaml", ".yml", ".jinja")


@dataclass(frozen=True)
class Destination:
    """Where a folder is published, and as whom."""

    repository: str
    """``owner/name``; on Hugging Face a name alone is one of the token's owner."""
    hub: Hub = "hf"
    """Which hub."""
    token: str | None = field(default=None, repr=False)
    """Access token with the right to write; None for the one stored by the hub's own login."""
    is_private: bool = False
    """Whether a repository that is made is private; a public one is then refused."""
    revision: str | None = None
    """Branch to write to; None for the hub's main branch."""
    message: str = "Upload by internvl35"
    """Message of the commit."""
    endpoint: str | None = None
    """Address of the hub, for a mirror."""


def choose_hub(
    use_hf: bool | None, token: str | None, environment: Mapping[str, str] | None = None
) -> tuple[Hub, str]:
    """Decide which hub is meant; see :func:`internvl35.hub_choice.is_hugging_face`.

    Args:
        use_hf: what the user said; None for nothing.
        token: the token given, whose form tells hubs apart.
        environment: where ``USE_HF`` is looked up; by default the process's.

    Returns:
        The hub, and the reason in a few words.

    Raises:
        ConfigError: if ``USE_HF`` is neither on nor off.
    """
    is_hf, reason = is_hugging_face(use_hf, token, environment)
    return ("hf" if is_hf else "modelscope"), reason


def publish_folder(folder: Path, destination: Destination) -> str:
    """Upload a folder, making the repository if there is none.

    A second call with the same folder changes nothing. Files of the repository that the folder
    lacks stay.

    Args:
        folder: what to upload, apart from :data:`NOT_PUBLISHED`.
        destination: where to.

    Returns:
        Address of the repository's page.

    Raises:
        CheckpointError: if the folder holds nothing, a file of it holds the token, or the hub
            cannot be reached or refuses.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; pass the folder to publish")
    files = published_files(folder)
    if not files:
        raise CheckpointError(f"{folder} holds no file to publish")
    _refuse_links_out(folder)
    _refuse_token_in_files(files, _known_token(destination))
    if destination.hub == "hf":
        return _publish_to_hugging_face(folder, destination)
    if not _REPOSITORY.fullmatch(destination.repository):
        raise CheckpointError(
            f"{destination.repository!r} is no repository of ModelScope; needed: owner/name"
        )
    return _publish_to_modelscope(folder, destination)


def published_files(folder: Path) -> list[Path]:
    """List the files of a folder that are uploaded.

    Args:
        folder: what to publish.

    Returns:
        The files, sorted.
    """
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(
            fnmatch.fnmatch(path.relative_to(folder).as_posix(), pattern)
            for pattern in NOT_PUBLISHED
        )
    )


def _refuse_links_out(folder: Path) -> None:
    """A folder made by somebody else must not have files of this machine published."""
    inside = [folder.resolve()]
    if inside[0].parent.name == "snapshots":  # the hub's own cache keeps files beside its folders
        inside.append(inside[0].parent.parent / "blobs")
    for path in folder.rglob("*"):
        target = path.resolve()
        if path.is_symlink() and not any(target.is_relative_to(place) for place in inside):
            raise CheckpointError(
                f"{path} is a link that leads out of the folder, to {target}; put the file itself "
                "there, or remove the link"
            )


def _known_token(destination: Destination) -> str | None:
    """The token that is used, unless only the hub's own client can find it."""
    if destination.token is not None:
        return destination.token
    if destination.hub == "hf":
        return huggingface_hub.get_token()
    return os.environ.get("MODELSCOPE_API_TOKEN") or None


def _refuse_token_in_files(files: list[Path], token: str | None) -> None:
    for path in files:
        if token and path.suffix in _TEXT_SUFFIXES and token.encode() in path.read_bytes():
            raise CheckpointError(
                f"{path} holds the access token, which would be published with it; remove it there "
                "and revoke the token, somebody may have read it"
            )


def _publish_to_hugging_face(folder: Path, destination: Destination) -> str:
    api = huggingface_hub.HfApi(endpoint=destination.endpoint, token=destination.token)
    if _known_token(destination) is None:
        raise CheckpointError(
            "no token for the Hugging Face hub; pass --hub_token, set HF_TOKEN, or run "
            "'hf auth login'"
        )
    try:
        page = api.create_repo(
            destination.repository, private=destination.is_private or None, exist_ok=True
        )
        name = page.repo_id
        if destination.is_private and api.model_info(name).private is False:
            raise CheckpointError(_public_message(name))
        if destination.revision not in (None, "main"):
            api.create_branch(name, branch=str(destination.revision), exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            revision=destination.revision,
            commit_message=destination.message,
            ignore_patterns=list(NOT_PUBLISHED),
        )
    except (HFValidationError, OSError, ValueError, HTTP_ERROR) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        raise CheckpointError(_explain(error, status, destination)) from error
    return str(page)


def _publish_to_modelscope(folder: Path, destination: Destination) -> str:
    if importlib.util.find_spec("modelscope") is None:
        raise CheckpointError(
            "the ModelScope hub needs the package modelscope; install it with: "
            "pip install 'internvl35[modelscope]'"
        )
    from modelscope.hub import errors as modelscope_errors
    from modelscope.hub.api import HubApi

    _describe_for_modelscope(folder)
    try:
        api = HubApi(endpoint=destination.endpoint)
        access: dict[str, Any] = {"repo_type": "model", "token": _known_token(destination)}
        is_new = api.create_repo(
            destination.repository,
            visibility="private" if destination.is_private else "public",
            exist_ok=True,
            **access,
        )
        if destination.is_private and is_new is None:
            _refuse_public(api, destination)
        with redirect_stdout(sys.stderr):  # the client prints a table, and stdout is for results
            api.upload_folder(
                repo_id=destination.repository,
                folder_path=str(folder),
                revision=destination.revision or "master",
                commit_message=destination.message,
                ignore_patterns=list(NOT_PUBLISHED),
                **access,
                **_without_notes_in_the_folder(),
            )
    except (getattr(modelscope_errors, "HubError", OSError), OSError, ValueError) as error:
        found = getattr(error, "status_code", None)
        found = found or getattr(getattr(error, "response", None), "status_code", None)
        raise CheckpointError(_explain(error, found, destination)) from error
    address = (destination.endpoint or str(api.endpoint)).rstrip("/")
    return f"{address}/models/{destination.repository}"


def _describe_for_modelscope(folder: Path) -> None:
    path = folder / "configuration.json"
    if path.exists():
        return
    # what the hub takes a repository's kind from
    text = json.dumps({"framework": "pytorch", "task": "image-text-to-text", "allow_remote": True})
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(
            f"ModelScope wants a configuration.json, which cannot be written to {folder}: {error}"
        ) from error


def _without_notes_in_the_folder() -> dict[str, Any]:
    # clients built on modelscope_hub keep a file of what they have sent in the folder itself
    if importlib.util.find_spec("modelscope_hub") is None:
        return {}
    return {"use_cache": False, "disable_tqdm": not os.isatty(2)}


def _refuse_public(api: Any, destination: Destination) -> None:
    found = None
    with suppress(AttributeError, KeyError, TypeError):  # clients differ in what they tell
        found = api.get_model(destination.repository).get("Visibility")
    if found is not None and str(int(found)) == "5":  # ModelScope's number for public
        raise CheckpointError(_public_message(destination.repository))


def _public_message(repository: str) -> str:
    return (
        f"{repository} exists and is public, but a private repository was asked for; make it "
        "private on its page, or choose another name"
    )


def _explain(error: Exception, status: int | None, destination: Destination) -> str:
    hub, name = HUB_TITLES[destination.hub], destination.repository
    reason = (str(error).strip().splitlines() or [""])[0]
    if token := _known_token(destination):
        reason = reason.replace(token, "***")
    if status == 401:
        return f"{hub} does not know the token ({reason}); make a new one with the right to write"
    if status == 403:
        return (
            f"{hub} does not let this token write to {name} ({reason}); take a token with the "
            "right to write there, or a repository of your own"
        )
    if status == 404:
        return f"{hub} has no {name} or no such branch of it ({reason}); check both names"
    if isinstance(error, HFValidationError):
        return f"{name!r} is not a name that {hub} allows; needed: owner/name"
    if status is not None:
        return f"{name} could not be uploaded: {hub} answers {status} ({reason}); try again"
    return (
        f"{name} could not be uploaded to {hub} ({type(error).__name__}: {reason}); check the "
        "network and try again: what has arrived is not sent again"
    )
