"""What most people call: load a checkpoint once, then ask about pictures and videos.

``load("tiny").ask("What is this?", images=["a.png"]).text`` is the whole of it; ``stream`` gives
the answer while it is written, ``ask_batch`` answers many questions at once. The announcement's own
API stands in :mod:`internvl35.dropin`. Paper section 2.1.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from internvl35.config import EMBEDDED, TINY, TileSettings
from internvl35.conversation import Conversation, Question, Reply, Video
from internvl35.data.frames import DEFAULT_VIDEOS, VideoSettings
from internvl35.data.images import DEFAULT_IMAGES, ImageSettings, ImageSource, open_image
from internvl35.data.messages import Message, insert_marks, mark_images, video_marks
from internvl35.data.prompt import PromptBuilder, PromptSettings
from internvl35.data.tiles import Grid, choose_grid, make_pixel_values
from internvl35.data.tokenizer import load_tokenizer
from internvl35.data.video import read_frames
from internvl35.errors import ConfigError
from internvl35.generate.engine import Engine
from internvl35.generate.engine_settings import EngineSettings
from internvl35.generate.engine_thread import EngineThread
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request
from internvl35.generate.routing import fewest_tokens
from internvl35.generate.rules import check_tokens, stop_rules
from internvl35.generate.sampling import SamplingSettings
from internvl35.model.composite import VisionLanguageModel
from internvl35.model.configuration import read_config
from internvl35.model.hub import resolve_checkpoint, take_hub_options
from internvl35.replies import ReplyStream, make_reply

DEFAULT_SAMPLING = SamplingSettings()


class Chat:
    """A model with its tokenizer, ready to be asked.

    Args:
        model: the network.
        tokenizer: its tokenizer.
        prompt: how conversations become prompts; by default the template of the checkpoint.
        tiles: how pictures are cut; by default as the checkpoint says.
        images: how pictures are opened.
        videos: how videos are read.

    Raises:
        CheckpointError: if tokenizer and network do not fit each other.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        tokenizer: Any,
        *,
        prompt: PromptSettings | None = None,
        tiles: TileSettings | None = None,
        images: ImageSettings = DEFAULT_IMAGES,
        videos: VideoSettings = DEFAULT_VIDEOS,
    ) -> None:
        """Look the special tokens up and check that the network has rows for them."""
        self.model = model
        self.tokenizer = tokenizer
        self.tiles = tiles or model.config.tile_settings
        self.images = images
        self.videos = videos
        settings = prompt or PromptSettings(template=model.config.template)
        room = int(model.config.text_config.max_position_embeddings)
        self.builder = PromptBuilder(
            tokenizer,
            replace(
                settings,
                tokens_per_tile=model.config.tokens_per_tile,
                max_tokens=min(settings.max_tokens or room, room),
            ),
        )
        check_tokens(model, self.builder)
        self.rules = stop_rules(tokenizer, self.builder)
        self._other_builder: PromptBuilder | None = None
        self._engine: EngineThread | None = None
        self._start = threading.Lock()

    @property
    def engine(self) -> EngineThread:
        """What answers; it is built with the first question, and shared by all threads that ask."""
        with self._start:
            if self._engine is None:
                settings = EngineSettings(max_prompt_tokens=self.builder.settings.max_tokens)
                self._engine = EngineThread(
                    Engine(self.model, self.rules, tokenizer=self.tokenizer, settings=settings)
                )
            return self._engine

    def ask(
        self,
        text: str,
        images: Sequence[ImageSource] = (),
        *,
        video: Video | str | PathLike[str] | None = None,
        conversation: Conversation | None = None,
        sampling: SamplingSettings = DEFAULT_SAMPLING,
        flash: FlashSettings | None = None,
    ) -> Reply:
        """Ask one question.

        Args:
            text: the question; see :class:`Question`.
            images: pictures: paths, bytes, data URIs, Pillow pictures or arrays.
            video: a video, shown in front of the text.
            conversation: ``reply.conversation`` of the reply that this follows.
            sampling: how the answer is chosen.
            flash: which tiles are compressed; see :class:`Question`.

        Returns:
            The answer.

        Raises:
            ConfigError: if tiles shall be compressed but the checkpoint has no router.
            MediaError: if a picture or video cannot be read.
            PromptError: if marks and pictures do not match, or the prompt is too long.
        """
        pieces = self.stream(
            text, images, video=video, conversation=conversation, sampling=sampling, flash=flash
        )
        for _ in pieces:
            pass
        assert pieces.reply is not None
        return pieces.reply

    def stream(
        self,
        text: str,
        images: Sequence[ImageSource] = (),
        *,
        video: Video | str | PathLike[str] | None = None,
        conversation: Conversation | None = None,
        sampling: SamplingSettings = DEFAULT_SAMPLING,
        flash: FlashSettings | None = None,
    ) -> ReplyStream:
        """Ask one question and read the answer while it is written.

        Args:
            text: the question; see :class:`Question`.
            images: pictures, as for :meth:`ask`.
            video: a video, shown in front of the text.
            conversation: ``reply.conversation`` of the reply that this follows.
            sampling: how the answer is chosen.
            flash: which tiles are compressed; see :class:`Question`.

        Returns:
            An iterator of pieces, whose ``reply`` holds the whole once it is exhausted; closing it
            ends the generation.

        Raises:
            ConfigError: if tiles shall be compressed but the checkpoint has no router.
            MediaError: if a picture or video cannot be read.
            PromptError: if marks and pictures do not match, or the prompt is too long.
        """
        asked, request = self._prepare(
            Question(text, images, video, conversation or Conversation(), flash)
        )
        return self.read(asked, request, sampling, flash)

    def read(
        self,
        asked: Conversation,
        request: Request,
        sampling: SamplingSettings = DEFAULT_SAMPLING,
        flash: FlashSettings | None = None,
    ) -> ReplyStream:
        """Answer a request that is prepared, and read the answer while it is written.

        Args:
            asked: the conversation that it ends.
            request: see :meth:`prepare`.
            sampling: how the answer is chosen.
            flash: which tiles are compressed; see :class:`Question`.

        Returns:
            As of :meth:`stream`.
        """
        updates = self.engine.read(request, sampling, flash=flash)
        return ReplyStream(asked, updates, time.perf_counter())

    def ask_batch(
        self,
        questions: Sequence[Question],
        sampling: SamplingSettings = DEFAULT_SAMPLING,
        *,
        has_logprobs: bool = False,
        flash: FlashSettings | None = None,
    ) -> list[Reply]:
        """Answer several questions at once; each gets the answer it would get alone.

        Args:
            questions: at least one.
            sampling: how the answers are chosen.
            has_logprobs: whether replies say how likely their tokens were.
            flash: which tiles are compressed, for questions that do not say it themselves.

        Returns:
            A reply a question, in order.

        Raises:
            ConfigError: if tiles shall be compressed but the checkpoint has no router.
            MediaError: if a picture or video cannot be read.
            PromptError: if marks and pictures do not match, or a prompt is too long.
        """
        if not questions:
            return []
        started = time.perf_counter()
        questions = [
            replace(question, flash=flash if question.flash is None else question.flash)
            for question in questions
        ]
        prepared = [self._prepare(question) for question in questions]
        if has_logprobs:
            sampling = replace(sampling, num_logprobs=0)
        completions = self.engine.generate(
            [request for _, request in prepared], sampling,
            flash=[question.flash for question in questions],
        )  # fmt: skip
        seconds = time.perf_counter() - started
        replies = [
            make_reply(asked, completion, seconds)
            for (asked, _), completion in zip(prepared, completions, strict=True)
        ]
        return [replace(reply, seconds_to_first_token=None) for reply in replies]

    def _prepare(self, question: Question) -> tuple[Conversation, Request]:
        shown = [self.cut(image) for image in question.images]
        pictures, grids = [tiles for tiles, _ in shown], [grid for _, grid in shown]
        text = mark_images(question.text, len(pictures))
        if question.video is not None:
            frames = self._frames(question.video)
            marks = video_marks(len(frames), self.builder.settings.frame_label)
            text = insert_marks(text, marks, len(pictures))
            pictures += frames
            grids += [Grid(1, 1)] * len(frames)
        # without pictures a literal <image> is just text
        message = Message("user", text, image_places=None if pictures else ())
        before = question.conversation
        asked = Conversation(
            (*before.messages, message), (*before.pictures, *pictures), (*before.grids, *grids)
        )
        return asked, self.prepare(asked, question.flash)

    def cut(self, image: ImageSource, max_tiles: int | None = None) -> tuple[Tensor, Grid]:
        """Open a picture and cut it into tiles.

        Args:
            image: in any form.
            max_tiles: most tiles, thumbnail not counted; None for the chat's own limit.

        Returns:
            ``(N, 3, tile, tile)`` tiles, and how they lie beside one another.

        Raises:
            ConfigError: if more tiles are asked for than the chat allows.
            MediaError: if the picture cannot be read.
        """
        tiles = self.tiles
        if max_tiles is not None:
            if not 1 <= max_tiles <= tiles.max_tiles:
                raise ConfigError(
                    f"at most {max_tiles} tiles are asked for; needed: 1 to {tiles.max_tiles}"
                )
            tiles = replace(tiles, min_tiles=min(tiles.min_tiles, max_tiles), max_tiles=max_tiles)
        picture = open_image(image, self.images)
        return make_pixel_values(picture, tiles), choose_grid(*picture.size, tiles)

    def prepare(
        self,
        asked: Conversation,
        flash: FlashSettings | None = None,
        is_thinking: bool | None = None,
        *,
        tools: str | None = None,
        prefix: str = "",
    ) -> Request:
        """Turn a conversation that ends with a question into what an engine takes.

        Args:
            asked: the turns and the pictures of all of them.
            flash: which tiles will be compressed; see :class:`Question`.
            is_thinking: whether the model is asked to reason; None as for all questions.
            tools: JSON text of the schemas of tools that may be called.
            prefix: first words of the answer.

        Returns:
            The prompt with its tiles, not routed yet.

        Raises:
            ConfigError: if tiles shall be compressed but the checkpoint has no router.
            PromptError: if turns or marks and pictures do not match, or the prompt is too long.
        """
        counts = [len(tiles) for tiles in asked.pictures]
        builder = self._find_builder(is_thinking)
        prompt = builder.build(
            asked.messages, counts, assistant_prefix=prefix, tools=tools, has_limit=False
        )
        request = Request(prompt, torch.cat(asked.pictures) if asked.pictures else None)
        self.builder.check_length(fewest_tokens(request, flash, self.model.config))
        return request

    def _find_builder(self, is_thinking: bool | None) -> PromptBuilder:
        if is_thinking is None or is_thinking == self.builder.settings.is_thinking:
            return self.builder
        with self._start:
            if self._other_builder is None:
                settings = replace(self.builder.settings, is_thinking=is_thinking)
                self._other_builder = PromptBuilder(self.tokenizer, settings)
            return self._other_builder

    def _frames(self, video: Video | str | PathLike[str]) -> list[Tensor]:
        chosen = video if isinstance(video, Video) else Video(video)
        found = read_frames(chosen.source, chosen.num_frames, chosen.bound, self.videos)
        one_tile = replace(self.tiles, min_tiles=1, max_tiles=1)
        return [make_pixel_values(frame, one_tile) for frame in found.frames]


def load(
    name: str | PathLike[str] = TINY,
    *,
    dtype: torch.dtype | str = "auto",
    device_map: Any = None,
    system_prompt: str = "official",
    is_thinking: bool = False,
    max_tiles: int | None = None,
    images: ImageSettings = DEFAULT_IMAGES,
    **options: Any,
) -> Chat:
    """Load a checkpoint to chat with.

    Args:
        name: ``tiny`` or ``tiny-flash`` for an embedded checkpoint, a folder, a size such as
            ``8B``, or a hub id.
        dtype: element type of the weights; ``auto`` is the checkpoint's own, and float32 for the
            embedded ones on a CPU.
        device_map: where the parts go, by default all GPUs or the CPU; ``meta``: prompts alone.
        system_prompt: ``official``, ``none``, or a text of your own.
        is_thinking: whether the model is asked to reason before it answers.
        max_tiles: most tiles a picture, thumbnail not counted; by default as the checkpoint says.
        images: how pictures are opened; videos are taken from the same sources.
        **options: ``hub``, ``revision``, ``offline``, ``cache_dir``, ``token`` (see
            :func:`internvl35.model.hub.resolve_checkpoint`); ``load_in_8bit``,
            ``attn_implementation``, ``quantization_config`` and whatever else
            ``VisionLanguageModel.from_pretrained`` takes.

    Returns:
        The chat.

    Raises:
        CheckpointError: if the checkpoint cannot be found or does not fit its config.
    """
    folder = resolve_checkpoint(name, **take_hub_options(options))
    has_gpu = torch.cuda.is_available()
    if dtype == "auto" and str(name) in EMBEDDED and not has_gpu:
        dtype = torch.float32
    if device_map == "meta":
        with torch.device("meta"):
            model = VisionLanguageModel(read_config(folder)[0]).eval()
    else:
        model = VisionLanguageModel.from_pretrained(
            folder, dtype=dtype, device_map=device_map or ("auto" if has_gpu else None), **options
        )
    tiles = model.config.tile_settings
    if max_tiles is not None:
        tiles = replace(tiles, min_tiles=min(tiles.min_tiles, max_tiles), max_tiles=max_tiles)
    prompt = PromptSettings(
        template=model.config.template, system_prompt=system_prompt, is_thinking=is_thinking
    )
    videos = replace(DEFAULT_VIDEOS, source=images.source)
    return Chat(
        model, load_tokenizer(folder), prompt=prompt, tiles=tiles, images=images, videos=videos
    )
