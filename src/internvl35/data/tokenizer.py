"""Reads a checkpoint's tokenizer without running its code, and trains the small embedded one.

Turning conversations into tokens is left to :mod:`internvl35.data.prompt`. The nine tokens that
InternVL adds to its language model's tokenizer: paper section 2.1 and the released constants.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE

from internvl35.errors import CheckpointError, ConfigError

INTERNVL_TOKENS = (
    "<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>",
)  # fmt: skip
"""What InternVL adds to its language model's tokenizer, in order of ids."""

VIDEO_TOKEN = "<video>"
"""Place of a video in a text for stock transformers' processor; no model ever sees it."""

SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>",
    *INTERNVL_TOKENS, VIDEO_TOKEN,
)  # fmt: skip
"""Added tokens of a tokenizer trained here, in order of ids behind the byte-pair vocabulary."""

NAMED_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": VIDEO_TOKEN,
}
"""Attributes by which stock transformers' InternVL processor asks its tokenizer for tokens."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<IMG_CONTEXT>\n"
    "{% elif part.type == 'video' %}<video>\n"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""What stock transformers and vLLM make of messages: turns alone, without a default system prompt.
This package never runs a template; :mod:`internvl35.data.prompt` is its only format."""

_CONTENT_ONLY = ("<think>", "</think>", "<tool_call>", "</tool_call>")
"""Added tokens that are content: decoding without special tokens keeps them."""

_SPLIT = r"[A-Z]|\p{N}| ?[[\p{L}\p{M}]&&[^A-Z]]+| ?[^\s\p{L}\p{M}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Stretches that merges stay within: a capital and a digit are alone, so that a model that reads
printed words spells them; letters and punctuation may take the space in front along."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """Train a byte-level byte-pair tokenizer with the released special tokens.

    Every text can be encoded: all 256 bytes are in the vocabulary. The same texts always give the
    same tokenizer.

    Args:
        texts: what to learn merges from.
        vocab_size: entries in all, bytes and special tokens included; a small corpus gives fewer.

    Returns:
        A ``PreTrainedTokenizerFast``.

    Raises:
        ConfigError: if the vocabulary is too small for bytes and special tokens.
    """
    smallest = 256 + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise ConfigError(f"vocab_size is {vocab_size}; at least {smallest} is needed")
    backend = Tokenizer(BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_tokens([_added_token(name) for name in SPECIAL_TOKENS])
    return _wrap(backend, {"chat_template": CHAT_TEMPLATE})


def save_tokenizer(tokenizer: Any, folder: str | Path) -> None:
    """Write a tokenizer into a checkpoint folder.

    Writes tokenizer.json and tokenizer_config.json, and, for readers that know only those,
    vocab.json, merges.txt and added_tokens.json (which do not say how text is split).

    Args:
        tokenizer: as :func:`load_tokenizer` or :func:`train_tokenizer` returns it.
        folder: the checkpoint folder; made if it does not exist.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(target))
    backend = tokenizer.backend_tokenizer
    backend.model.save(str(target))
    added = {token.content: key for key, token in backend.get_added_tokens_decoder().items()}
    (target / "added_tokens.json").write_text(
        json.dumps(added, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def load_tokenizer(folder: str | Path) -> Any:
    """Read the tokenizer of a checkpoint folder.

    Only data files are read: tokenizer.json, or else vocab.json, merges.txt and added_tokens.json
    (split as Qwen splits text), and tokenizer_config.json for names. Code that a checkpoint brings
    is never imported.

    Args:
        folder: the checkpoint folder.

    Returns:
        A ``PreTrainedTokenizerFast`` that has InternVL's nine tokens and the attributes that stock
        transformers' InternVL processor expects.

    Raises:
        CheckpointError: if the files are missing, cannot be read, or lack one of the nine tokens.
    """
    source = Path(folder)
    settings = _read_settings(source)
    if (source / "tokenizer.json").is_file():
        backend = _read_backend(source / "tokenizer.json")
    elif (source / "vocab.json").is_file() and (source / "merges.txt").is_file():
        backend = _build_qwen_backend(source)
    else:
        raise CheckpointError(
            f"{source} holds no tokenizer; needed: tokenizer.json, or vocab.json and merges.txt"
        )
    _add_listed_tokens(backend, source, settings)
    missing = [name for name in INTERNVL_TOKENS if backend.token_to_id(name) is None]
    if missing:
        raise CheckpointError(
            f"the tokenizer in {source} lacks {len(missing)} of InternVL's "
            f"{len(INTERNVL_TOKENS)} tokens ({', '.join(missing)}); "
            "take the tokenizer that came with the checkpoint"
        )
    return _wrap(backend, settings)


def _wrap(backend: Tokenizer, settings: dict[str, Any]) -> Any:
    from transformers import PreTrainedTokenizerFast

    kept = ("model_max_length", "chat_template", "padding_side", "clean_up_tokenization_spaces")
    chosen = {key: settings[key] for key in kept if settings.get(key) is not None}
    named = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None}
    for key, default in named.items():
        content = _content(settings.get(key)) or default
        if content is not None and backend.token_to_id(content) is not None:
            chosen[key] = content
    # Naming a token that the vocabulary lacks would add it, and no weights exist for its row.
    known = {
        key: name for key, name in NAMED_TOKENS.items() if backend.token_to_id(name) is not None
    }
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **chosen, **known)
    if "video_token" not in known:
        tokenizer.video_token = VIDEO_TOKEN
        tokenizer.init_kwargs["video_token"] = VIDEO_TOKEN  # what is written into a saved folder
    return tokenizer


def _content(token: Any) -> str | None:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _read_settings(source: Path) -> dict[str, Any]:
    settings: dict[str, Any] = dict(_read_object(source / "special_tokens_map.json"))
    settings.update(_read_object(source / "tokenizer_config.json"))
    template = source / "chat_template.jinja"
    if template.is_file():
        settings["chat_template"] = template.read_text(encoding="utf-8")
    return settings


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; a JSON object is needed")
    return content


def _read_backend(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more precise
        raise CheckpointError(f"{path} is no tokenizer: {error}") from error


def _build_qwen_backend(source: Path) -> Tokenizer:
    from transformers import Qwen2Tokenizer

    vocab, merges = source / "vocab.json", source / "merges.txt"
    try:
        entries, pairs = BPE.read_file(str(vocab), str(merges))
        backend = Qwen2Tokenizer(vocab=entries, merges=pairs).backend_tokenizer
    except Exception as error:  # the library raises nothing more precise
        raise CheckpointError(f"{vocab} and {merges} are no vocabulary: {error}") from error
    assert isinstance(backend, Tokenizer)
    return backend


def _add_listed_tokens(backend: Tokenizer, source: Path, settings: dict[str, Any]) -> None:
    """Add the tokens that the settings files list and the vocabulary lacks, in order of ids."""
    flat = _read_object(source / "added_tokens.json")
    try:
        listed = {int(token_id): _added_token(name) for name, token_id in flat.items()}
        for token_id, entry in (settings.get("added_tokens_decoder") or {}).items():
            listed[int(token_id)] = _added_token(entry["content"], entry)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the added tokens listed in {source} cannot be read: {error!r}; needed: a text and an "
            "id for each, in added_tokens.json or tokenizer_config.json"
        ) from error
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    for token_id, token in sorted(listed.items()):
        if token.content not in known:
            backend.add_tokens([token])
        found = backend.token_to_id(token.content)
        if found != token_id:
            raise CheckpointError(
                f"{token.content} has id {found} in the vocabulary of {source} but id {token_id} "
                "in its list of added tokens; the files are of different checkpoints"
            )


def _added_token(name: str, entry: dict[str, Any] | None = None) -> AddedToken:
    flags = {"special": name not in _CONTENT_ONLY, "normalized": False}
    known = ("single_word", "lstrip", "rstrip", "normalized", "special")
    flags.update({key: entry[key] for key in known if key in entry} if entry else {})
    return AddedToken(name, **flags)
