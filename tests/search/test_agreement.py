"""KL(expert || merged): its value, its items, and what it refuses."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from mergekit_pcb.compare.evaluation import ALL, TEST, VALIDATION
from mergekit_pcb.compare.loading import load_model
from mergekit_pcb.errors import PCBError
from mergekit_pcb.search.agreement import Agreement
from mergekit_pcb.search.mapped import mapped
from mergekit_pcb.search.texts import SKIPPED, generated, lines_of
from tests import tiny
from tests.search import families


def agreement(models: list[tiny.Model], scratch: Path, **more: Any) -> Agreement:
    base, *tuned = models
    experts: dict[str, Callable[[], Path]] = {
        f"tuned{i}": partial(Path, model.path) for i, model in enumerate(tuned)
    }
    settings = {"files": {}, "count": 4, "seed": 0, **more}
    return Agreement(base.path, experts, device="cpu", scratch=scratch, **settings)


def no_progress(_: float) -> None:
    pass


def test_an_expert_agrees_with_itself_and_the_base_less(tmp_path: Path) -> None:
    """On generated texts: no divergence from itself; some from the others."""
    _, models = families.language_models(tmp_path)
    measure = agreement(models, tmp_path)
    own = measure(load_model(models[1].path, "cpu"), ALL, no_progress)
    assert own["tuned0"].value == pytest.approx(0, abs=1e-7)
    assert own["tuned1"].value > 1e-5
    base = measure(load_model(models[0].path, "cpu"), ALL, no_progress)
    assert min(score.value for score in base.values()) > 1e-6


def test_the_score_is_kl_per_byte(tmp_path: Path) -> None:
    """As a plain computation of all inputs in float64 gives it, in halves as in all."""
    _, models = families.language_models(tmp_path)
    files = {f"tuned{i}": families.inputs(tmp_path / f"{i}.txt") for i in (0, 1)}
    measure = agreement(models, tmp_path, files=files, count=6)
    merged = load_model(models[0].path, "cpu")
    expert = load_model(models[1].path, "cpu")
    found = {p: measure(merged, p, no_progress) for p in (ALL, VALIDATION, TEST)}
    nats, sizes = [], []
    for line in lines_of(files["tuned0"], 6, 0):
        words = [int(word[1:]) for word in line.split()]
        ids = torch.tensor([[1, *words]])  # w1 begins a text
        logits = [model(ids).logits[0, :-1].double() for model in (expert, merged)]
        p, q = (each.log_softmax(-1) for each in logits)
        nats.append((p.exp() * (p - q)).sum().item())
        sizes.append(len(f" {line}".encode()))
    for part, span in {
        ALL: slice(None),
        VALIDATION: slice(0, None, 2),
        TEST: slice(1, None, 2),
    }.items():
        score = found[part]["tuned0"]
        expected = sum(nats[span]) / math.log(2) / sum(sizes[span])
        assert score.value == pytest.approx(expected, rel=2e-3)
        assert score.items is not None
        assert sum(score.items) / len(score.items) == pytest.approx(score.value)


def test_an_expert_that_failed_is_asked_again(tmp_path: Path) -> None:
    """What is known of the others is not taken for all there is to know."""
    _, models = families.language_models(tmp_path)
    measure = agreement(models, tmp_path)
    measure.prepare()
    weights = models[2].path / "model.safetensors"
    away = weights.rename(tmp_path / "away")
    base = load_model(models[0].path, "cpu")
    for _ in range(2):
        with pytest.raises(OSError, match=r"model\.safetensors"):
            measure(base, ALL, no_progress)
    away.rename(weights)
    assert set(measure(base, ALL, no_progress)) == {"tuned0", "tuned1"}


def test_code_of_the_models_is_trusted_if_the_user_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the base and of every expert, for configurations and tokenizers."""
    _, models = families.language_models(tmp_path)
    given: list[tuple[str, str, Any]] = []
    for cls in (transformers.AutoConfig, transformers.AutoTokenizer):
        original = cls.from_pretrained

        def heard(
            folder: Any, *words: Any, _original: Any = original, **more: Any
        ) -> Any:
            name = _original.__self__.__name__
            given.append((name, Path(folder).name, more.get("trust_remote_code")))
            return _original(folder, *words, **more)

        monkeypatch.setattr(cls, "from_pretrained", heard)
    agreement(models, tmp_path, trust_remote_code=True).prepare()
    asked = {
        (cls, model.path.name, True)
        for cls in ("AutoConfig", "AutoTokenizer")
        for model in models
    }
    assert asked <= set(given)
    # What a tokenizer asks for by itself says nothing of its own.
    assert not {each for each in given if each[2] is False}


def test_texts_are_the_seeds(tmp_path: Path) -> None:
    """A seed draws the same texts, another one others; the beginning does not count."""
    _, models = families.language_models(tmp_path)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models[1].path)
    model = load_model(models[1].path, "cpu")
    before = torch.random.get_rng_state()
    drawn = [generated(model, tokenizer, 9, 20, seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert drawn[0] == drawn[1] != drawn[2]
    # What a model's own configuration says is about answers, not about predictions.
    own = model.generation_config
    own.repetition_penalty, own.temperature, own.num_beams = 1.5, 0.1, 2
    assert generated(model, tokenizer, 9, 20, 0) == drawn[0]
    assert model.generation_config is own
    assert {(len(item.ids), item.first) for item in drawn[0]} == {(21, SKIPPED + 1)}


def test_a_classifier_is_compared_by_its_labels(tmp_path: Path) -> None:
    """Sequence classification takes inputs, and as many labels as the head has."""
    models = tiny.save_classifiers(tmp_path, [False, False, False])
    for model in models:
        tiny.save_tokenizer(model.path)
        labels = {str(i): f"label {i}" for i in range(90)}
        families.configure(model, id2label=labels, label2id={})
    with pytest.raises(PCBError, match="classifier cannot generate"):
        agreement(models, tmp_path)
    files = {f"tuned{i}": families.inputs(tmp_path / f"{i}.txt") for i in (0, 1)}
    measure = agreement(models, tmp_path, files=files)
    own = measure(load_model(models[1].path, "cpu"), ALL, no_progress)
    assert own["tuned0"].value == pytest.approx(0, abs=1e-6)
    assert own["tuned1"].value > 1e-6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 0 different lines"),
        (b"a\na\n\nb\n", "has 2 different lines"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_too_few_inputs_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    """Empty files and repeated lines are no inputs."""
    file = tmp_path / "in.txt"
    file.write_bytes(content)
    with pytest.raises(PCBError, match=message):
        lines_of(file, 8, 0)


def test_lines_of_json(tmp_path: Path) -> None:
    """JSON lines have a text each; others are quoted in the error."""
    file = tmp_path / "in.jsonl"
    file.write_text("".join(f'{{"text": "line {i}"}}\n' for i in range(9)))
    assert len(set(lines_of(file, 8, 0))) == 8
    file.write_text('{"txt": "a"}\n')
    with pytest.raises(PCBError, match='no JSON object with "text"'):
        lines_of(file, 8, 0)


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
@pytest.mark.parametrize("name", ["in.jsonl", "in.txt"])
def test_an_input_is_a_line_of_the_file(tmp_path: Path, name: str, end: str) -> None:
    """Separators that are characters of a text split none; a mark begins none."""
    texts = [f"one\u2028line\x85of {i}" for i in range(4)]
    lines = texts
    if name.endswith("l"):
        lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    file = tmp_path / name
    file.write_bytes(b"\xef\xbb\xbf" + end.join(lines).encode())
    assert sorted(lines_of(file, 8, 0)) == texts


def test_a_full_disk_leaves_no_file_to_write_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory mapped on a file that has no room ends the process."""

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            mapped(tmp_path / "expert.f32", 9)
        assert not list(tmp_path.iterdir())


def test_other_vocabularies_are_refused(tmp_path: Path) -> None:
    """Logits over other tokens cannot be compared."""
    _, models = families.language_models(tmp_path)
    other = tiny.save_llama(tmp_path / "other", tiny.llama_weights(vocab=70))
    measure = agreement([models[0], other], tmp_path)
    with pytest.raises(PCBError, match="tuned0 has 70 tokens and the base 64"):
        measure(load_model(models[0].path, "cpu"), ALL, no_progress)
