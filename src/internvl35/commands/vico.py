"""``internvl35 vico``: makes a Flash model of any model, in two stages.

Flags are those of ``sft`` and a few more; training is left to :mod:`internvl35.train.vico`. Paper
section 2.3.
"""

from __future__ import annotations

from internvl35.commands.finetune import run_finetuning
from internvl35.commands.flags import GivenFlags, spread_flags
from internvl35.train.vico_settings import VicoRunSettings


@spread_flags(VicoRunSettings)
def vico(flags: GivenFlags) -> None:
    """Teach a model to see tiles with fewer visual tokens (ViCO).

    First internvl35 vico --stage consistency --model 8B --dataset mine.jsonl, which makes a Flash
    model of any model; then internvl35 vico --stage router --model CHECKPOINT --dataset
    mine.jsonl, which teaches its router. Rows are those of sft, and so are all other flags, but
    the loss is the mean over all tokens (--loss_reduction token). Checkpoints hold all weights,
    adapters merged.
    """
    run_finetuning("vico", flags, None)
