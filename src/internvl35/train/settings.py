"""Every setting of a fine-tuning run, in groups of frozen dataclasses that need no torch.

Field names are the command line's flag names, each of which exists once over all groups. Reading
them from a file or a command line is left to :mod:`internvl35.train.arguments` and
:mod:`internvl35.commands.flags`, what follows from them to :mod:`internvl35.train.resolution`.
Paper section 2.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from internvl35.config import TINY
from internvl35.data.dataset_settings import DatasetSettings
from internvl35.data.encoding import EncodingSettings
from internvl35.data.packing_settings import PackingSettings
from internvl35.errors import ConfigError

Averaging = Literal["token", "sample", "square"]
"""Weight of a token of a sample with n supervised tokens: 1, 1/n or 1/sqrt(n)."""

ScheduleName = Literal["cosine", "linear", "constant", "wsd"]
"""Course of the learning rate; see :class:`internvl35.train.schedule.Schedule`."""

Interval = Literal["steps", "epoch", "no"]
"""When something happens: every so many steps, after every epoch, or only at the end."""

SECRET = "secret"
"""Key of a field's metadata; a field that bears it is never written into a file."""


def _check(owner: Any, rules: Mapping[str, tuple[bool, str]]) -> None:
    for name, (is_right, needed) in rules.items():
        if not is_right:
            raise ConfigError(f"{name} is {getattr(owner, name)!r}; needed: {needed}")


@dataclass(frozen=True)
class ModelSettings:
    """Which checkpoint is trained, and in which number format."""

    model: str = TINY
    """Checkpoint: tiny (embedded), a folder, a released size such as 8B, or a hub's owner/name."""
    model_revision: str | None = None
    """Branch, tag or commit of the checkpoint on the hub."""
    torch_dtype: Literal["bfloat16", "float16", "float32"] | None = None
    """Number format of the weights; by default the checkpoint's own."""
    attn_impl: Literal["eager", "sdpa", "flash_attn"] | None = None
    """Attention kernel; by default sdpa, and flash_attn for packs where it is installed."""
    hub_token: str | None = field(default=None, metadata={SECRET: True})
    """Access token of the hub for gated or private checkpoints and data; never put into a file."""

    def __post_init__(self) -> None:
        """Refuse a model without a name."""
        _check(self, {"model": (bool(self.model), "a checkpoint, for example tiny or 8B")})


@dataclass(frozen=True)
class AdapterSettings:
    """Whether adapters or all weights are trained, and what the adapters are."""

    tuner_type: Literal["lora", "full"] = "lora"
    """lora trains adapters beside frozen weights, full trains the weights themselves."""
    lora_rank: int = 8
    """Rank of the adapters."""
    lora_alpha: int = 32
    """Scale of the adapters: their output is multiplied by alpha / rank."""
    lora_dropout: float = 0.05
    """Share of an adapter's inputs that is dropped while it learns, 0 to below 1."""
    target_modules: tuple[str, ...] = ("all-linear",)
    """Layers that get adapters: names, or all-linear for every linear layer of the parts that are
    not frozen, the output head excepted."""
    modules_to_save: tuple[str, ...] = ()
    """Modules that are trained as a whole and saved beside the adapters."""
    use_dora: bool = False
    """Learn size and direction of the weights apart (DoRA)."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(rank) instead, which suits high ranks."""
    init_weights: str = "true"
    """How adapters begin: true (no change at first), false (random), gaussian, pissa or olora."""
    adapters: tuple[str, ...] = ()
    """Adapter folders to begin from: the first is trained on, all others are merged before it."""
    quant_bits: Literal[4, 8] | None = None
    """Load the frozen weights in so many bits (QLoRA; needs the extra internvl35[int8])."""
    quant_method: Literal["bnb"] = "bnb"
    """Library that quantises: bnb is bitsandbytes."""

    def __post_init__(self) -> None:
        """Refuse adapters that could not exist."""
        _check(
            self,
            {
                "lora_rank": (self.lora_rank >= 1, "at least 1"),
                "lora_alpha": (self.lora_alpha >= 1, "at least 1"),
                "lora_dropout": (0 <= self.lora_dropout < 1, "0 to below 1"),
                "target_modules": (bool(self.target_modules), "at least one name, or all-linear"),
                "init_weights": (
                    self.init_weights in {"true", "false", "gaussian", "pissa", "olora"},
                    "true, false, gaussian, pissa or olora",
                ),
                "quant_bits": (
                    self.quant_bits is None or self.tuner_type == "lora",
                    "none for tuner_type full, since quantised weights cannot be trained",
                ),
                "adapters": (
                    not self.adapters or self.tuner_type == "lora",
                    "none for tuner_type full; merge them first with "
                    "internvl35 export --merge_lora true",
                ),
            },
        )


@dataclass(frozen=True)
class FreezeSettings:
    """Which parts keep their weights; adapters are not put there either."""

    freeze_vit: bool = True
    """Keep the vision tower as it is."""
    freeze_aligner: bool = True
    """Keep the projector as it is."""
    freeze_llm: bool = False
    """Keep the language model as it is."""


@dataclass(frozen=True)
class OptimizationSettings:
    """How long, how fast and on what a run learns."""

    num_train_epochs: float = 3.0
    """Passes over the training data, fractions allowed; max_steps goes before it."""
    max_steps: int = -1
    """Optimizer steps in all; -1 follows num_train_epochs."""
    per_device_train_batch_size: int = 1
    """Rows (packs, with packing) of one forward pass on one device."""
    per_device_eval_batch_size: int = 1
    """Rows of one forward pass of the evaluation on one device."""
    gradient_accumulation_steps: int | None = None
    """Forward passes a step; by default as many as bring 16 rows together over all processes."""
    global_batch_size: int | None = None
    """Rows (packs) a step over all processes, in place of gradient_accumulation_steps."""
    learning_rate: float | None = None
    """Peak learning rate; by default 1e-4 for adapters and 1e-5 for full training."""
    vit_lr: float | None = None
    """Peak learning rate of the vision tower; by default learning_rate."""
    aligner_lr: float | None = None
    """Peak learning rate of the projector; by default learning_rate."""
    lr_scheduler_type: ScheduleName = "cosine"
    """Course of the learning rate after the warm-up; wsd holds it, then falls to zero."""
    wsd_decay_ratio: float = 0.2
    """Last share of the run over which wsd falls, above 0 to 1."""
    warmup_ratio: float = 0.0
    """First share of the run over which the learning rate rises from zero, 0 to below 1."""
    warmup_steps: int = 0
    """The same in steps; above 0 it goes before warmup_ratio."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices; vectors have none."""
    adam_beta1: float = 0.9
    """Decay rate of AdamW's first moment, 0 to below 1."""
    adam_beta2: float = 0.95
    """Decay rate of AdamW's second moment, 0 to below 1."""
    adam_epsilon: float = 1e-8
    """What AdamW adds to the root of the second moment."""
    max_grad_norm: float = 1.0
    """Largest norm of the whole gradient; 0 for no limit."""
    optim: Literal["adamw", "muon"] = "adamw"
    """Optimizer; muon takes hidden matrices to Muon and the rest to AdamW."""
    loss_reduction: Averaging = "square"
    """Weight of a token of a sample with n targets: token 1, sample 1/n, square 1/sqrt(n)."""
    router_aux_loss_coef: float = 0.0
    """Weight of the loss that spreads tokens over the experts of a mixture; -1 for the weight that
    the checkpoint's config names."""
    gradient_checkpointing: bool = True
    """Compute activations twice instead of keeping them: less memory, about a third more time."""
    drop_path_rate: float = 0.0
    """Share of samples that skip a layer of the vision tower, rising to this at the last layer."""
    ce_chunk_size: int = 1024
    """Positions whose logits are in memory at once."""
    group_by_length: bool = False
    """Put rows of like length into a batch."""
    seed: int = 42
    """Seed of adapters, dropout and the order of rows."""

    def __post_init__(self) -> None:
        """Refuse a run that could not take a step."""
        rates = ("learning_rate", "vit_lr", "aligner_lr")
        sizes = ("gradient_accumulation_steps", "global_batch_size")
        at_least_one = {
            name: (getattr(self, name) >= 1, "at least 1")
            for name in ("per_device_train_batch_size", "per_device_eval_batch_size",
                         "ce_chunk_size")
        }  # fmt: skip
        not_negative = {
            name: (getattr(self, name) >= 0, "0 or more")
            for name in ("warmup_steps", "weight_decay", "max_grad_norm", "seed")
        }
        below_one = {
            name: (0 <= getattr(self, name) < 1, "0 to below 1")
            for name in ("warmup_ratio", "adam_beta1", "adam_beta2", "drop_path_rate")
        }
        or_none = {
            name: (getattr(self, name) is None or getattr(self, name) > 0, "above 0")
            for name in rates + sizes
        }
        _check(
            self,
            {
                "num_train_epochs": (self.num_train_epochs > 0, "above 0"),
                "max_steps": (self.max_steps == -1 or self.max_steps >= 1, "at least 1, or -1"),
                "wsd_decay_ratio": (0 < self.wsd_decay_ratio <= 1, "above 0, at most 1"),
                "adam_epsilon": (self.adam_epsilon > 0, "above 0"),
                "router_aux_loss_coef": (
                    self.router_aux_loss_coef == -1 or self.router_aux_loss_coef >= 0,
                    "0 or more, or -1",
                ),
            }
            | at_least_one
            | not_negative
            | below_one
            | or_none,
        )
        if self.gradient_accumulation_steps is not None and self.global_batch_size is not None:
            raise ConfigError(
                f"gradient_accumulation_steps is {self.gradient_accumulation_steps} and "
                f"global_batch_size is {self.global_batch_size}; they say the same, give one"
            )


@dataclass(frozen=True)
class RunSettings:
    """What a run leaves behind, how often, and where it goes on."""

    output_dir: str | None = None
    """Folder of run folders; by default output/ and the model's name."""
    add_version: bool = True
    """Put the run into a folder of its own inside output_dir, vN-YYYYMMDD-HHMMSS."""
    logging_steps: int = 5
    """Steps between two lines of figures, each the mean since the one before."""
    logging_first_step: bool = True
    """Write a line after the very first step too."""
    eval_strategy: Interval | None = None
    """When the validation rows are measured: steps, epoch or no; by default as save_strategy."""
    eval_steps: int | None = None
    """Steps between two evaluations; by default save_steps."""
    save_strategy: Interval = "steps"
    """When a checkpoint is written: steps, epoch or no; one at the end there is always."""
    save_steps: int = 500
    """Steps between two checkpoints."""
    save_total_limit: int | None = None
    """Checkpoints that are kept, the best and the last always among them; by default all."""
    save_only_model: bool = False
    """Leave out of checkpoints what only resuming needs (optimizer, random numbers)."""
    save_layout: Literal["hf", "remote-code"] | None = None
    """Layout of checkpoints with all weights; by default that of the checkpoint begun from."""
    resume_from_checkpoint: str | None = None
    """Checkpoint folder of a run, or run folder for its last checkpoint, to go on from."""
    resume_only_model: bool = False
    """Take only the weights from there, and begin at step 0."""
    report_to: tuple[str, ...] = ("tensorboard",)
    """Where figures go beside logging.jsonl: tensorboard, or none."""
    create_checkpoint_symlink: bool = False
    """Keep links named best and last in the run folder."""
    dataloader_num_workers: int | None = None
    """Processes that prepare batches; 0 prepares them in the trainer itself, by default 1."""

    def __post_init__(self) -> None:
        """Refuse intervals and limits that no run could keep."""
        limits = ("eval_steps", "save_total_limit")
        workers = self.dataloader_num_workers
        _check(
            self,
            {
                "logging_steps": (self.logging_steps >= 1, "at least 1"),
                "save_steps": (self.save_steps >= 1, "at least 1"),
                "dataloader_num_workers": (workers is None or workers >= 0, "0 or more"),
                "output_dir": (self.output_dir != "", "a folder"),
                "report_to": (
                    set(self.report_to) <= {"tensorboard"} or self.report_to == ("none",),
                    "tensorboard or none",
                ),
                "resume_only_model": (
                    not self.resume_only_model or self.resume_from_checkpoint is not None,
                    "resume_from_checkpoint too",
                ),
            }
            | {
                name: (getattr(self, name) is None or getattr(self, name) >= 1, "at least 1")
                for name in limits
            },
        )


@dataclass(frozen=True)
class DistributedSettings:
    """How several devices share the work; how many there are is torchrun's business."""

    fsdp: Literal["", "full_shard"] = ""
    """full_shard spreads weights, gradients and moments over all processes (FSDP2)."""
    deepspeed: str | None = None
    """DeepSpeed in place of FSDP: zero0 to zero3, or a JSON file (needs deepspeed installed)."""
    ddp_timeout: int = 1800
    """Seconds that a process waits for the others, or for what one of them downloads, before it
    gives up."""
    use_cpu: bool = False
    """Compute on the CPU even where there is a GPU."""

    def __post_init__(self) -> None:
        """Refuse two ways of spreading at once."""
        stages = {f"zero{stage}" for stage in range(4)}
        is_known = (
            self.deepspeed is None or self.deepspeed in stages or self.deepspeed.endswith(".json")
        )
        _check(
            self,
            {
                "ddp_timeout": (self.ddp_timeout >= 1, "at least 1 second"),
                "deepspeed": (is_known, "zero0, zero1, zero2, zero3 or a JSON file"),
            },
        )
        if self.fsdp and self.deepspeed:
            raise ConfigError(
                f"fsdp is {self.fsdp!r} and deepspeed is {self.deepspeed!r}; drop one of them"
            )


@dataclass(frozen=True)
class FinetuneSettings:
    """All settings of a run of ``sft`` or ``pt``."""

    model: ModelSettings = field(default_factory=ModelSettings)
    """Which checkpoint is trained."""
    dataset: DatasetSettings = field(default_factory=DatasetSettings)
    """Which rows are trained on and evaluated on."""
    encoding: EncodingSettings = field(default_factory=EncodingSettings)
    """How rows become tokens and tiles."""
    packing: PackingSettings = field(default_factory=PackingSettings)
    """Whether rows share packs."""
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    """Adapters, or all weights."""
    freeze: FreezeSettings = field(default_factory=FreezeSettings)
    """Which parts stay as they are."""
    optimization: OptimizationSettings = field(default_factory=OptimizationSettings)
    """How it learns."""
    run: RunSettings = field(default_factory=RunSettings)
    """What it leaves behind."""
    distributed: DistributedSettings = field(default_factory=DistributedSettings)
    """How several devices share the work."""

    @property
    def trains_own_parts(self) -> bool:
        """Whether something trains that no setting freezes."""
        return False

    def __post_init__(self) -> None:
        """Refuse groups that contradict each other."""
        freeze, rates = self.freeze, self.optimization
        for rate, part in (("vit_lr", "freeze_vit"), ("aligner_lr", "freeze_aligner")):
            if getattr(rates, rate) is not None and getattr(freeze, part):
                raise ConfigError(
                    f"{rate} is {getattr(rates, rate)} but {part} is true, so nothing learns at "
                    f"that rate; set {part} to false or drop {rate}"
                )
        is_all_frozen = freeze.freeze_vit and freeze.freeze_aligner and freeze.freeze_llm
        has_others = self.trains_own_parts and self.adapter.tuner_type == "full"
        names_others = self.adapter.target_modules != ("all-linear",)
        if is_all_frozen and not has_others and not names_others:
            raise ConfigError(
                "freeze_vit, freeze_aligner and freeze_llm are all true, so nothing would be "
                "trained; set one of them to false"
            )
        if self.packing.packing and self.optimization.group_by_length:
            raise ConfigError(
                "packing and group_by_length are both true; packs are of like length already, drop "
                "group_by_length"
            )
