"""The card of a trained checkpoint: what it was trained on, how, with which figures, how to load.

Reads ``args.json`` and the log of the run folder; training itself is left to
:mod:`internvl35.train.finetune`. No token and no path of the machine enters a card.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from internvl35.config import EMBEDDED, PRESETS
from internvl35.data.dataset_names import parse_dataset_name
from internvl35.data.hub_tables import KNOWN_DATASETS
from internvl35.errors import InternVLError
from internvl35.model.hub import released_name
from internvl35.train.run_folder import (
    ADAPTER_FILE,
    FACTS,
    IMAGES_FOLDER,
    LOG_FILE,
    read_log,
    step_of,
)

CARD_FILE = "README.md"
CURVE_FILE = "train_loss.png"
"""The curve of the loss, drawn by the run and copied beside the card."""

MAX_EVALUATIONS = 10
"""Most rows of the table of evaluations."""

_SECRET_NAME = re.compile(r"(^|_)(token|password|secret|api_key)$")
_SECRET_VALUE = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|ms-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})\b", re.IGNORECASE
)
_RELEASE_LICENSE = "apache-2.0"


def write_card(
    folder: Path,
    args: Mapping[str, Any],
    state: Mapping[str, Any],
    *,
    run_folder: Path | None = None,
) -> Path:
    """Write ``README.md`` into a checkpoint.

    Args:
        folder: of the checkpoint, of merged weights, or of the two parts of a checkpoint.
        args: content of ``args.json``; may be empty.
        state: content of ``trainer_state.json``; may be empty.
        run_folder: where the curve and the figures of the log come from, if they are there; by
            default the folder that the checkpoint is in.

    Returns:
        The card.
    """
    run_folder = folder.parent if run_folder is None else run_folder
    curve = run_folder / IMAGES_FOLDER / CURVE_FILE
    if curve.is_file():
        shutil.copyfile(curve, folder / CURVE_FILE)
    parts = [
        _front_matter(folder, args),
        f"# {_title(folder, args)}\n",
        _summary(folder, args),
        _data_section(args, state),
        _figures_section(folder, run_folder, state),
        _loading_section(folder, args),
        _arguments_section(args),
    ]
    card = folder / CARD_FILE
    card.write_text("\n".join(part for part in parts if part), encoding="utf-8")
    return card


def base_name(args: Mapping[str, Any]) -> str | None:
    """Name the checkpoint that was trained, as others can find it.

    Args:
        args: content of ``args.json``.

    Returns:
        ``owner/name`` on the hub, or the name of an embedded one; None for a folder of this
        machine.
    """
    model = str(args.get("model") or "")
    if model in EMBEDDED:
        return model
    if not model or Path(model).expanduser().exists():
        return None
    name = released_name(model) or model
    return name if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) else None


def _is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER_FILE).exists()


def _front_matter(folder: Path, args: Mapping[str, Any]) -> str:
    base = base_name(args)
    is_adapter = _is_adapter(folder)
    lines: list[str] = []
    if base in EMBEDDED or (base or "") in {preset.hub_id for preset in PRESETS.values()}:
        lines.append(f"license: {_RELEASE_LICENSE}")
    if base not in (None, *EMBEDDED):
        lines.append(f"base_model: {json.dumps(base)}")
        lines.append(f"base_model_relation: {'adapter' if is_adapter else 'finetune'}")
    lines.append(f"library_name: {'peft' if is_adapter else 'transformers'}")
    lines.append("pipeline_tag: image-text-to-text")
    tags = ["internvl", "internvl3.5", "vision-language", "internvl35"]
    lines += ["tags:", *(f"- {tag}" for tag in [*tags, *(["lora"] if is_adapter else [])])]
    if names := _hub_datasets(args):
        lines += ["datasets:", *(f"- {json.dumps(name)}" for name in names)]
    return "\n".join(["---", *lines, "---", ""])


def _hub_datasets(args: Mapping[str, Any]) -> list[str]:
    """Sets of the Hugging Face hub under their names there."""
    own_names = {known.ms: known.hf for known in KNOWN_DATASETS}
    names = []
    for text in _texts(args.get("dataset")):
        try:
            name = parse_dataset_name(text)
        except InternVLError:  # a file that has gone since
            continue
        place = own_names.get(name.place, name.place)
        is_elsewhere = name.hub == "ms" or (name.hub is None and args.get("use_hf") is False)
        if not name.is_local and "/" in place and (not is_elsewhere or place != name.place):
            names.append(place)
    return list(dict.fromkeys(names))


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [str(item) for item in value] if isinstance(value, Iterable) else []


def _title(folder: Path, args: Mapping[str, Any]) -> str:
    base = base_name(args) or "a checkpoint of InternVL3.5"
    if base in EMBEDDED:
        base = f"{base}, an embedded checkpoint of internvl35"
    return f"Adapters for {base}" if _is_adapter(folder) else f"Trained from {base}"


def _summary(folder: Path, args: Mapping[str, Any]) -> str:
    vico = f"Trained by ViCO (stage {args.get('stage')})"
    kinds = {"pt": "Pre-trained further", "vico": vico}
    kind = kinds.get(str(args.get("command")), "Fine-tuned")
    how = "by adapters (LoRA)"
    if not _is_adapter(folder):
        is_merged = args.get("tuner_type") == "lora" and args.get("stage") != "router"
        how = f"{how}, which are merged into its weights" if is_merged else "in all trained weights"
    version = str(args.get("internvl35_version") or "")
    by = f"internvl35 {version}" if version[:1].isdigit() else "internvl35"
    return f"{kind} {how}, with {by}.\n"


def _data_section(args: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    rows = [
        (f"`{_public_name(text)}`", kind)
        for key, kind in (("dataset", "training"), ("val_dataset", "validation"))
        for text in _texts(args.get(key))
    ]
    counts = [
        f"{state[key]:,} {name}"
        for key, name in (("num_train_rows", "to train on"), ("num_val_rows", "to validate"))
        if isinstance(state.get(key), int)
    ]
    if not rows and not counts:
        return ""
    lines = ["## Data\n", "| data set | for |", "|---|---|"]
    lines += [f"| {name} | {kind} |" for name, kind in rows]
    if counts:
        lines += ["", f"Rows: {', '.join(counts)}."]
    return "\n".join(lines) + "\n"


def _public_name(text: str) -> str:
    """A data set's name without folders of this machine, but with its subsets and count."""
    try:
        name = parse_dataset_name(text)
    except InternVLError:  # a file that has gone since
        return Path(text).name
    return str(replace(name, place=Path(name.place).name)) if name.is_local else text


def _figures_section(folder: Path, run_folder: Path, state: Mapping[str, Any]) -> str:
    lines: list[str] = []
    for key, name in (
        ("global_step", "optimizer steps"),
        ("epoch", "epochs"),
        ("eval_loss", "loss on the validation rows"),
        ("best_metric", "best loss on the validation rows"),
    ):
        value = state.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            lines.append(f"| {name} | {value if isinstance(value, int) else f'{value:.4g}'} |")
    if lines:
        lines = ["| figure | value |", "|---|---:|", *lines]
    if evaluations := _evaluations(run_folder, state):
        lines += ["", "| step | loss on the validation rows |", "|---:|---:|"]
        lines += [f"| {step} | {loss:.4f} |" for step, loss in evaluations]
    if (folder / CURVE_FILE).exists():
        lines += ["", f"![loss over the steps]({CURVE_FILE})"]
    return "\n".join(["## Figures\n", *lines]) + "\n" if lines else ""


def _evaluations(run_folder: Path, state: Mapping[str, Any]) -> list[tuple[int, float]]:
    """Validation losses up to this checkpoint's step, thinned out evenly."""
    last = state.get("global_step")
    lines = read_log(run_folder / LOG_FILE, last if isinstance(last, int) else None)
    found = {
        step: float(line["eval_loss"])
        for line in lines
        if (step := step_of(line)) is not None and isinstance(line.get("eval_loss"), int | float)
    }
    points = sorted(found.items())
    if len(points) <= MAX_EVALUATIONS:
        return points
    stride = (len(points) - 1) / (MAX_EVALUATIONS - 1)
    return [points[round(index * stride)] for index in range(MAX_EVALUATIONS)]


def _loading_section(folder: Path, args: Mapping[str, Any]) -> str:
    base = base_name(args) or "FOLDER_OF_THE_BASE"
    if (folder / "vision").is_dir() and (folder / "language").is_dir():
        return (
            "## Use\n\n`vision/` holds tower and projector, `language/` a decoder for any software "
            "that reads language models.\n\n```python\n"
            "from transformers import AutoModelForCausalLM\n\n"
            "from internvl35.model.parts import load_vision_part\n\n"
            'vision = load_vision_part("THIS_FOLDER/vision")\n'
            'language = AutoModelForCausalLM.from_pretrained("THIS_FOLDER/language")\n```\n'
        )
    if not _is_adapter(folder):
        return (
            "## Use\n\n```python\nfrom internvl35.chat import load\n\n"
            'chat = load("THIS_FOLDER")\n'
            'print(chat.ask("What is this?", images=["a.png"]).text)\n```\n'
        )
    return (
        "## Use\n\n```\ninternvl35 infer --adapters THIS_FOLDER\n"
        "internvl35 export --adapters THIS_FOLDER --merge_lora true\n```\n\n"
        "```python\nfrom pathlib import Path\n\nfrom internvl35.chat import load\n"
        "from internvl35.train.adapters import load_adapters\n\n"
        f'chat = load("{base}")\nload_adapters(chat.model, Path("THIS_FOLDER"))\n'
        'print(chat.ask("What is this?", images=["a.png"]).text)\n```\n'
    )


def _arguments_section(args: Mapping[str, Any]) -> str:
    shown = {
        key: _public_value(key, value)
        for key, value in args.items()
        if value is not None and key not in FACTS and not _SECRET_NAME.search(key)
    }
    resolved = args.get("resolved")
    if isinstance(resolved, Mapping):
        for key, value in resolved.items():
            if not _SECRET_NAME.search(str(key)):
                shown[str(key)] = _public_value(str(key), value)
    if not shown:
        return ""
    text = json.dumps(shown, indent=1, ensure_ascii=False, sort_keys=True, default=str)
    fence = "`" * (1 + max(map(len, re.findall(r"`+", text)), default=2))
    return f"## Arguments\n\n{fence}json\n{_SECRET_VALUE.sub('***', text)}\n{fence}\n"


def _public_value(key: str, value: Any) -> Any:
    if key in ("dataset", "val_dataset"):
        return [_public_name(text) for text in _texts(value)]
    if isinstance(value, str):
        is_path = value.startswith(("/", "~", "..")) or (
            key in ("model", "output_dir", "resume_from_checkpoint", "media_root")
            and Path(value).expanduser().exists()
        )
        return Path(value).name if is_path else value
    if isinstance(value, list | tuple):
        return [_public_value(key, item) for item in value]
    return value
