"""Recipes through mergekit's own commands, on tiny models, against the oracle."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml
from mergekit.evo import genome
from mergekit.merge_methods import merge_state_dicts, merge_tensors
from mergekit.scripts import merge_raw_pytorch, multimerge, run_yaml
from safetensors.torch import save_file

import mergekit_pcb  # noqa: F401  # registers pcb where the start-up file does not run
from tests.oracle import assert_merge, count_flips, task_vectors
from tests.oracle import merge as merge_one
from tests.tiny import (
    QUIET,
    VOCAB,
    Model,
    Tensors,
    assert_same,
    fine_tune,
    in_slices,
    invoke,
    llama_weights,
    merge,
    random_weights,
    read,
    recipe_of,
    same,
    save_classifiers,
    save_family,
    save_llama,
    save_tokenizer,
    tensors_of,
    write_recipe,
)

# --- mergekit-yaml --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_defaults_in_every_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    """Without parameters: density 0.2, weight 1, lambda by itself; float32."""
    base, tuned = save_family(tmp_path, dtype=dtype)
    out, _ = merge(run_yaml.main, recipe_of(base, tuned), tmp_path / "merged")
    merged = read(out)
    assert {tensor.dtype for tensor in merged.values()} == {dtype}
    assert_merge(merged, base.tensors, tensors_of(tuned))


@pytest.mark.parametrize("inter", ["raw", "normalized", "pairwise"])
def test_every_parameter_reaches_the_method(inter: str, tmp_path: Path) -> None:
    """Each model's weight and density, lambda, inter and clamp mean what they say."""
    base, tuned = save_family(tmp_path)
    recipe = recipe_of(base, tuned)
    density, weight = [0.05, 0.3, 1.0], [0.5, -1.0, 2.0]
    for entry, r, w in zip(recipe["models"], density, weight, strict=True):
        entry["parameters"] = {"density": r, "weight": w}
    recipe["parameters"] = {"lambda": 1.5, "inter": inter, "clamp": 0.1}
    out, _ = merge(run_yaml.main, recipe, tmp_path / "merged")
    assert_merge(
        read(out),
        base.tensors,
        tensors_of(tuned),
        density=lambda _, i: density[i],
        weight=lambda _, i: weight[i],
        scale=1.5,
        inter=inter,
        clamp=0.1,
    )


def test_template_parameters_without_effect(tmp_path: Path) -> None:
    """What templates bring along, normalize and int8_mask, changes nothing."""
    base, tuned = save_family(tmp_path)
    plain, _ = merge(run_yaml.main, recipe_of(base, tuned), tmp_path / "plain")
    more = {"parameters": {"normalize": True, "int8_mask": True}}
    noisy, _ = merge(run_yaml.main, recipe_of(base, tuned, **more), tmp_path / "noisy")
    assert_same(read(noisy), read(plain))


def test_base_among_the_models(tmp_path: Path) -> None:
    """A base that templates also list among the models is still only the base."""
    base, tuned = save_family(tmp_path)
    listed, _ = merge(
        run_yaml.main, recipe_of(base, [base, *tuned]), tmp_path / "listed"
    )
    assert_merge(read(listed), base.tensors, tensors_of(tuned))


def test_slices(tmp_path: Path) -> None:
    """The slices form: each slice's sources bring their own parameters."""
    base, tuned = save_family(tmp_path, layers=3)
    density = [[0.05, 0.4, 0.2], [0.3, 0.1, 0.5]]
    recipe = in_slices(base, tuned, [[0, 1], [1, 3]], density)
    out, _ = merge(run_yaml.main, recipe, tmp_path / "merged")

    def of_slice(name: str, model: int) -> float:
        # What comes before the layers belongs to the first slice, what after, the last.
        first = "layers.0." in name or "embed" in name
        return density[0 if first else 1][model]

    assert_merge(read(out), base.tensors, tensors_of(tuned), density=of_slice)


@pytest.mark.parametrize(
    ("settings", "inside", "outside"),
    [
        ({}, torch.float32, torch.float32),
        ({"dtype": "bfloat16"}, torch.bfloat16, torch.bfloat16),
        ({"dtype": "bfloat16", "out_dtype": "float32"}, torch.bfloat16, torch.float32),
        ({"out_dtype": "float16"}, torch.float32, torch.float16),
    ],
)
def test_dtype_and_out_dtype(
    settings: dict, inside: torch.dtype, outside: torch.dtype, tmp_path: Path
) -> None:
    """`dtype` rounds the inputs, `out_dtype` the output; mixed inputs are promoted."""
    weights = llama_weights()
    base = save_llama(tmp_path / "base", weights, dtype=torch.bfloat16)
    tuned = [save_llama(tmp_path / f"{i}", fine_tune(weights, i)) for i in (0, 1)]
    out, _ = merge(
        run_yaml.main, recipe_of(base, tuned, **settings), tmp_path / "merged"
    )
    merged = read(out)
    assert {tensor.dtype for tensor in merged.values()} == {outside}
    assert_merge(merged, base.tensors, tensors_of(tuned), dtype=inside)


def test_model_card_links_the_paper(tmp_path: Path) -> None:
    """The model card names the method and links the paper."""
    base, tuned = save_family(tmp_path, 1)
    out, _ = merge(run_yaml.main, recipe_of(base, tuned), tmp_path / "merged")
    card = (out / "README.md").read_text()
    assert "[PCB-Merging](https://arxiv.org/abs/2410.02396)" in card


def test_chained_merges(tmp_path: Path) -> None:
    """A chain of merges in mergekit-multi feeds pcb with what pcb wrote."""
    base, tuned = save_family(tmp_path)
    first = {"name": "first", **recipe_of(base, tuned[:2])}
    final = recipe_of(base, ["first", tuned[2]])
    files = [
        write_recipe(r, tmp_path / f"{i}.yml") for i, r in enumerate((first, final))
    ]
    both = tmp_path / "chain.yml"
    both.write_text("---\n".join(file.read_text() for file in files))
    steps, out = tmp_path / "steps", tmp_path / "merged"
    result = invoke(multimerge.main, both, "-I", steps, "--out-path", out, *QUIET)
    assert result.exception is None, result.output
    between = read(steps / "first")
    assert_merge(between, base.tensors, tensors_of(tuned[:2]))
    assert_merge(read(out), base.tensors, [between, tuned[2].tensors])


# --- where mergekit's ties sets the example -------------------------------------------


def merge_like_ties(
    base: Model, tuned: list[Model], tmp_path: Path, **more: object
) -> tuple[Tensors, Tensors]:
    """The tensors that pcb and ties make of the same recipe."""
    outs = []
    for method in ("pcb", "ties"):
        recipe = recipe_of(base, tuned, **more) | {"merge_method": method}
        recipe["parameters"] = {"weight": 1.0, "density": 0.2}
        out, _ = merge(run_yaml.main, recipe, tmp_path / method)
        outs.append(read(out))
    by_pcb, by_ties = outs
    assert {name: tensor.shape for name, tensor in by_pcb.items()} == {
        name: tensor.shape for name, tensor in by_ties.items()
    }
    return by_pcb, by_ties


def test_tied_embeddings(tmp_path: Path) -> None:
    """Models with tied embeddings give a model with tied embeddings."""
    base, tuned = save_family(tmp_path, head=False)
    by_pcb, _ = merge_like_ties(base, tuned, tmp_path)
    assert "lm_head.weight" not in by_pcb
    assert_merge(by_pcb, base.tensors, tensors_of(tuned), density=0.2)


def test_one_model_is_untied(tmp_path: Path) -> None:
    """If one model has an output layer of its own, the others' is their embedding."""
    weights = llama_weights()
    tied = {name: w for name, w in weights.items() if name != "lm_head.weight"}
    base = save_llama(tmp_path / "base", tied)
    tuned = [
        save_llama(tmp_path / "tied", fine_tune(tied, 0)),
        save_llama(tmp_path / "untied", fine_tune(weights, 1)),
    ]
    by_pcb, _ = merge_like_ties(base, tuned, tmp_path)
    full = [
        {"lm_head.weight": model.tensors["model.embed_tokens.weight"], **model.tensors}
        for model in (base, *tuned)
    ]
    assert_merge(by_pcb, full[0], full[1:], density=0.2)


def test_optional_tensor_missing_from_one_model(tmp_path: Path) -> None:
    """The models that have an optional tensor merge it among themselves."""
    base, *tuned = save_classifiers(tmp_path, [True, True, False, True])
    by_pcb, _ = merge_like_ties(base, tuned, tmp_path)
    assert_merge(by_pcb, base.tensors, tensors_of(tuned), density=0.2)


def test_optional_tensor_of_the_base_alone(tmp_path: Path) -> None:
    """An optional tensor that only the base has is kept, as ties keeps it."""
    base, *tuned = save_classifiers(tmp_path, [True, False, False])
    by_pcb, by_ties = merge_like_ties(base, tuned, tmp_path)
    for merged in (by_pcb, by_ties):
        assert same(merged["score.bias"], base.tensors["score.bias"])


def test_optional_tensor_missing_from_the_base(tmp_path: Path) -> None:
    """An optional tensor without a base to compare with stops the merge, as in ties."""
    base, *tuned = save_classifiers(tmp_path, [False, True, True])
    for method in ("pcb", "ties"):
        recipe = recipe_of(base, tuned, parameters={"weight": 1.0})
        recipe["merge_method"] = method
        file = write_recipe(recipe, tmp_path / f"{method}.yml")
        result = invoke(run_yaml.main, file, tmp_path / method, *QUIET)
        assert result.exit_code == 1
        assert "score.bias" in f"{result.exception} {result.output}"
        assert not (tmp_path / method / "model.safetensors").exists()


@pytest.mark.parametrize("form", ["tokenizer", "tokenizer_source"])
def test_added_token(form: str, tmp_path: Path) -> None:
    """A token that one model added gets that model's embedding, as in ties."""
    base, tuned = save_family(tmp_path, 2)
    weights = fine_tune(llama_weights(vocab=VOCAB + 1), 9)
    tuned.append(save_llama(tmp_path / "wide", weights))
    for model in (base, *tuned):
        save_tokenizer(model.path, ["added"] if model is tuned[-1] else [])
    more = {form: "union" if form == "tokenizer_source" else {"source": "union"}}
    by_pcb, by_ties = merge_like_ties(base, tuned, tmp_path, **more)
    aligned = [dict(model.tensors) for model in (base, *tuned)]
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        new = weights[name][VOCAB:]
        for tensors in aligned:
            tensors[name] = torch.cat([tensors[name][:VOCAB], new])
        for merged in (by_pcb, by_ties):
            assert same(merged[name][VOCAB:], new)
    assert_merge(by_pcb, aligned[0], aligned[1:], density=0.2)


# --- mergekit-pytorch, mergekit-evolve, Python ----------------------------------------


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_bert_through_mergekit_pytorch(suffix: str, tmp_path: Path) -> None:
    """A BERT-like checkpoint of either format; its integer buffer is carried over."""
    encoder = "bert.encoder.layer.0"
    weights = random_weights(
        {
            "bert.embeddings.word_embeddings.weight": (40, 16),
            f"{encoder}.attention.self.query.weight": (16, 16),
            f"{encoder}.attention.self.query.bias": (16,),
            f"{encoder}.output.LayerNorm.weight": (16,),
            "classifier.bias": (1,),
        }
    )
    buffer = {"bert.embeddings.position_ids": torch.arange(32)[None]}
    save = torch.save if suffix == "bin" else save_file
    models = [weights, fine_tune(weights, 0), fine_tune(weights, 1)]
    files = [tmp_path / f"{i}.{suffix}" for i in range(3)]
    for tensors, file in zip(models, files, strict=True):
        save(tensors | buffer, file)
    recipe = recipe_of(files[0], files[1:], parameters={"density": 0.3, "lambda": 0.8})
    out, _ = merge(merge_raw_pytorch.main, recipe, tmp_path / "merged")
    merged = read(out)
    assert same(merged.pop(*buffer), *buffer.values())
    assert_merge(merged, models[0], models[1:], density=0.3, scale=0.8)


def test_evolution_knows_the_method(tmp_path: Path) -> None:
    """The genome of mergekit-evolve searches weight and density; its recipes merge.

    Lambda is the number of models, because mergekit starts with weights of 1/n.
    """
    assert genome.METHOD_PARAM_MAPS["pcb"] == ["weight", "density"]
    base, tuned = save_family(tmp_path, 2)
    definition = genome.ModelGenomeDefinition(
        merge_method="pcb",
        base_model=str(base.path),
        models=[str(model.path) for model in tuned],
        layer_granularity=1,
    )
    searched = genome.ModelGenome(definition)
    genotype = searched.initial_genotype()
    assert genotype.shape == (2, 2, 1, 2)
    genotype[..., 0] = torch.tensor([[0.5, 1.5], [1.0, 0.7]])[..., None]
    genotype[..., 1] = torch.tensor([[0.1, 0.2], [0.3, 1.0]])[..., None]
    recipe = yaml.safe_load(searched.genotype_merge_config(genotype).to_yaml())
    out, _ = merge(run_yaml.main, recipe, tmp_path / "merged")

    def gene(which):
        def chosen(name, model):
            first = "layers.0." in name or "embed" in name
            return float(genotype[0 if first else 1, model, 0, which])

        return chosen

    assert_merge(
        read(out),
        base.tensors,
        tensors_of(tuned),
        weight=gene(0),
        density=gene(1),
        scale=2.0,
        dtype=torch.bfloat16,
    )


def test_merge_tensors() -> None:
    """merge_tensors takes the base anywhere and parameters as lists, maps, numbers."""
    weights = llama_weights()
    name = "model.layers.0.mlp.up_proj.weight"
    base, tuned = weights[name], [fine_tune(weights, i)[name] for i in (0, 1)]
    before = [tensor.clone() for tensor in (base, *tuned)]
    out = merge_tensors(
        [tuned[0], base, tuned[1]],
        "pcb",
        base_index=1,
        ids=["a", "base", "b"],
        parameters={"density": {"a": 0.2, "b": 0.4}, "weight": [1.0, 0.5], "lambda": 2},
    )
    expected = merge_one(task_vectors(base, tuned), [0.2, 0.4], [1.0, 0.5])
    assert count_flips(out, base, expected, scale=2.0) == 0
    for tensor, was in zip((base, *tuned), before, strict=True):
        assert torch.equal(tensor, was)


@pytest.mark.parametrize("inter", ["raw", "normalized", "pairwise"])
def test_merge_state_dicts_in_both_scopes(inter: str) -> None:
    """merge_state_dicts ranks each tensor, or all together, and leaves inputs alone."""
    base = llama_weights()
    models = [fine_tune(base, i) for i in range(3)]
    before = [{name: t.clone() for name, t in m.items()} for m in (base, *models)]
    shared = {"density": [0.1, 0.2, 0.4], "lambda": 1.5, "inter": inter}

    for scope in ("tensor", "model"):
        out = merge_state_dicts(
            [base, *models], "pcb", base=0, parameters={**shared, "scope": scope}
        )
        assert_merge(
            out,
            base,
            models,
            density=lambda _, i: shared["density"][i],
            scale=1.5,
            inter=inter,
            scope=scope,
        )
    for tensors, were in zip((base, *models), before, strict=True):
        assert_same(tensors, were)


def test_kernels_in_several_threads() -> None:
    """Merges that run at once, as under --multi-gpu, do not disturb each other."""
    generator = torch.Generator().manual_seed(0)
    # Large enough for the sweeps, whose threads and thread settings could clash.
    shapes = [(600, 700), (300_001,), (16, 16)]
    jobs = []
    for shape in shapes * 3:
        base = torch.randn(shape, generator=generator)
        noise = torch.randn((3, *shape), generator=generator) ** 3 * 0.01
        jobs.append([base, *(base + noise)])

    def run(tensors):
        return merge_tensors(tensors, "pcb", base_index=0, parameters={"lambda": 1})

    threads = torch.get_num_threads()
    alone = [run(job) for job in jobs]
    with ThreadPoolExecutor(len(jobs)) as pool:
        together = list(pool.map(run, jobs))
    assert all(map(torch.equal, alone, together))
    assert torch.get_num_threads() == threads
    expected = merge_one(task_vectors(jobs[0][0], jobs[0][1:]), 0.2)
    assert count_flips(alone[0], jobs[0][0], expected) <= 2
