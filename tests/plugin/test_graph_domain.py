"""How the statistics of `scope: model` are taken: passes, bars, devices, memory."""

from __future__ import annotations

import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from mergekit.common import ModelReference
from mergekit.graph import Executor
from mergekit.io.lazy_tensor_loader import LazyTensorLoader
from mergekit.options import MergeOptions
from mergekit.scripts import merge_raw_pytorch, run_yaml
from safetensors.torch import save_file

from mergekit_pcb.kernel.collectors import RankSearch, TensorArena
from mergekit_pcb.kernel.task_vectors import TaskVectors
from mergekit_pcb.plugin import digests, graph_domain, small_tensors
from mergekit_pcb.plugin.graph_domain import GraphDomain
from mergekit_pcb.plugin.plan_tasks import parameters_of, whole_model_tasks
from mergekit_pcb.plugin.run_tasks import StatisticsTask
from tests.tiny import (
    Tensors,
    assert_same,
    fine_tune,
    invoke,
    merge,
    random_weights,
    read,
    recipe_of,
    save_family,
    write_recipe,
)

MODEL = {"scope": "model", "lambda": 1.0}
PASSES = ["PCB: sampling", "PCB: magnitudes", "PCB: scores"]
SHAPES = {"a.weight": (300, 40), "b.bias": (5,), "c.weight": (70, 16)}


@pytest.fixture
def models() -> list[Tensors]:
    """A base and three fine-tunes."""
    base = random_weights(SHAPES)
    return [base, *(fine_tune(base, i) for i in range(3))]


@pytest.fixture
def files(models: list[Tensors], tmp_path: Path) -> list[Path]:
    """Where they are stored."""
    paths = [tmp_path / f"{i}.safetensors" for i in range(4)]
    for tensors, path in zip(models, paths, strict=True):
        save_file(tensors, path)
    return paths


def plan_of(files: list[Path], out: Path) -> list[Any]:
    """What mergekit-pytorch plans, before statistics are taken."""
    config = merge_raw_pytorch.RawPyTorchMergeConfig(
        merge_method="pcb",
        base_model=str(files[0]),
        models=[{"model": str(file)} for file in files[1:]],
        parameters=MODEL,
    )
    plan = merge_raw_pytorch.plan_flat_merge.__wrapped__
    return plan(config, str(out), False, False, MergeOptions())


def domain_of(merges: list[Any], **options: Any) -> GraphDomain:
    references = [model for model in merges[0].model_order if model.model.path]
    references.remove(merges[0].base_model)
    return GraphDomain.of(merges, references, MergeOptions(**{"quiet": True} | options))


# --- passes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "most", "times"),
    [("tensor", 0, 1), ("model", 0, 4), ("model", 1 << 16, 2)],
)
def test_how_often_weights_are_read(
    scope: str, most: int, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To sample, if it is not small for two statistics, and to merge."""
    monkeypatch.setattr(small_tensors, "_MOST", most)
    base, tuned = save_family(tmp_path)
    reads: Counter[tuple[str, str]] = Counter()
    original = LazyTensorLoader.get_tensor

    def get_tensor(self, key, *args, **kwargs):
        reads[self.index.base_path, key] += 1
        return original(self, key, *args, **kwargs)

    monkeypatch.setattr(LazyTensorLoader, "get_tensor", get_tensor)
    recipe = recipe_of(base, tuned, parameters={"scope": scope})
    merge(run_yaml.main, recipe, tmp_path / "merged")
    assert reads == {
        (str(model.path), name): times
        for model in (base, *tuned)
        for name in model.tensors
    }


@pytest.mark.usefixtures("none_is_small")
def test_one_labelled_progress_bar_a_pass(tmp_path: Path) -> None:
    """Three passes, three bars, before mergekit's own for the merge."""
    base, tuned = save_family(tmp_path, 2)
    file = write_recipe(recipe_of(base, tuned, parameters=MODEL), tmp_path / "r.yml")
    shown = invoke(run_yaml.main, file, tmp_path / "merged", "--no-copy-tokenizer")
    bars = dict.fromkeys(
        line.rpartition(":")[0]
        for line in shown.stderr.replace("\r", "\n").splitlines()
        if "%|" in line
        for line in [line.partition("%|")[0]]
    )
    assert list(bars)[-4:] == [*PASSES, "Executing graph"]


def test_no_progress_bar_with_quiet(tmp_path: Path) -> None:
    """With --quiet nothing is said."""
    base, tuned = save_family(tmp_path, 2)
    recipe = recipe_of(base, tuned, parameters=MODEL)
    _, shown = merge(run_yaml.main, recipe, tmp_path / "merged")
    assert "PCB" not in shown.output


def test_passes_keep_one_tensor_at_a_time(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was loaded of one tensor is gone when the next is looked at."""
    merges = whole_model_tasks(plan_of(files, tmp_path / "merged"))
    alive: list[int] = []
    seen: list[Any] = []
    original = graph_domain.draw

    def draw(vectors: TaskVectors, name: str) -> Any:
        alive.append(sum(ref() is not None for ref in seen))
        seen.extend(map(weakref.ref, vectors.models))
        return original(vectors, name)

    monkeypatch.setattr(graph_domain, "draw", draw)
    domain_of(merges)
    assert alive == [0, 0, 0]


@pytest.mark.usefixtures("none_is_small")
def test_results_lie_together(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small results of each tensor are copied to one place, not left where they lay."""
    made: list[RankSearch] = []
    original = GraphDomain.sweep

    def sweep(self, scoring, search):
        original(self, scoring, search)
        made.append(search)

    monkeypatch.setattr(GraphDomain, "sweep", sweep)
    recipe = recipe_of(files[0], files[1:], parameters=MODEL)
    merge(merge_raw_pytorch.main, recipe, tmp_path / "merged")
    assert len(made) == 2
    for search in made:
        kept = [
            values
            for brackets in search.brackets
            for bracket in brackets
            for values in bracket.inside
            if len(values)
        ]
        assert sum(map(len, kept)) > 100
        assert len({values.untyped_storage().data_ptr() for values in kept}) == 1


def test_a_shelf_keeps_what_it_is_given() -> None:
    """Values of any shape, dtype and number come back as they were."""
    arena = TensorArena()
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 500), (0,), (), (1 << 20,), (7,), (2, 1 << 20), (5,)]
    dtypes = [torch.float32] * 5 + [torch.float64] * 2
    given = [
        torch.randn(shape, generator=generator, dtype=dtype)
        for shape, dtype in zip(shapes, dtypes, strict=True)
    ]
    kept = [arena.keep(values) for values in given]
    for mine, theirs in zip(given, kept, strict=True):
        assert torch.equal(mine, theirs)
        assert mine.dtype == theirs.dtype
        assert mine.data_ptr() != theirs.data_ptr() or not mine.numel()


# --- the sample -----------------------------------------------------------------------


def test_the_sample_is_drawn_in_proportion(files: list[Path], tmp_path: Path) -> None:
    """Each tensor gives its share of the sample, of values that it has."""
    merges = whole_model_tasks(plan_of(files, tmp_path / "merged"))
    domain = domain_of(merges)
    assert domain.size == sum(domain.sizes) == 300 * 40 + 5 + 70 * 16
    assert abs(domain.sample().shape[1] - 4096) <= len(SHAPES)


@pytest.mark.parametrize("largest", [10, 5_000, 3_000_000])
def test_no_more_is_kept_than_the_sample_needs(largest: int) -> None:
    """Nor less, however many tensors follow."""
    drawn = torch.Generator().manual_seed(largest)
    sizes = torch.randint(1, largest, (300,), generator=drawn).tolist()
    seen = kept = 0
    counts = digests.sample_counts(sizes)
    for size, count in zip(sizes, counts, strict=True):
        seen += size
        needed = digests.most_needed(size, seen)
        assert count <= needed
        kept += needed
    assert kept < 10 * (sum(counts) + len(sizes))


def test_order_of_tensors_does_not_matter(files: list[Path], tmp_path: Path) -> None:
    """mergekit-pytorch shuffles tensors, GPUs finish when they like: all the same."""
    merges = whole_model_tasks(plan_of(files, tmp_path / "merged"))
    one, other = domain_of(merges), domain_of(merges[::-1])
    assert torch.equal(one.sample(), other.sample())
    assert (one.sizes, one.digests) == (other.sizes, other.digests)


def test_a_sample_that_is_cut_again_and_again(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample that outgrows its limit is thinned; the merge stays the same."""
    recipe = recipe_of(files[0], files[1:], parameters=MODEL)
    whole, _ = merge(merge_raw_pytorch.main, recipe, tmp_path / "whole")
    for module in (graph_domain, digests):
        monkeypatch.setattr(module, "SAMPLE_MOST", 2048)
    merges = whole_model_tasks(plan_of(files, tmp_path / "merged"))
    thin, calls = graph_domain._thin, []
    monkeypatch.setattr(
        graph_domain, "_thin", lambda tensors: calls.append(thin(tensors)) or calls[-1]
    )
    sample = domain_of(merges).sample()
    assert calls
    assert 1000 < sample.shape[1] <= 2 * 2048
    thinned, _ = merge(merge_raw_pytorch.main, recipe, tmp_path / "thinned")
    assert_same(read(thinned), read(whole))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("which", [0, 2], ids=["base", "fine-tune"])
def test_digests_know_every_weight(
    which: int, name: str, models: list[Tensors], tmp_path: Path
) -> None:
    """A single bit changed anywhere changes the digest, and only of what it affects."""

    def digests() -> list[str]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        paths = [folder / f"{i}.safetensors" for i in range(4)]
        for tensors, path in zip(models, paths, strict=True):
            save_file(tensors, path)
        return list(domain_of(whole_model_tasks(plan_of(paths, folder))).digests)

    before = digests()
    assert digests() == before
    models[which][name].view(-1)[-1:].view(torch.int32).bitwise_xor_(1)
    changed = [a != b for a, b in zip(before, digests(), strict=True)]
    assert changed == ([True] * 3 if which == 0 else [False, True, False])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("start", [0, 1, 3])
def test_checksum_of_any_tensor(dtype: torch.dtype, start: int) -> None:
    """Alignment, length and dtype are no obstacle, and no element is left out."""
    flat = torch.arange(40).to(dtype)[start:]
    checksum = digests._checksum(flat)
    assert digests._checksum(flat.clone()) == checksum
    for i in range(len(flat)):
        other = flat.clone()
        other[i] += 0.5
        assert digests._checksum(other) != checksum


# --- executors and devices ------------------------------------------------------------


def test_results_stay_where_they_are(files: list[Path], tmp_path: Path) -> None:
    """With --low-cpu-memory executors move results; ours stay off the accelerator."""
    merge_task, *_ = whole_model_tasks(plan_of(files, tmp_path / "merged"))
    moved: list[Any] = []
    executor = Executor([merge_task.gather_tensors])
    tensors = next(value for _, value in executor.run(quiet=True))

    def look(vectors: TaskVectors, name: str) -> Any:
        result = graph_domain.draw(vectors, name)
        moved.append(executor._move_tensors(result, torch.device("meta")))
        return result

    references = [m for m in tensors if m != merge_task.base_model]
    task = StatisticsTask(
        merge=merge_task, work=graph_domain._on_task_vectors(references, look)
    )
    assert task.uses_accelerator()
    assert task.execute(tensors=tensors) is moved[0]
    assert moved[0].tau.device.type == "cpu"


def test_models_are_named_by_reference(files: list[Path], tmp_path: Path) -> None:
    """Models keep the order of the recipe, which decides the order of sums."""
    merges = whole_model_tasks(plan_of(files, tmp_path / "merged"))
    for merge_task in merges:
        density = parameters_of(merge_task)["density"]
        assert list(density) == [
            ModelReference.model_validate({"model": {"path": str(file)}})
            for file in files[1:]
        ]
