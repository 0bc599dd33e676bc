"""Whether torch can compute on the device that the user names."""

from __future__ import annotations

from mergekit_pcb.errors import PCBError


def require_device(name: str | None, *, multi_gpu: bool = False) -> None:
    """Refuse a device that torch does not know or cannot reach here.

    Args:
        name: such as ``cuda:0``; None for the usual one.
        multi_gpu: whether all accelerators are wanted.

    Raises:
        PCBError: naming the device and the reason.
    """
    if not name and not multi_gpu:
        return
    import torch

    if multi_gpu and torch.accelerator.current_accelerator() is None:
        raise PCBError(
            "torch finds no accelerator here: leave out --multi-gpu or --gpu-rich to "
            "use the processor"
        )
    if not name:
        return
    try:
        torch.empty(1, device=name)
    # A build without CUDA raises AssertionError.
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise PCBError(
            f"torch cannot compute on the device {name} here ({reason}): leave out "
            "--device or --cuda to use the processor"
        ) from error
