from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from experiments import pictures, smollm2, smollm2_grid, smollm2_tasks
from experiments.smollm2_texts import LEAK_LENGTH, Split, split_documents
from mergekit_pcb.compare.candidates import candidates
from tests import tiny

SIZES = {"train_bytes": 6_000, "validation_bytes": 2_500, "test_bytes": 2_500}


def documents(count: int = 40) -> dict[str, str]:
    return {
        f"{d:02}": "\n".join(
            f"Line {i} of document {d} says this and no other line does."
            for i in range(9)
        )
        for d in range(count)
    }


def parts(split: Split) -> tuple[str, str, str]:
    return split.train, "".join(split.validation), "".join(split.test)


def test_parts_share_no_document() -> None:
    """A document whose line is in one part has no line in another."""
    split = split_documents(documents(), **SIZES, seed=0)
    owners = [{line.split()[4] for line in part.splitlines()} for part in parts(split)]
    assert sum(map(len, owners)) == len(set.union(*owners))


def test_parts_have_the_size_asked_for() -> None:
    """Each part ends with the line that reaches its size."""
    split = split_documents(documents(), **SIZES, seed=0)
    line = 60
    for part, size in zip(parts(split), (6_000, 2_500, 2_500), strict=True):
        assert size <= len(part.encode()) < size + line


def test_held_out_extracts_are_of_different_documents() -> None:
    """So the items of a task say something about each other's error."""
    split = split_documents(documents(), **SIZES, seed=0)
    for extracts in (split.validation, split.test):
        owners = [{line.split()[4] for line in e.splitlines()} for e in extracts]
        assert len(extracts) > 3
        assert [len(of_extract) for of_extract in owners] == [1] * len(extracts)
        assert len(set.union(*owners)) == len(extracts)


def test_same_seed_same_split() -> None:
    """The split depends on the seed and on nothing else, such as the dict's order."""
    backwards = dict(reversed(documents().items()))
    first = split_documents(documents(), **SIZES, seed=0)
    assert split_documents(backwards, **SIZES, seed=0) == first
    assert split_documents(documents(), **SIZES, seed=1) != first


def test_repeated_lines_do_not_leak() -> None:
    """A long line that every document repeats is in one part only."""
    refrain = "And this refrain, as long as a verse, returns in every one."
    assert len(refrain) >= LEAK_LENGTH
    texts = {name: f"{refrain}\n{text}" for name, text in documents().items()}
    split = split_documents(texts, **SIZES, seed=0)
    train, validation, test = parts(split)
    assert refrain in test
    assert refrain not in train + validation


def test_too_little_text_is_an_error() -> None:
    """Documents that cannot fill the parts are refused."""
    with pytest.raises(ValueError, match="too little text"):
        split_documents(documents(3), **SIZES, seed=0)


TEXTS = {
    domain: Split("", ["w3 w4 å\n", "w5 w6\n"], ["w7 w8\n", "w9 w3 w4\n", "w5\n"])
    for domain in smollm2.DOMAINS
}


def test_tasks_read_the_extracts(tmp_path: Path) -> None:
    """One task for each domain and held-out part, whose items are its extracts."""
    smollm2_tasks.write_tasks(TEXTS, tmp_path / "tasks")
    tasks = [yaml.safe_load(f.read_text()) for f in (tmp_path / "tasks").glob("*.yaml")]
    assert {task["task"] for task in tasks} == {
        *smollm2.DOMAINS,
        *(f"{domain}_validation" for domain in smollm2.DOMAINS),
    }
    for task in tasks:
        split = TEXTS[task["task"].removesuffix("_validation")]
        held_out = split.validation if "_" in task["task"] else split.test
        lines = Path(task["dataset_kwargs"]["data_files"]["test"]).read_text("utf-8")
        assert [json.loads(line)["text"] for line in lines.splitlines()] == held_out


def test_tasks_that_are_the_same_are_left_alone(tmp_path: Path) -> None:
    """A file that is written again would have every model scored again."""
    smollm2_tasks.write_tasks(TEXTS, tmp_path)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    other = TEXTS | {"swedish": Split("", ["other\n"], TEXTS["swedish"].test)}
    smollm2_tasks.write_tasks(other, tmp_path)
    changed = [f.name for f in before if f.stat().st_mtime_ns != before[f]]
    assert changed == ["swedish_validation.jsonl"]


def test_every_method_has_the_same_budget() -> None:
    """No method may try more often than another, nor the same thing twice."""
    recipe = yaml.safe_load(smollm2._recipe(Path("models")))
    fixed = {"": {"weight": 1.0}}
    merges = candidates(recipe, smollm2_grid.METHODS, fixed, smollm2_grid.SWEPT)
    assert set(Counter(merge.name for merge in merges).values()) == {6}
    assert len({(merge.name, merge.label) for merge in merges}) == len(merges)


@pytest.mark.slow
def test_smollm2_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models in its place: compared by the tasks, and the report is copied."""
    pytest.importorskip("lm_eval", reason="needs the extra [eval]")

    def make_models(folder: Path, *_: object) -> None:
        base, tuned = tiny.save_family(folder, 3)
        for model, name in zip((base, *tuned), ("base", *TEXTS), strict=True):
            tiny.save_tokenizer(model.path)
            model.path.rename(folder / name)

    monkeypatch.setattr(smollm2, "_texts", lambda *_: TEXTS)
    monkeypatch.setattr(smollm2, "_make_models", make_models)
    monkeypatch.setattr(smollm2_grid, "SWEPT", {"pcb": {"lambda": (0.5, 1.0)}})
    monkeypatch.setattr(smollm2_grid, "METHODS", ("pcb",))
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    arguments = ["--work", str(tmp_path / "work"), "--out", str(out)]
    result = CliRunner().invoke(smollm2.main, [*arguments, "--precision", "float32"])
    assert result.exit_code == 0, result.output
    assert {file.name for file in out.iterdir()} == set(smollm2.COPIES.values())
    document = json.loads((out / "smollm2.json").read_text(encoding="utf-8"))
    assert document["recipe"] == "smollm2.yml"
    assert list(document["tasks"]) == list(TEXTS)
    pcb = document["rows"][-1]
    assert {score["metric"] for score in pcb["scores"].values()} == {"bits_per_byte"}
    chosen = next(tried for tried in pcb["tried"] if tried["chosen"])
    assert all(task.endswith("_validation") for task in chosen["scores"])
    assert str(tmp_path) not in (out / "smollm2.md").read_text(encoding="utf-8")


def test_a_picture_of_a_command(tmp_path: Path) -> None:
    """It shows what the command prints, in colour, as the committed one does."""
    result = CliRunner().invoke(pictures.main, ["check", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    svg = (tmp_path / "check.svg").read_text(encoding="utf-8")
    assert "`densty`" in svg
    assert len(set(re.findall("fill: (#[0-9a-f]{6})", svg))) > 2
    assert "url(http" not in svg
    committed = (pictures.PICTURES / "check.svg").read_text(encoding="utf-8")
    assert _shown(svg) == _shown(committed)


def _shown(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)
