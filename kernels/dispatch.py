"""Chooses Triton or torch for each call.

`STROP_KERNELS` is read at every call:
  auto (default)  Triton for CUDA tensors on compute capability 8.0 or newer if the op passed its self-check, else torch
  triton          Triton or an error: never a silent fallback
  torch           the torch reference everywhere
  interpret       Triton's interpreter on CPU tensors: for tests; needs TRITON_INTERPRET=1 before triton is imported
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from typing import Literal, get_args

import torch

Mode = Literal["auto", "triton", "torch", "interpret"]
OLDEST_CAPABILITY = (8, 0)  # bf16 tensor cores and cp.async


def mode() -> Mode:
    """The value of `STROP_KERNELS`.

    Raises:
        ValueError: the variable holds something else than auto, triton, torch or interpret.
    """
    value = os.environ.get("STROP_KERNELS", "auto")
    for known in get_args(Mode):
        if value == known:
            return known  # type: ignore[no-any-return]
    raise ValueError(f"STROP_KERNELS={value!r}: use one of {', '.join(get_args(Mode))}")


@cache
def has_triton() -> bool:
    """Whether the triton package is installed."""
    return importlib.util.find_spec("triton") is not None


def use_triton(op: str, tensor: torch.Tensor) -> bool:
    """Whether `op` on `tensor` goes to its Triton kernel.

    Raises:
        RuntimeError: `STROP_KERNELS=triton` or `interpret` asks for what this process cannot do.
    """
    chosen = mode()
    if chosen == "torch":
        return False
    if chosen == "interpret":
        return _interpretable(tensor)
    if chosen == "auto":
        return supported(tensor) and _healthy(op, tensor.device)
    if not supported(tensor):
        raise RuntimeError(f"STROP_KERNELS=triton: {op} got a tensor on {tensor.device}, or triton is not installed")
    return True


def supported(tensor: torch.Tensor) -> bool:
    """Whether the tensor's device can run the compiled kernels."""
    if not (tensor.is_cuda and has_triton()):
        return False
    return torch.cuda.get_device_capability(tensor.device) >= OLDEST_CAPABILITY


def _interpretable(tensor: torch.Tensor) -> bool:
    if not interpreted():
        raise RuntimeError("STROP_KERNELS=interpret needs triton, and TRITON_INTERPRET=1 before the process starts")
    return tensor.device.type == "cpu"


def interpreted() -> bool:
    """Whether Triton's kernels run in its interpreter in this process."""
    if not has_triton():
        return False
    import triton

    return bool(triton.knobs.runtime.interpret)


def _healthy(op: str, device: torch.device) -> bool:
    from strop.kernels.self_check import check

    return check(op, str(device)).ok
