"""How large a merge is, before there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import save_file

from mergekit_pcb.compare import disk
from mergekit_pcb.compare.disk import merged_size
from mergekit_pcb.recipes.models import located
from tests import tiny


def test_the_size_of_a_merge_is_known_before(tmp_path: Path) -> None:
    """It is that of the base, in the dtype that is written."""
    base, _ = tiny.save_family(tmp_path, 1, dtype=tiny.torch.bfloat16)
    values = sum(tensor.numel() for tensor in base.tensors.values())
    assert merged_size(located(str(base.path)), None) == 2 * values
    assert merged_size(located(str(base.path)), "float32") == 4 * values
    nobody = located("nobody/has-this")
    assert merged_size(nobody, None) == 0


def test_a_base_that_was_not_downloaded_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of it is downloaded later: that is no damage."""
    base, _ = tiny.save_family(tmp_path, 1)
    asked = []

    def snapshot(path: str, *, revision: str | None, **options: object) -> str:
        asked.append(options)
        return str(base.path)

    monkeypatch.setattr(disk, "snapshot_download", snapshot)
    model = located("nobody/has-this")
    assert merged_size(model, None, "/cache") > 0
    assert asked == [{"cache_dir": "/cache", "local_files_only": True}]
    (base.path / "model.safetensors").unlink()
    assert merged_size(model, None) == 0


def test_only_what_a_merge_writes_needs_room(tmp_path: Path) -> None:
    """Not what lies beside the index, has an entry only, or is in no merge."""
    weights = tiny.llama_weights()
    values = sum(tensor.numel() for tensor in weights.values())
    # One tensor of another dtype, and one that mergekit knows nothing of.
    weights["lm_head.weight"] = weights["lm_head.weight"].bfloat16()
    weights["model.mtp.weight"] = tiny.torch.ones(100)
    base = tiny.save_llama(tmp_path / "base", weights)
    save_file(weights, base.path / "model.safetensors")
    head = weights["lm_head.weight"].numel()
    model = located(str(base.path))
    assert merged_size(model, None) == 4 * values - 2 * head
    assert merged_size(model, "float32") == 4 * values
    tiny.in_two_shards(tiny.Model(base.path, weights), missing="model.norm.bias")
    save_file(weights, base.path / "consolidated.safetensors")
    assert merged_size(model, "bfloat16") == 2 * values
    for file in base.path.glob("*.safetensors*"):
        file.unlink()
    tiny.torch.save(weights, base.path / "pytorch_model.bin")
    assert merged_size(model, None) == 4 * values - 2 * head
