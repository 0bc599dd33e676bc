"""What a search cannot do is one line that names the cause, before any candidate."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from mergekit_pcb.search.command import search
from mergekit_pcb.search.mapped import GrowingFile
from tests import tiny
from tests.search import families

FUNCTION = """
def constant(folder):
    return {"loss": 1.0}
"""


@pytest.fixture
def constant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The options for an evaluation that nothing is wrong with."""
    name = f"bad_input_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(FUNCTION)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return "--evaluate", f"{name}:constant"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--budget", "20", "--bounds", "1.2", "3"),
            "--bounds 1.2 3 exclude the start",
        ),
        (("--budget", "20", "--bounds", "nan", "3"), "the lower one first"),
        (("--budget", "20", "--bounds", "3", "0.5"), "the lower one first"),
        (("--budget", "20", "--bounds", "0.5", "inf"), "the lower one first"),
        (("--budget", "5"), "--budget 5 is less than one population of 6"),
        (("--budget", "8", "--per-group", "kind"), "less than one population of 9"),
    ],
)
def test_budgets_that_no_search_can_begin_with(
    tmp_path: Path, constant: tuple[str, str], options: tuple[str, ...], message: str
) -> None:
    """Bounds and budget are looked at first."""
    pytest.importorskip("cma")
    file, _ = families.language_models(tmp_path)
    result = tiny.invoke(search, file, "--out", tmp_path / "out", *constant, *options)
    assert message in tiny.error_line(result)
    assert not (tmp_path / "out" / "candidates.jsonl").exists()


def test_groups_are_of_weights(tmp_path: Path) -> None:
    """Without a budget there are no weights to find."""
    file, _ = families.language_models(tmp_path)
    result = tiny.invoke(search, file, "--out", tmp_path, "--per-group", "depth")
    assert result.exit_code == 2
    assert "give --budget N as well" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--bounds", "1.5", "3"), "--bounds is about weights"),
        (("--limit", "5"), "--limit is for --tasks"),
        (("--lower-is-better", "acc"), "--lower-is-better is for --evaluate"),
        (("--evaluate", "a:b", "--count", "5"), "--count is for --agreement"),
        (("--seed", "-1"), "-1 is not in the range"),
        (("--seed", "5000000000"), "is not in the range"),
    ],
)
def test_options_that_would_do_nothing(
    tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    """They are refused, and not taken for something else."""
    (tmp_path / "r.yml").write_text("merge_method: pcb")
    result = tiny.invoke(search, tmp_path / "r.yml", "--out", tmp_path / "o", *options)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "o").exists()


def test_slices_of_fewer_layers_are_refused(
    tmp_path: Path, constant: tuple[str, str]
) -> None:
    """What would be scored has the base's other layers, and the merge has not."""
    _, (base, *tuned) = families.language_models(tmp_path)
    sources = [
        {"model": str(model.path), "layer_range": [0, 1]} for model in (base, *tuned)
    ]
    recipe = {
        "merge_method": "pcb",
        "base_model": str(base.path),
        "slices": [{"sources": sources}],
    }
    file = tiny.write_recipe(recipe, tmp_path / "slices.yml")
    result = tiny.invoke(search, file, "--out", tmp_path / "out", *constant)
    line = tiny.error_line(result)
    assert "merges no model.layers.1." in line
    assert "search takes recipes that merge whole models" in line


def test_a_report_of_an_earlier_search_goes(
    tmp_path: Path, constant: tuple[str, str]
) -> None:
    """If another search stops in its folder, nothing looks like its result."""
    file, _ = families.language_models(tmp_path)
    out = tmp_path / "out"
    assert tiny.invoke(search, file, "--out", out, *constant).exit_code == 0
    assert (out / "best.yml").exists()
    module = constant[1].partition(":")[0]
    source = tmp_path / f"{module}_nan.py"
    source.write_text("def bad(folder):\n    return {'loss': float('nan')}\n")
    result = tiny.invoke(search, file, "--out", out, "--evaluate", f"{source.stem}:bad")
    assert "3 candidates in a row" in tiny.error_line(result)
    left = {path.name for path in out.iterdir()}
    assert not left & {"best.yml", "search.html", "search.md", "search.json"}


def test_a_gradient_is_spoken_of_once(
    tmp_path: Path, constant: tuple[str, str]
) -> None:
    """It keeps its form: only factors on it are tuned."""
    pytest.importorskip("cma")
    _, (base, *tuned) = families.language_models(tmp_path)
    recipe = tiny.recipe_of(base, tuned, parameters={"weight": [0.5, 1.0]})
    file = tiny.write_recipe(recipe, tmp_path / "gradient.yml")
    options = (*constant, "--budget", "6")
    result = tiny.invoke(search, file, "--out", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    log = (tmp_path / "out" / "log.txt").read_text()
    assert log.count("what is tuned are factors on it") == 1


def test_damaged_weights_are_named(tmp_path: Path, constant: tuple[str, str]) -> None:
    """NaN in an expert: which, and in which tensor."""
    file, (_, expert, *_) = families.language_models(tmp_path)
    tensors = dict(expert.tensors)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].clone()
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, expert.path / "model.safetensors", metadata={"format": "pt"})
    result = tiny.invoke(search, file, "--out", tmp_path / "out", *constant)
    line = tiny.error_line(result)
    assert "tuned0 holds NaN or infinity in model.norm.weight" in line


def test_a_full_disk_is_named(
    tmp_path: Path, constant: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While contributions are written: nothing of them stays."""
    file, _ = families.language_models(tmp_path)
    append = GrowingFile.append

    def full(self: GrowingFile, array: Any) -> int:
        if "contributions" in self._file.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return append(self, array)

    monkeypatch.setattr(GrowingFile, "append", full)
    out = tmp_path / "out"
    result = tiny.invoke(search, file, "--out", out, *constant, "--quiet")
    assert "No space left on device" in tiny.error_line(result)
    assert not list(out.rglob("contributions*"))
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    result = tiny.invoke(search, file, "--out", out, *constant, "--quiet")
    assert result.exit_code == 0, result.output


def test_experts_of_other_tokens_are_refused(tmp_path: Path) -> None:
    """Agreement compares logits, so vocabularies must be the base's."""
    _, (base, expert, _) = families.language_models(tmp_path)
    weights = tiny.llama_weights(vocab=70, head=False)
    other = tiny.save_llama(tmp_path / "other", weights)
    tiny.save_tokenizer(other.path, [f"new{i}" for i in range(6)])
    recipe = tiny.recipe_of(base, [expert, other], tokenizer={"source": "base"})
    file = tiny.write_recipe(recipe, tmp_path / "other.yml")
    result = tiny.invoke(search, file, "--out", tmp_path / "out")
    line = tiny.error_line(result)
    assert line.startswith("other has 70 tokens and the base 64")
    assert not (tmp_path / "out" / "candidates.jsonl").exists()


def test_experts_of_the_same_tokens_in_another_order_are_refused(
    tmp_path: Path,
) -> None:
    """Their logits at a number are about another token than the base's."""
    _, (base, *tuned) = families.language_models(tmp_path)
    tokenizer = tuned[0].path / "tokenizer.json"
    content = json.loads(tokenizer.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["w30"], vocabulary["w31"] = vocabulary["w31"], vocabulary["w30"]
    tokenizer.write_text(json.dumps(content))
    recipe = tiny.recipe_of(base, tuned, tokenizer={"source": "base"})
    file = tiny.write_recipe(recipe, tmp_path / "order.yml")
    line = tiny.error_line(tiny.invoke(search, file, "--out", tmp_path / "out"))
    assert line.startswith("2 of 64 tokens have another number in tuned0")
    assert not (tmp_path / "out" / "candidates.jsonl").exists()


def test_heads_of_other_labels_are_refused(tmp_path: Path) -> None:
    """Classifiers must have the labels of the base."""
    models = tiny.save_classifiers(tmp_path, [False, False, False])
    for number, model in enumerate(models):
        tiny.save_tokenizer(model.path)
        labels = {str(i): f"label {i} of {max(number, 1)}" for i in range(90)}
        families.configure(model, id2label=labels, label2id={})
    base, *tuned = models
    file = tiny.write_recipe(tiny.recipe_of(base, tuned), tmp_path / "r.yml")
    inputs = families.inputs(tmp_path / "in.txt")
    ways = [word for i in (1, 2) for word in ("--inputs", f"{i}={inputs}")]
    result = tiny.invoke(search, file, "--out", tmp_path / "out", *ways)
    assert tiny.error_line(result).startswith("the head of 2 has other labels")


def test_inputs_without_a_prediction_are_too_few(tmp_path: Path) -> None:
    """One token alone predicts nothing, where no token begins a text."""
    file, models = families.language_models(tmp_path)
    for model in models:
        config = model.path / "tokenizer_config.json"
        kept = json.loads(config.read_text())
        kept = {k: v for k, v in kept.items() if k not in ("bos_token", "eos_token")}
        config.write_text(json.dumps(kept))
    out = tmp_path / "out"
    result = tiny.invoke(search, file, "--out", out)
    assert "no token for the beginning of a text" in tiny.error_line(result)
    words = tmp_path / "words.txt"
    words.write_text("\n".join(f"w{i}" for i in range(30, 40)))
    ways = [word for i in (0, 1) for word in ("--inputs", f"tuned{i}={words}")]
    line = tiny.error_line(tiny.invoke(search, file, "--out", out, *ways))
    assert "words.txt: 0 of 10 inputs have two tokens or more" in line
    twice = ("--inputs", f"tuned0={words}") * 2
    result = tiny.invoke(search, file, "--out", out, *twice)
    assert "tuned0 has two files" in result.output
