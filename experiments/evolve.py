"""mergekit-evolve of mergekit 0.1.5, where there is no vLLM, and maybe no GPU.

    python -m experiments.evolve genome.yml --storage-path evolved --max-fevals 20 …

takes the arguments of mergekit-evolve, which needs mergekit's extra ``[evolve]`` but no
wandb (so ray, cma, lm-eval). What it does not find in lm-eval 0.4.13 and torch 2 is put
there, in this process and in Ray's workers.
"""

from __future__ import annotations

import functools
import sys
import types

import ray
import torch


def shim() -> None:
    """Give mergekit-evolve what it takes for granted."""
    import lm_eval.models.huggingface

    name = "lm_eval.models.vllm_causallms"
    # mergekit.evo.actors names this class, which lm-eval no longer imports on its own.
    try:
        __import__(name)
    except ImportError:
        module = types.ModuleType(name)
        module.VLLM = type("VLLM", (), {})  # type: ignore[attr-defined]
        lm_eval.models.vllm_causallms = sys.modules[name] = module
    if not torch.cuda.is_available():
        # Its workers empty the cache of the accelerator, which a CPU does not have,
        # and the harness takes "cuda" where it is told nothing.
        torch.cpu.empty_cache = lambda: None  # type: ignore[attr-defined]
        original = lm_eval.simple_evaluate
        lm_eval.simple_evaluate = functools.partial(original, device="cpu")


def main() -> None:
    """Run the command, with a Ray whose workers have the same."""
    shim()
    from mergekit.scripts import evolve

    # Each of its workers asks Ray for a GPU: a CPU is called one.
    ray.init(
        "local",
        num_gpus=torch.cuda.device_count() or 1,
        include_dashboard=False,
        runtime_env={"worker_process_setup_hook": shim},
    )
    evolve.main()


if __name__ == "__main__":
    main()
