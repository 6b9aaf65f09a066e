"""``internvl35 infer``: a trained checkpoint answers validation rows, rows of your own, or you.

Flags are read by :mod:`internvl35.commands.flags`, finding and loading is left to
:mod:`internvl35.commands.trained`, asking to :mod:`internvl35.evals.predictions`. Paper section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, fields, replace
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from internvl35.commands.answer_screen import AnswerScreen, describe_scores, show_bar
from internvl35.commands.flags import GivenFlags, spread_flags
from internvl35.commands.terminal import note, paused_collection, silence_libraries, spinner
from internvl35.commands.trained import Trained, find_trained, load_trained
from internvl35.config import EMBEDDED
from internvl35.data.dataset_settings import DatasetSettings
from internvl35.data.encoding import EncodingSettings
from internvl35.errors import ConfigError, DataError
from internvl35.generate.sampling import SamplingSettings
from internvl35.scoring import METRICS
from internvl35.train.run_folder import ARGUMENTS_FILE, VAL_FILE
from internvl35.train.settings import ModelSettings

if TYPE_CHECKING:
    from internvl35.chat import Chat
    from internvl35.data.mixture import RecordSet
    from internvl35.evals.predictions import Predictor
    from internvl35.evals.result_file import ResultFile

RESULT_FOLDER = "infer_result"
"""Where answers go inside the folder that is asked."""


_NO_ROWS = "there are no validation rows; pass --val_dataset, or ask questions yourself"


@dataclass(frozen=True)
class InferSettings:
    """What is asked, how it answers, and where the answers go."""

    adapters: tuple[str, ...] = ()
    """Folders of adapters, or a hub's names; the first brings args.json, others are merged."""
    merge_lora: bool = False
    """Merge the adapters into the weights before answering, which makes answers faster."""
    load_args: bool = True
    """Take model, template, system prompt and tiles from the folder's args.json."""
    load_data_args: bool = False
    """Take the data sets from args.json too, and answer their validation rows."""
    quant_bits: Literal[0, 4, 8] | None = None
    """Load the weights in so many bits; 0 in full, by default as in the training."""
    infer_backend: str = "transformers"
    """What generates: transformers."""
    max_new_tokens: int = 2048
    """Most tokens of an answer."""
    temperature: float = 0.0
    """0 always takes the likeliest token; higher values choose more freely."""
    top_p: float = 1.0
    """Smallest total probability of the likeliest tokens to choose from, above 0 to 1."""
    top_k: int = 0
    """Number of likeliest tokens to choose from; 0 for all."""
    repetition_penalty: float = 1.0
    """Factor by which tokens already written become less likely; 1 for none."""
    seed: int | None = 42
    """Seed of the choice; row n takes seed + n, a batch that of its shortest row."""
    stop_words: tuple[str, ...] = ()
    """Texts that end an answer where the model writes them; they are left out of it."""
    stream: bool | None = None
    """Print questions, expected answers and answers as they are written; by default only in a
    conversation."""
    max_batch_size: int = 1
    """Rows answered at once."""
    metric: tuple[str, ...] = ()
    """How answers are compared: acc, exact_match, rouge, edit_distance; by default all of them."""
    logprobs: bool = False
    """Write how likely each token of an answer was."""
    result_path: str | None = None
    """File of the answers, gone on with if it exists; by default a new one in infer_result/."""
    resume: bool = False
    """Go on with the newest unfinished file in infer_result/."""

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        if self.infer_backend != "transformers":
            raise ConfigError(
                f"infer_backend is {self.infer_backend!r}; needed: transformers. For vLLM, write a "
                "checkpoint by internvl35 export --merge_lora true --layout hf and serve that"
            )
        if self.max_batch_size < 1:
            raise ConfigError(f"max_batch_size is {self.max_batch_size}; it must be at least 1")
        for metric in self.metric:
            if metric not in METRICS:
                raise ConfigError(f"metric is {metric!r}; known: {', '.join(METRICS)}")
        if self.resume and self.result_path is not None:
            raise ConfigError("resume looks for a file but result_path names one; drop resume")
        _ = self.sampling

    @property
    def sampling(self) -> SamplingSettings:
        """How tokens are chosen."""
        return SamplingSettings(
            max_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
            stop=self.stop_words,
        )


@spread_flags(InferSettings, ModelSettings, DatasetSettings, EncodingSettings)
def infer(flags: GivenFlags) -> None:
    """Let a trained checkpoint answer: its validation rows, rows of your own, or you.

    internvl35 infer --adapters output/v0-.../checkpoint-50 --load_data_args true answers the
    validation rows of the training; without any rows a conversation begins.
    """
    own = {field.name for field in fields(InferSettings)}
    settings = InferSettings(**{k: v for k, v in flags.values.items() if k in own})
    given = {name: value for name, value in flags.values.items() if name not in own}
    run_inference(settings, given)


def run_inference(settings: InferSettings, given: Mapping[str, Any]) -> None:
    """Answer rows, or hold a conversation where there are none.

    Args:
        settings: what is asked and how.
        given: flags of model, data and encoding that the user gave.
    """
    with spinner("starting"), paused_collection():
        silence_libraries()
        if settings.quant_bits is not None:
            given = {**given, "quant_bits": settings.quant_bits or None}
        # data sets that are named stand in for those of the training
        has_data = bool(given.get("dataset") or given.get("val_dataset"))
        is_as_trained = settings.load_data_args and not has_data
        trained = find_trained(
            settings.adapters, given, load_args=settings.load_args, load_data_args=is_as_trained
        )
        records = choose_records(trained, is_as_trained=is_as_trained)
    with spinner(f"loading {trained.name}"), paused_collection():
        chat = load_chat(trained, settings)
    if records is None:
        _converse(chat, trained, settings)
        return
    _answer_rows(chat, records, trained, settings)


def choose_records(trained: Trained, *, is_as_trained: bool) -> RecordSet | None:
    """Choose the rows to be answered.

    Args:
        trained: folder and settings.
        is_as_trained: whether the settings' data sets are those of the training.

    Returns:
        The validation rows: of ``val_dataset``, or split off ``dataset``; without a split, and if
        it is not the training's, all of ``dataset``. None if there are none.
    """
    from internvl35.data.mixture import select_records

    chosen, token = trained.settings.dataset, trained.settings.model.hub_token
    if is_as_trained:
        for folder in (trained.folder, trained.folder.resolve().parent):
            if (folder / VAL_FILE).is_file():
                note(f"rows: {folder / VAL_FILE}")
                rows = DatasetSettings(val_dataset=(str(folder / VAL_FILE),))
                return select_records(rows)[1]
    names = chosen.val_dataset or chosen.dataset
    if is_as_trained and not chosen.val_dataset and not chosen.split_dataset_ratio:
        note(_NO_ROWS)
        return None
    if not names:
        return None
    if is_as_trained:
        note(f"rows: {', '.join(names)}, as {ARGUMENTS_FILE} says")
    root = trained.settings.encoding.media_root
    train, val = select_records(chosen, token=token, media_root=Path(root) if root else None)
    if not is_as_trained and not chosen.val_dataset and not chosen.split_dataset_ratio:
        val = train.in_order()
    if not len(val):
        note(_NO_ROWS)
        return None
    return val


def load_chat(trained: Trained, settings: InferSettings) -> Chat:
    """Load a checkpoint to ask.

    Args:
        trained: folders and settings.
        settings: whether adapters are merged.

    Returns:
        The chat.
    """
    import torch

    from internvl35.chat import Chat
    from internvl35.data.images import DEFAULT_IMAGES
    from internvl35.data.prompt import PromptSettings
    from internvl35.data.tokenizer import load_tokenizer

    chosen = trained.settings
    is_open = chosen.model.torch_dtype is None and chosen.adapter.quant_bits is None
    # without a GPU bfloat16 is slower and less exact
    is_exact = is_open and not torch.cuda.is_available()
    model = load_trained(trained, merge=settings.merge_lora, dtype="float32" if is_exact else None)
    tiles = model.config.tile_settings
    most = chosen.encoding.max_dynamic_patch
    if most is not None:
        tiles = replace(tiles, min_tiles=min(tiles.min_tiles, most), max_tiles=most)
    prompt = PromptSettings(
        template=chosen.encoding.template or model.config.template,
        system_prompt=chosen.encoding.system,
    )
    source = replace(DEFAULT_IMAGES.source, allow_urls=chosen.encoding.allow_urls)
    images = replace(DEFAULT_IMAGES, source=source)
    return Chat(model, load_tokenizer(trained.weights), prompt=prompt, tiles=tiles, images=images)


def _converse(chat: Chat, trained: Trained, settings: InferSettings) -> None:
    from internvl35.commands.dialogue import Dialogue
    from internvl35.commands.pictures import PictureOptions

    encoding = trained.settings.encoding
    options = PictureOptions(
        max_tiles=encoding.max_dynamic_patch, frames=encoding.video_segments,
        allow_http=encoding.allow_urls,
    )  # fmt: skip
    Dialogue(chat, options, settings.sampling, [], None).run(trained.name)


def _answer_rows(chat: Chat, records: RecordSet, trained: Trained, settings: InferSettings) -> None:
    from internvl35.data.encoding import Encoder
    from internvl35.evals.predictions import Predictor
    from internvl35.evals.result_file import ResultFile

    encoding = trained.settings.encoding
    predictor = Predictor(
        chat, Encoder.for_checkpoint(chat.tokenizer, chat.model.config, encoding), records,
        settings.sampling,
        has_logprobs=settings.logprobs,
    )  # fmt: skip
    with closing(ResultFile(choose_result_path(trained, settings))) as result:
        result.check_continues(records, describe_model(trained, settings))
        if result.num_lines:
            note(f"{result.path} holds {result.num_lines} answers; going on behind them")
        try:
            _predict(predictor, result, settings)
        except KeyboardInterrupt:
            note(f"stopped; the same command with --result_path {result.path} goes on")
            raise
    _summarize(result.path, trained, settings)


def _predict(predictor: Predictor, result: ResultFile, settings: InferSettings) -> None:
    is_streamed = bool(settings.stream)
    if is_streamed and settings.max_batch_size > 1:
        note(f"stream is off: max_batch_size is {settings.max_batch_size}, and one can be streamed")
        is_streamed = False
    screen = AnswerScreen() if is_streamed else None
    predictions = predictor.predict(
        start=result.num_lines,
        batch_size=settings.max_batch_size,
        on_question=None if screen is None else screen.show_question,
        on_piece=None if screen is None else screen.show_piece,
    )
    total = len(predictor.records)
    with show_bar(total, result.num_lines, is_shown=screen is None) as advance:
        for prediction in predictions:
            result.append(prediction)
            if screen is not None:
                screen.end_answer(prediction)
            elif prediction.error is not None:
                note(f"row {prediction.index + 1} is left out: {prediction.error}")
            advance()


def choose_result_path(trained: Trained, settings: InferSettings) -> Path:
    """Choose the file that the answers go to.

    Args:
        trained: the folder that is asked.
        settings: what was said of it.

    Returns:
        As given; the newest file without figures, to resume; else a new one named for the time.
    """
    from internvl35.evals.result_file import is_finished

    if settings.result_path is not None:
        return Path(settings.result_path).expanduser()
    is_ours = trained.name not in EMBEDDED and Path(trained.name).expanduser().is_dir()
    folder = (trained.folder if is_ours else Path()) / RESULT_FOLDER
    if settings.resume:
        unfinished = [path for path in sorted(folder.glob("*.jsonl")) if not is_finished(path)]
        if unfinished:
            return unfinished[-1]
        note(f"{folder} holds no unfinished file; beginning a new one")
    return _claim_file(folder)


def _claim_file(folder: Path) -> Path:
    """Make an empty file named for the time, which no other run takes, not even at this moment."""
    name = f"{datetime.now():%Y%m%d-%H%M%S}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in count():
            path = folder / f"{name}{f'-{number}' if number else ''}.jsonl"
            with suppress(FileExistsError):
                path.touch(exist_ok=False)
                return path
    except OSError as error:
        raise DataError(
            f"results cannot be written to {folder}: {error}; name a file by --result_path"
        ) from error
    raise AssertionError("numbers do not end")


def describe_model(trained: Trained, settings: InferSettings) -> dict[str, Any]:
    """Say what decides on answers, for the file of figures.

    Args:
        trained: the folder that is asked.
        settings: how it answers.

    Returns:
        Plain values by name.
    """
    sampling, encoding = settings.sampling, trained.settings.encoding
    facts: dict[str, Any] = {
        "model": str(trained.base.resolve()) if trained.base else trained.settings.model.model,
        "adapters": [str(folder.resolve()) for folder in trained.adapters],
        "template": encoding.template,
        "system": encoding.system,
        "max_dynamic_patch": encoding.max_dynamic_patch,
        "max_new_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "repetition_penalty": sampling.repetition_penalty,
        "stop_words": list(sampling.stop),
    }
    if sampling.temperature:
        facts |= {"top_p": sampling.top_p, "top_k": sampling.top_k, "seed": sampling.seed}
    return facts


def _summarize(path: Path, trained: Trained, settings: InferSettings) -> None:
    from internvl35.evals.result_file import score_file, write_metrics

    metrics = [name for name in METRICS if name in settings.metric] or list(METRICS)
    scores, counts = score_file(path, metrics)
    figures = write_metrics(path, scores, counts, describe_model(trained, settings))
    for line in describe_scores(scores, counts):
        typer.echo(line)
    typer.echo(f"results: {path}")
    typer.echo(f"figures: {figures}")
