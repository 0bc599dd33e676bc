"""The language suite: SmolLM2-135M and kinds of text, scored in bits per byte."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import torch
from filelock import FileLock
from mergekit.common import ModelReference
from mergekit.options import MergeOptions
from peft import (
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from experiments.suites import language_texts as texts
from experiments.suites.language_models import FORMS, prepare_base
from experiments.suites.suite import (
    Place,
    State,
    Training,
    batches,
    fine_tuning,
    finished_folder,
    kept,
)
from mergekit_pcb.compare.evaluation import per_item
from mergekit_pcb.plugin.adapters import merge_adapters

# Tokens of a window of training text.
LENGTH = 128
TRAIN_BYTES = 420_000
_IGNORED = -100
# Extracts of a forward pass: the logits of one are 30 MB.
_BATCH = {"cpu": 8, "cuda": 16}


class Language:
    """SmolLM2-135M and five kinds of text, in one of three forms of fine-tuning.

    Of the form ``full`` the models are ordinary ones. Of ``lora`` they are adapters,
    which mergekit merges as ``base+adapter``. Of ``ia3`` what is merged are the vectors
    of the adapters themselves, and the base is the adapter that changes nothing.
    """

    tasks = tuple(texts.TRAINED)
    held_out = tuple(texts.UNSEEN)
    metric = "bits per byte"
    higher_is_better = False

    def __init__(self, place: Place, form: str = "full") -> None:
        self.place = place
        self.form = form
        self.name = "language" if form == "full" else f"language-{form}"
        self.front_end = "pytorch" if form == "ia3" else "yaml"
        self.training = FORMS[form].training
        self._texts: dict[str, texts.Texts] = {}
        self._encoded: dict[tuple[str, str], _Encoded] = {}

    def prepare(self) -> Path:
        """The folder of the base: a model, or (IA)^3 vectors that change nothing."""
        model = prepare_base(self.place.models / "smollm2", self.place.packages)
        if self.form != "ia3":
            return model
        folder = self.place.models / "smollm2-ia3"
        if not folder.exists():
            ones = {
                name: torch.ones_like(vector)
                for name, vector in get_peft_model_state_dict(self._adapted()).items()
            }
            with finished_folder(folder) as scratch:
                _save(ones, scratch)
        return folder

    def reference(self, folder: Path) -> str:
        """How a recipe names a fine-tune: an adapter with its base.

        mergekit merges adapters into their base first. That is done here, so that
        comparisons that run side by side find the whole models in `Place.adapters`.
        """
        if self.form != "lora":
            return str(folder)
        name = f"{self.prepare()}+{folder}"
        self._whole(name)
        return name

    def state(self, folder: Path) -> dict[str, torch.Tensor]:
        """The weights of the base, a fine-tune, or a merge, on the suite's device."""
        if (folder / "adapter_config.json").exists():
            folder = self._whole(f"{self.prepare()}+{folder}")
        return load_file(folder / "model.safetensors", device=self.place.device)

    def _whole(self, name: str) -> Path:
        model = ModelReference.parse(name)
        options = MergeOptions(lora_merge_cache=str(self.place.adapters))
        self.place.adapters.mkdir(parents=True, exist_ok=True)
        with FileLock(self.place.adapters / ".lock"):
            merge_adapters([model], options)
        return Path(model.merged(options.lora_merge_cache).local_path())

    def fine_tune(self, task: str, seed: int, training: Training, folder: Path) -> None:
        """Train all weights, or an adapter's, to predict the next token."""
        windows = self._windows(task)
        torch.manual_seed(seed)  # of an adapter's first weights
        model = self._fresh() if self.form == "full" else self._adapted()
        model.to(self.place.device).train()

        def loss(chosen: torch.Tensor) -> torch.Tensor:
            batch = windows[chosen].to(self.place.device)
            found: torch.Tensor = model(
                input_ids=batch, labels=batch, use_cache=False
            ).loss
            return found

        plan = batches(len(windows), training, seed)
        fine_tuning(model, plan, loss, training, f"{self.name}: {task}, seed {seed}")
        model.to("cpu")
        if self.form == "ia3":
            _save(get_peft_model_state_dict(model), folder)
        else:
            model.save_pretrained(folder)
            self._tokenizer.save_pretrained(folder)

    def scores(self, state: State, task: str, part: str) -> list[float]:
        """Bits per byte of each document of a part.

        The score of a task is all bits by all bytes. An item is a document's share of
        it in first order, so that the mean of the items is the score.
        """
        model = self._loaded(state)
        encoded = self._held_out(task, part)
        bits = torch.zeros(len(encoded.bytes), dtype=torch.float64)
        with torch.inference_mode(), _fast_arithmetic(self.place.device):
            for tokens, documents in encoded.batches:
                bits.index_add_(0, documents, bits_of(model, tokens))
        pairs = list(zip(bits.tolist(), encoded.bytes, strict=True))
        items = per_item(pairs, sum(bits.tolist()) / sum(encoded.bytes))
        if items is None:
            raise ValueError(f"{self.name}: {task} cannot be scored: bits are {bits}")
        return items

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return AutoTokenizer.from_pretrained(self._model_folder)

    @property
    def _model_folder(self) -> Path:
        return prepare_base(self.place.models / "smollm2", self.place.packages)

    def _fresh(self) -> PreTrainedModel:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            self._model_folder, dtype=torch.float32
        )
        return model

    def _adapted(self) -> PeftModel:
        adapter = FORMS[self.form].adapter
        assert adapter is not None
        adapted: PeftModel = get_peft_model(self._fresh(), adapter())
        return adapted

    @cached_property
    def _scratch(self) -> torch.nn.Module:
        model = self._adapted() if self.form == "ia3" else self._fresh()
        return model.to(self.place.device).eval()

    def _loaded(self, state: State) -> torch.nn.Module:
        model = self._scratch
        if self.form == "ia3":
            outcome = set_peft_model_state_dict(model, dict(state))
        else:
            outcome = model.load_state_dict(state, strict=False)
        if outcome.unexpected_keys:
            raise ValueError(f"no weights of {self.name}: {outcome.unexpected_keys}")
        return model

    def _text(self, task: str) -> texts.Texts:
        if task not in self._texts:
            trained = task in texts.TRAINED
            domain = (texts.TRAINED if trained else texts.UNSEEN)[task]
            size = TRAIN_BYTES if trained else 0
            fields = kept(
                self.place.items / f"language-{task}.pt",
                lambda: asdict(texts.read_texts(domain, self.place.packages, size)),
            )
            self._texts[task] = texts.Texts(**fields)
        return self._texts[task]

    def _windows(self, task: str) -> torch.Tensor:
        """The training text in pieces of equal length: ``(windows, LENGTH)``."""
        ids = self._tokenizer(self._text(task).train, add_special_tokens=False)
        tokens = torch.tensor(ids["input_ids"])
        return tokens[: len(tokens) // LENGTH * LENGTH].view(-1, LENGTH)

    def _held_out(self, task: str, part: str) -> _Encoded:
        key = task, part
        if key not in self._encoded:
            items = getattr(self._text(task), part)
            self._encoded[key] = _Encoded(items, self._tokenizer, self.place.device)
        return self._encoded[key]


class _Encoded:
    """Held-out documents, as batches of tokens.

    Attributes:
        bytes: of each document.
        batches: of each, tokens ``(extracts, length)``, -100 after the end of one, and
            the document that every extract is of.
    """

    def __init__(
        self,
        items: Sequence[texts.Item],
        tokenizer: PreTrainedTokenizerBase,
        device: str,
    ) -> None:
        extracts = [(extract, i) for i, item in enumerate(items) for extract in item]
        self.bytes = [sum(len(extract.encode()) for extract in item) for item in items]
        ids = tokenizer([extract for extract, _ in extracts], add_special_tokens=False)
        # The first token is predicted, too, from the one that begins every text.
        first = tokenizer.bos_token_id
        rows = [torch.tensor([first, *row]) for row in ids["input_ids"]]
        documents = torch.tensor([document for _, document in extracts])
        # Of about the same length, so that little is padding.
        order = torch.tensor(sorted(range(len(rows)), key=lambda i: len(rows[i])))
        self.batches = [
            (
                torch.nn.utils.rnn.pad_sequence(
                    [rows[i] for i in chosen],
                    batch_first=True,
                    padding_value=_IGNORED,
                ).to(device),
                documents[chosen],
            )
            for chosen in order.split(_BATCH[device])
        ]


def bits_of(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """The bits that a model needs for each text but its first token.

    Args:
        model: a causal language model.
        tokens: ``(texts, length)``, -100 after the end of a text.

    Returns:
        ``(texts,)``, float64, on the CPU.
    """
    # What stands after the end of a text changes nothing before it.
    logits = model(input_ids=tokens.clamp(min=0), use_cache=False).logits[:, :-1]
    nats = cross_entropy(
        logits.flatten(0, 1).float(),
        tokens[:, 1:].flatten(),
        ignore_index=_IGNORED,
        reduction="none",
    )
    return nats.view(len(tokens), -1).double().sum(dim=1).cpu() / math.log(2)


@contextmanager
def _fast_arithmetic(device: str) -> Iterator[None]:
    """TF32 products on a GPU, bfloat16 on a CPU, where float32 takes 1.6 times as long.

    Scores of the two differ by up to 0.001.
    """
    if device == "cpu":
        with torch.autocast("cpu", torch.bfloat16):
            yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _save(tensors: State, folder: Path) -> None:
    plain = {name: t.detach().float().contiguous() for name, t in tensors.items()}
    save_file(plain, folder / "model.safetensors", {"format": "pt"})
    # What `compare` asks of a folder; the architecture is not one of transformers.
    config = {"model_type": "ia3", "architectures": ["IA3Vectors"]}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
