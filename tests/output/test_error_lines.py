"""What is expected to go wrong below a command becomes one line."""

from __future__ import annotations

import huggingface_hub
import pytest

from mergekit_pcb.errors import PCBError
from mergekit_pcb.output.error_lines import one_line_errors


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its client is called in this version."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    api = huggingface_hub.HfApi(endpoint="http://127.0.0.1:9")
    with (
        pytest.raises(PCBError, match="refused"),
        one_line_errors("recipe.yml", verbose=False),
    ):
        api.model_info("org/model")
