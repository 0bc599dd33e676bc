"""The work done in worker processes: fine-tune a model, or merge and score one.

Two processes of one thread each fine-tune and score faster on two cores than one
process of two, and a merge has no use for the second core anyway.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from mergekit.scripts.run_yaml import main as mergekit_yaml
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

import mergekit_pcb  # noqa: F401 - offers `pcb` where the start-up file is switched off
from experiments.bits_per_byte import window_bits
from experiments.score_table import Run, Score
from experiments.smollm2_grid import Setting, recipe
from experiments.smollm2_models import Training, fine_tune
from experiments.smollm2_texts import Split


@dataclass(frozen=True)
class Study:
    """What every job needs to know. Its folder belongs to these conditions alone."""

    folder: Path
    training: Training
    texts: Mapping[str, Split]

    def model(self, name: str) -> Path:
        """Where a model is, or will be."""
        return self.folder / "models" / name


def start_worker(threads: int, bar_lock: Any) -> None:
    """Prepare a new worker process."""
    # Ctrl-C goes to the parent, which ends its workers; they need not say so too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    tqdm.set_lock(bar_lock)
    transformers.utils.logging.disable_progress_bar()


def fine_tune_domain(study: Study, domain: str, bar: int) -> None:
    """Make the specialist of a domain; ``bar`` is the line of its progress bar."""
    base, folder = study.model("base"), study.model(domain)
    fine_tune(base, study.texts[domain].train, folder, study.training, domain, bar)


def score_model(study: Study, name: str) -> Run:
    """Score the base model or a specialist."""
    done = study.folder / "scores" / f"{name}.json"
    with suppress(FileNotFoundError):
        return _load(done)
    family = name if name == "base" else f"fine-tuned on {name}"
    run = Run(family, None, "", *_scores(study, study.model(name)))
    _save(run, done)
    return run


def score_merge(study: Study, setting: Setting, key: str) -> Run:
    """Merge as the setting says, through mergekit's own command, and score the result.

    ``key`` names the files; a finished score under the same key is not made again.
    """
    done = study.folder / "scores" / f"{key}.json"
    with suppress(FileNotFoundError):
        return _load(done)
    recipe_file = study.folder / "recipes" / f"{key}.yml"
    recipe_file.parent.mkdir(exist_ok=True)
    specialists = [study.model(domain) for domain in study.texts]
    recipe_file.write_text(
        recipe(setting, study.model("base"), specialists), encoding="utf-8"
    )
    merged = study.folder / "merged" / key
    shutil.rmtree(merged, ignore_errors=True)
    label = (setting.family, setting.method, setting.label)
    try:
        command = [str(recipe_file), str(merged), "--quiet", "--random-seed"]
        command.append(str(study.training.seed))
        mergekit_yaml(command, standalone_mode=False)
        run = Run(*label, *_scores(study, merged))
    except Exception as error:  # whatever it is, it belongs in this method's row
        shutil.rmtree(merged, ignore_errors=True)
        reason = next(iter(str(error).splitlines()), "")
        return Run(*label, {}, {}, refused=f"{type(error).__name__}: {reason}")
    shutil.rmtree(merged)
    _save(run, done)
    return run


def _scores(
    study: Study, model_folder: Path
) -> tuple[dict[str, Score], dict[str, Score]]:
    """Validation and test scores on every domain."""
    tokenizer = AutoTokenizer.from_pretrained(study.model("base"))
    dtype = getattr(torch, study.training.precision)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=dtype).eval()

    def score(text: str) -> Score:
        tokens = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(tokens) == text, "the tokenizer loses bytes"
        length, start = study.training.length, tokenizer.bos_token_id
        bits = window_bits(model, tokens, length, start)
        return Score(bits, len(text.encode()))

    texts = study.texts.items()
    validation = {domain: score(split.validation) for domain, split in texts}
    test = {domain: score(split.test) for domain, split in texts}
    return validation, test


def _save(run: Run, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    scratch = path.with_suffix(".partial")
    scratch.write_text(json.dumps(asdict(run)), encoding="utf-8")
    scratch.replace(path)


def _load(path: Path) -> Run:
    return Run.from_json(json.loads(path.read_text(encoding="utf-8")))
