"""A device that torch cannot use is named before any work begins."""

from __future__ import annotations

import pytest
import torch

from mergekit_pcb.errors import PCBError
from mergekit_pcb.output.device import require_device


@pytest.mark.parametrize("name", ["nosuch", "cuda:99"])
def test_a_device_that_cannot_be_used(name: str) -> None:
    """Whether torch does not know it, or has no driver, or was built without it."""
    with pytest.raises(PCBError) as caught:
        require_device(name)
    line = caught.value.message
    assert line.startswith(f"torch cannot compute on the device {name} here (")
    assert line.endswith("leave out --device or --cuda to use the processor")
    assert "\n" not in line


def test_devices_that_can_be_used() -> None:
    """The usual one, and the processor; nothing changes the default."""
    require_device(None)
    require_device("cpu")
    assert torch.empty(1).device.type == "cpu"


def test_several_accelerators_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else mergekit asks for the kind of what is not there."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    with pytest.raises(PCBError, match="leave out --multi-gpu or --gpu-rich"):
        require_device(None, multi_gpu=True)
