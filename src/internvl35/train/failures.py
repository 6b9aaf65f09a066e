"""Failures of a run that its user can put right: what happened, and what to do.

Errors of this package say so themselves; here are those that others raise.
"""

from __future__ import annotations

import errno
import re

import torch
from torch import distributed

_NO_MEMORY = ("out of memory", "can't allocate memory", "cublas_status_alloc_failed")
_NO_SHARED_MEMORY = ("shared memory", "</torch_")
_FULL_DISK = {errno.ENOSPC, errno.EDQUOT}


def explain_failure(error: BaseException) -> str | None:
    """Say what a failure means.

    Args:
        error: raised by torch, the operating system or a library.

    Returns:
        What was found and what to do, without an end; None for a failure that is not known.
    """
    text = str(error)
    first = (text.strip().splitlines() or [type(error).__name__])[0]
    lowered = text.lower()
    is_no_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
    if is_no_memory or any(mark in lowered for mark in _NO_MEMORY):
        return (
            f"memory does not suffice ({first}); lower per_device_train_batch_size, max_length or "
            "max_dynamic_patch, keep gradient_checkpointing true, or spread the weights (fsdp "
            "full_shard, quant_bits 4)"
        )
    if any(mark in lowered for mark in _NO_SHARED_MEMORY):
        return (
            f"shared memory does not suffice for the processes that prepare rows ({first}); give "
            "more of it (of a container, --shm-size) or lower dataloader_num_workers"
        )
    if re.search(r"DataLoader worker \(pid", text):
        return (
            f"a process that prepares rows has ended ({first}), perhaps for lack of memory; lower "
            "dataloader_num_workers, 0 prepares rows in the trainer itself"
        )
    if getattr(error, "errno", None) in _FULL_DISK or "no space left on device" in lowered:
        return f"the disk is full ({first}); free space"
    if is_consequence(error):
        return f"another process of the run has ended or does not answer ({first}); see its message"
    return None


def is_consequence(error: BaseException) -> bool:
    """Whether a failure only follows from that of another process."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error).lower()
