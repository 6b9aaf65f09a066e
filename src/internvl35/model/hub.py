"""From the name of a checkpoint to a local folder: embedded, local, Hugging Face hub or ModelScope.

Only data files are ever fetched: no code, no pickles. What is in the folder is left to
:mod:`internvl35.model.weights`. The released sizes are listed in :data:`internvl35.config.PRESETS`.
"""

from __future__ import annotations

import importlib.util
import re
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from internvl35.config import EMBEDDED, PRESETS
from internvl35.errors import CheckpointError

Hub = Literal["hf", "modelscope"]
"""Where names of the form ``owner/name`` are looked up."""

DATA_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.tiktoken")
"""Patterns of the files that are fetched: configs, weights, tokenizers, chat templates."""

_CONFIG = "config.json"
_OWNER = "OpenGVLab"
_RELEASE = "InternVL3_5-"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_ALIASES = {"20B-A4B": "GPT-OSS-20B-A4B-Preview"}

# huggingface_hub changed its HTTP library between versions; its own error derives from the root of
# whichever it uses, which is what a connection lost half-way raises
HTTP_ERROR: type[Exception] = next(c for c in HfHubHTTPError.__mro__ if c.__name__ == "HTTPError")
"""What a lost connection to the Hugging Face hub raises."""


_OPTIONS = ("hub", "revision", "offline", "cache_dir", "show_progress", "token", "endpoint")


def take_hub_options(options: dict[str, Any]) -> dict[str, Any]:
    """Take what is meant for :func:`resolve_checkpoint` out of a caller's options.

    Args:
        options: any options; those for the hub are removed from it.

    Returns:
        The options for the hub.
    """
    return {key: options.pop(key) for key in _OPTIONS if key in options}


def resolve_checkpoint(
    name: str | PathLike[str],
    *,
    hub: Hub = "hf",
    revision: str | None = None,
    offline: bool = False,
    cache_dir: str | PathLike[str] | None = None,
    show_progress: bool = True,
    token: str | None = None,
    endpoint: str | None = None,
    marker: str = _CONFIG,
) -> Path:
    """Find a checkpoint's folder, fetching it from a hub if need be.

    Args:
        name: ``tiny`` or ``tiny-flash`` for an embedded checkpoint (``./tiny`` for a folder of that
            name), a local folder, a released size such as ``8B`` or ``8B-HF``, a released name such
            as ``InternVL3_5-8B``, or a hub's ``owner/name``.
        hub: which hub; files fetched before are not fetched again.
        revision: branch, tag or commit on the hub.
        offline: look only among files fetched before; the environment variable ``HF_HUB_OFFLINE``
            does the same for the Hugging Face hub.
        cache_dir: where fetched files are kept, by default where the hub's own tools keep them.
        show_progress: whether to draw progress bars; those of ModelScope are always drawn.
        token: access token for gated or private checkpoints, by default the one logged in with.
        endpoint: address of the hub, for a mirror.
        marker: file that a fetched folder must hold; ``adapter_config.json`` for adapters. Any but
            ``config.json`` is looked for before anything else is fetched.

    Returns:
        The folder.

    Raises:
        CheckpointError: if there is no such checkpoint or it cannot be fetched.
    """
    text = str(name)
    if text in EMBEDDED:
        return _embedded(text)
    path = Path(name).expanduser()
    if text and path.is_dir():
        return path
    if path.is_file():
        raise CheckpointError(f"{path} is a file; pass the folder that it is in")
    hub_name = released_name(text) or text
    if isinstance(name, PathLike) or not _HUB_NAME.fullmatch(hub_name):
        raise CheckpointError(_describe_unknown(text))
    where: dict[str, Any] = {
        "revision": revision, "cache_dir": cache_dir, "token": token, "endpoint": endpoint,
        "local_files_only": offline, "allow_patterns": list(DATA_FILES),
    }  # fmt: skip
    if hub not in ("hf", "modelscope"):
        raise CheckpointError(f"hub is {hub!r}; needed: 'hf' or 'modelscope'")
    wanted = [where] if marker == _CONFIG else [where | {"allow_patterns": [marker]}, where]
    for part in wanted:
        if hub == "hf":
            folder = _fetch_from_hugging_face(hub_name, part, show_progress=show_progress)
        else:
            folder = _fetch_from_modelscope(hub_name, part)
        if not (folder / marker).is_file():
            what = "a checkpoint" if marker == _CONFIG else "what was asked for"
            raise CheckpointError(f"{hub_name} holds no {marker}; it is not {what}")
    return folder


def released_name(name: str) -> str | None:
    """Complete a size or a released name to the hub's name.

    Args:
        name: for example ``8b``, ``8B-HF``, ``InternVL3_5-8B``.

    Returns:
        For example ``OpenGVLab/InternVL3_5-8B``; ``None`` if it names no released checkpoint.
    """
    wanted = name.casefold().removeprefix(_RELEASE.casefold())
    sizes = {size.casefold(): size for size in PRESETS} | {
        alias.casefold(): size for alias, size in _ALIASES.items()
    }
    for size in sorted(sizes, key=len, reverse=True):
        if wanted == size or wanted.startswith(f"{size}-"):
            return f"{_OWNER}/{_RELEASE}{sizes[size]}{name[len(name) - len(wanted) + len(size) :]}"
    return None


def _embedded(name: str) -> Path:
    folder = EMBEDDED[name]
    if not folder.is_dir():
        raise CheckpointError(f"this installation lacks the embedded checkpoint at {folder}")
    return folder


def _describe_unknown(name: str) -> str:
    return (
        f"no checkpoint {name!r}: no such folder (looked at {Path(name).expanduser().absolute()}), "
        f"not embedded ({', '.join(EMBEDDED)}), not a released size ({', '.join(PRESETS)}), and "
        "not of the form owner/name"
    )


class _SilentBar(tqdm):
    """A progress bar that is never drawn."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **(kwargs | {"disable": True}))


def _fetch_from_hugging_face(hub_name: str, where: dict[str, Any], *, show_progress: bool) -> Path:
    bar = None if show_progress else _SilentBar
    try:
        # two files at a time: what is under way when a download is stopped is fetched again
        folder = huggingface_hub.snapshot_download(hub_name, tqdm_class=bar, max_workers=2, **where)
        return Path(folder)
    except (HFValidationError, OSError, ValueError, HTTP_ERROR) as error:
        at = where["revision"] or "main"
        raise CheckpointError(_explain(error, hub_name, at)) from error


def _explain(error: Exception, hub_name: str, revision: str) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError) or status in (401, 403):
        advice = "ask for access on its page, then run 'hf auth login' or pass a token"
        if not isinstance(error, GatedRepoError):
            advice = f"check the name; if it is right, {advice}"
        return f"the hub does not give access to {hub_name}; {advice}"
    if isinstance(error, RevisionNotFoundError):
        return f"{hub_name} has no revision {revision!r}; pass a branch, tag or commit of it"
    if isinstance(error, RepositoryNotFoundError):
        return f"no checkpoint {hub_name!r}, neither a local folder nor on the hub; check the name"
    if isinstance(error, LocalEntryNotFoundError):
        if isinstance(error.__cause__, HfHubHTTPError):  # what kept the hub from giving it out
            return _explain(error.__cause__, hub_name, revision)
        return (
            f"{hub_name} at revision {revision!r} is not completely on this machine and the hub "
            "cannot be reached or must not be; go online once, or pass a local folder"
        )
    if isinstance(error, HFValidationError):
        return f"{hub_name!r} is not a name that the hub allows; check it"
    reason = str(error).strip().splitlines()
    return (
        f"{hub_name} could not be fetched ({type(error).__name__}: {reason[0] if reason else ''}); "
        "try again: complete files are kept"
    )


def _fetch_from_modelscope(hub_name: str, where: dict[str, Any]) -> Path:
    if importlib.util.find_spec("modelscope") is None:
        raise CheckpointError(
            "the ModelScope hub needs the package modelscope; install it with: "
            "pip install 'internvl35[modelscope]'"
        )
    from modelscope.hub import errors as modelscope_errors
    from modelscope.hub.snapshot_download import snapshot_download

    try:
        return Path(snapshot_download(hub_name, **where))
    except (getattr(modelscope_errors, "HubError", OSError), OSError, ValueError) as error:
        reason = str(error).strip().splitlines()
        raise CheckpointError(
            f"{hub_name} could not be fetched from ModelScope ({type(error).__name__}: "
            f"{reason[0] if reason else ''}); check name, revision and network, or pass a local "
            "folder"
        ) from error
