"""Failures of others in words of one's own, and those that are not known left alone."""

import errno

import pytest
import torch
from safetensors import SafetensorError
from torch import distributed

from internvl35.train.failures import explain_failure


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "2 GiB"),
        (RuntimeError("CUDA error: out of memory\nCompile with ..."), "(CUDA error: out of"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "per_device_train_batch"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "quant_bits 4"),
        (MemoryError(), "(MemoryError)"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "has ended"),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "num_workers"),
        (
            RuntimeError("unable to write to file </torch_7_1>: No space left on device (28)"),
            "--shm-size",
        ),
        (
            RuntimeError(
                "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that "
                "dataloader's workers are out of shared memory."
            ),
            "shared memory does not suffice",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (distributed.DistBackendError("NCCL error"), "another process of the run has ended"),
        (RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer"), "see its message"),
    ],
)
def test_a_failure_that_the_user_can_put_right_is_explained(error, found):
    reason = explain_failure(error)
    assert reason is not None
    assert found in reason
    assert "\n" not in reason


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
        RuntimeError("Caught KeyError in DataLoader worker process 0.\nOriginal Traceback"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
    ],
)
def test_any_other_failure_is_left_alone(error):
    assert explain_failure(error) is None
