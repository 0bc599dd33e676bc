"""Merged copies of adapters: made anew when they are not whole or not current."""

from __future__ import annotations

import shutil
from pathlib import Path

import peft
import pytest
import torch
import transformers
from mergekit.common import ModelReference
from mergekit.options import MergeOptions
from safetensors.torch import load_file

from mergekit_pcb.errors import PCBError
from mergekit_pcb.plugin.adapters import merge_adapters
from tests.tiny import save_family, save_tokenizer


def train_adapter(base: Path, folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.1)
    model.save_pretrained(folder)


@pytest.fixture
def adapter(tmp_path: Path) -> tuple[ModelReference, MergeOptions]:
    base, _ = save_family(tmp_path, 0)
    save_tokenizer(base.path)
    train_adapter(base.path, tmp_path / "lora", 0)
    model = ModelReference.parse(f"{base.path}+{tmp_path}/lora")
    return model, MergeOptions(lora_merge_cache=str(tmp_path / "cache"))


def merged(model: ModelReference, options: MergeOptions) -> Path:
    """The copy that mergekit finds."""
    merge_adapters([model], options)
    return Path(model.merged(options.lora_merge_cache).model.path)


def weights(folder: Path) -> torch.Tensor:
    return load_file(folder / "model.safetensors")[
        "model.layers.0.self_attn.q_proj.weight"
    ]


def test_a_current_copy_is_used_again(
    adapter: tuple[ModelReference, MergeOptions],
) -> None:
    """It is made once, with a tokenizer that transformers loads."""
    first = merged(*adapter)
    made = (first / "model.safetensors").stat().st_mtime_ns
    assert merged(*adapter) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == made
    assert len(transformers.AutoTokenizer.from_pretrained(first)) == 64
    assert [path.name for path in first.parent.iterdir()] == [first.name]


def test_an_adapter_trained_again(adapter: tuple[ModelReference, MergeOptions]) -> None:
    """The copy of the earlier adapter is replaced."""
    model, options = adapter
    before = weights(merged(model, options))
    train_adapter(Path(model.model.path), Path(model.lora.path), 1)
    assert not torch.equal(weights(merged(model, options)), before)


@pytest.mark.parametrize("damage", ["empty folder", "cut off", "by another program"])
def test_a_copy_that_is_not_whole(
    damage: str, adapter: tuple[ModelReference, MergeOptions]
) -> None:
    """What an interrupted run has left is not used."""
    folder = merged(*adapter)
    expected = weights(folder)
    if damage == "empty folder":
        shutil.rmtree(folder)
        folder.mkdir()
    elif damage == "cut off":
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-50])
    else:
        (folder / "mergekit_pcb_origin.json").unlink()
    assert torch.equal(weights(merged(*adapter)), expected)


def test_a_damaged_adapter_is_named(
    adapter: tuple[ModelReference, MergeOptions],
) -> None:
    """And no copy is made of it."""
    model, options = adapter
    file = Path(model.lora.path, "adapter_model.safetensors")
    file.write_bytes(b"")
    with pytest.raises(PCBError, match=r"lora/adapter_model.safetensors is empty"):
        merge_adapters([model], options)
    assert not Path(options.lora_merge_cache).exists()


def test_without_a_cache(adapter: tuple[ModelReference, MergeOptions]) -> None:
    """The option is named."""
    with pytest.raises(PCBError, match="give --lora-merge-cache DIR"):
        merge_adapters([adapter[0]], MergeOptions())


def test_what_a_killed_run_left_is_removed(
    adapter: tuple[ModelReference, MergeOptions],
) -> None:
    """A half-made copy, as large as a model, does not stay in the cache for ever."""
    model, options = adapter
    folder = merged(model, options)
    left = folder.with_name(f".{folder.name}.unfinished-x")
    left.mkdir()
    (left / ".lock").touch()
    (left / "model.safetensors").write_text("half")
    shutil.rmtree(folder)
    merged(model, options)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_copy_has_the_chat_template(
    adapter: tuple[ModelReference, MergeOptions],
) -> None:
    """Which transformers writes as a file of its own."""
    template = "{{ 'hello' }}{{ messages }}"
    base = Path(adapter[0].model.path)
    (base / "chat_template.jinja").write_text(template)
    tokenizer = transformers.AutoTokenizer.from_pretrained(merged(*adapter))
    assert tokenizer.chat_template == template
