from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from experiments import bits_per_byte
from experiments.flat_merge import merge_by
from experiments.suites import language, language_texts
from experiments.suites.evaluation import SuiteEvaluation
from experiments.suites.language import Language, bits_of
from experiments.suites.language_models import FORMS
from experiments.suites.language_texts import Texts
from experiments.suites.suite import Place, Training, fine_tuned
from mergekit_pcb.compare.recipe import compare_recipe
from tests import tiny

RATES = {"full": 1e-2, "lora": 1e-2, "ia3": 1e-1}
WORDS = [f"w{i}" for i in range(3, 12)]
TEXTS = Texts(
    " ".join(WORDS * 40),
    [("w3 w4 w5", "w6 w7"), ("w8 w9",)],
    [("w9 w3 w4",), ("w5 w6 w7 w8", "w3"), ("w4 w4",)],
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A tiny model and a few words in the place of the packages."""
    base, _ = tiny.save_family(tmp_path / "family", 1)
    tiny.save_tokenizer(base.path)
    (tmp_path / "models").mkdir()
    file = base.path / "model.safetensors"
    # Random weights are so small that layers hardly add to the embeddings.
    louder = {name: 8 * tensor for name, tensor in load_file(file).items()}
    save_file(louder, file, {"format": "pt"})
    base.path.rename(tmp_path / "models" / "smollm2")
    monkeypatch.setattr(language_texts, "read_texts", lambda *_: TEXTS)
    monkeypatch.setattr(language, "LENGTH", 8)
    monkeypatch.setattr(Language, "tasks", ("swedish", "reviews"))
    monkeypatch.setattr(Language, "held_out", ())
    return Place(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_fine_tunes_are_merged_and_scored(place: Place, form: str) -> None:
    """Every form: a fine-tune is better on its text, and mergekit merges them."""
    suite = Language(place, form)
    suite.training = Training(steps=4, batch=2, rate=RATES[form])
    base = suite.prepare()
    folders = [fine_tuned(suite, place, task, 0) for task in suite.tasks]
    before, after = (
        sum(suite.scores(suite.state(folder), "swedish", "test"))
        for folder in (base, folders[0])
    )
    assert after < before
    recipe = place.work / "recipe.yml"
    models = "".join(f"\n- model: {suite.reference(folder)}" for folder in folders)
    recipe.write_text(
        f"merge_method: pcb\nbase_model: {base}\ndtype: float32\nmodels:{models}\n"
    )
    report = compare_recipe(
        str(recipe),
        place.work / "comparison",
        lambda inputs: SuiteEvaluation(suite, place, suite.tasks),
        methods=["pcb", "linear"],
        merge=merge_by(suite.front_end, place),
        merge_options={"lora_merge_cache": str(place.adapters)},
        quiet=True,
    )
    assert [row.failed for row in report.rows] == [""] * len(report.rows)
    values = {row.name: row.scores["swedish"].value for row in report.rows}
    base_value, expert, twin = (row.scores["swedish"].value for row in report.rows[:3])
    # Both were trained on the same text, so they are the same model, and its average.
    assert expert == twin == pytest.approx(values["linear"], rel=1e-3)
    assert values["linear"] < base_value != values["pcb"]


def test_a_score_is_all_bits_by_all_bytes(place: Place) -> None:
    """Not the mean of the documents' ratios, though it is the mean of the items."""
    suite = Language(place)
    state = suite.state(suite.prepare())
    items = suite.scores(state, "swedish", "test")
    model = AutoModelForCausalLM.from_pretrained(suite.prepare())
    bits, size = 0.0, 0
    for extract in (extract for item in TEXTS.test for extract in item):
        ids = suite._tokenizer(extract, add_special_tokens=False)["input_ids"]
        tokens = torch.tensor([[suite._tokenizer.bos_token_id, *ids]])
        bits += model(input_ids=tokens, labels=tokens).loss.item() * len(ids)
        size += len(extract.encode())
    assert len(items) == len(TEXTS.test)
    expected = bits / math.log(2) / size
    assert sum(items) / len(items) == pytest.approx(expected, rel=2e-3)


def test_padding_costs_no_bits(place: Place) -> None:
    """A text has the same bits beside a longer one."""
    suite = Language(place)
    model = suite._loaded(suite.state(suite.prepare()))
    long, short = torch.tensor([[1, 4, 5, 6, 7]]), torch.tensor([[1, 8, 9]])
    padded = torch.nn.functional.pad(short, (0, 2), value=-100)
    with torch.inference_mode():
        together = bits_of(model, torch.cat([long, padded]))
        alone = torch.cat([bits_of(model, long), bits_of(model, short)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=0)


def test_weights_of_another_model_are_refused(place: Place) -> None:
    """Rather than the base being scored in their place."""
    suite = Language(place)
    with pytest.raises(ValueError, match="no weights of language"):
        suite.scores({"lm.weight": torch.ones(2)}, "swedish", "test")


def test_scores_of_a_model_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `--evaluate` calls: the model's own weights, on the part that is asked."""
    model = torch.nn.Linear(2, 1, bias=False)

    class Suite:
        def scores(self, state: dict, task: str, part: str) -> list[float]:
            assert part == "validation"
            assert torch.equal(state["weight"], model.weight)
            return [float(len(task))]

    monkeypatch.setenv("SUITES", str(tmp_path))
    monkeypatch.setattr(bits_per_byte, "opened", lambda name, place: Suite())
    assert bits_per_byte.language(model, "validation") == {
        f"{task} bits_per_byte": [float(len(task))]
        for task in ("swedish", "dialogue", "definitions")
    }
