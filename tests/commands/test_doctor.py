"""`mergekit-pcb doctor`: what it finds in an environment, and what it advises."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from typing import Any

import pytest
from click.testing import CliRunner, Result
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mergekit_pcb import __version__
from mergekit_pcb.cli import main
from mergekit_pcb.commands import doctor
from mergekit_pcb.kernel.backends import numba_problem

AS_COMMAND = "from mergekit_pcb.cli import main; main()"
SLOW = "Merges run several times slower without the compiled loops: "


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["doctor", *arguments])


def row(output: str, name: str) -> str:
    (value,) = re.findall(rf"^{re.escape(name)}  +(.*)$", output, re.MULTILINE)
    return value


def test_all_is_well_here() -> None:
    """In the environment of the tests, the start-up file works."""
    result = subprocess.run(
        [sys.executable, "-c", AS_COMMAND, "doctor", "--format", "json"],
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "MERGEKIT_PCB_AUTOLOAD"},
        check=False,
    )
    report = json.loads(result.stdout)
    assert result.returncode == 0
    assert report["ok"]
    assert report["registered"] == "start-up file"
    assert report["startup_active"]
    assert report["versions"]["mergekit-pcb"] == __version__
    assert report["numba_problem"] == numba_problem()
    assert report["advice"] == []


def test_the_opt_out_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the hook switched off, doctor exits with 1 and says what to do."""
    monkeypatch.setenv("MERGEKIT_PCB_AUTOLOAD", "0")
    result = call()
    assert result.exit_code == 1
    assert "* MERGEKIT_PCB_AUTOLOAD=0 is set: unset it, or use" in result.stdout


def test_compiled_loops_switched_off_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them all is well, only slower; doctor says how to have them back."""
    monkeypatch.setenv("MERGEKIT_PCB_NUMBA", "0")
    result = call()
    assert result.exit_code == 0
    off = "switched off by MERGEKIT_PCB_NUMBA=0"
    assert row(result.stdout, "compiled loops") == off
    assert f"{SLOW}unset MERGEKIT_PCB_NUMBA\n" in result.stdout


@pytest.mark.parametrize(
    ("status", "shown", "notes"),
    [
        ("", "available", []),
        ("NUMBA_DISABLE_JIT is set", None, [f"{SLOW}unset NUMBA_DISABLE_JIT"]),
        ("numba is not installed", None, [f"{SLOW}pip install --upgrade numba"]),
    ],
)
def test_the_compiled_loops_have_a_row(
    monkeypatch: pytest.MonkeyPatch, status: str, shown: str | None, notes: list[str]
) -> None:
    """The reason why they are not available stands in it, a remedy below."""
    found = {
        "registered": "start-up file",
        "startup_active": True,
        "error": None,
        "numba_problem": status,
    }
    monkeypatch.setattr(doctor, "_run_probe", lambda: (found, []))
    monkeypatch.setattr(doctor, "_path_notes", list)
    result = call()
    assert result.exit_code == 0
    assert row(result.stdout, "compiled loops") == (shown or status)
    assert all(note in result.stdout for note in notes)
    assert json.loads(call("--format", "json").stdout)["notes"] == notes


def test_a_probe_that_crashes_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ended Python stands in the report; nothing is said about speed."""
    monkeypatch.setattr(doctor, "_PROBE", "import sys; sys.exit('no such library')")
    monkeypatch.setattr(doctor, "_path_notes", list)
    result = call()
    assert result.exit_code == 1
    ended = "importing mergekit ended Python with status 1: no such library"
    assert row(result.stdout, "error") == ended
    assert SLOW not in result.stdout


@pytest.mark.parametrize(
    ("version", "supported"),
    [
        ("0.1.5", True),
        ("0.1.5.post1", True),
        ("0.1.12", True),
        ("0.1.4", False),
        ("0.2.0", False),
        ("1.0", False),
        (None, False),
    ],
)
def test_the_supported_range(version: str | None, supported: bool) -> None:
    """From 0.1.5 up to, not including, 0.2."""
    assert doctor._supported(version) is supported


def test_the_supported_range_is_the_one_that_pip_installs() -> None:
    """The requirement of the package names the same versions."""
    required = [Requirement(text) for text in metadata.requires("mergekit-pcb") or ()]
    (mergekit,) = [each for each in required if each.name == "mergekit"]
    assert mergekit.specifier == SpecifierSet(doctor.SUPPORTED)


@pytest.mark.parametrize(
    ("found", "advice"),
    [
        ({"versions": {"mergekit": None}}, "install mergekit"),
        ({"mergekit_supported": False}, "needs mergekit >=0.1.5,<0.2"),
        ({"registered": "mergekit"}, "of its own"),
        ({"autoload": "0"}, "MERGEKIT_PCB_AUTOLOAD=0 is set"),
        ({"startup_file": None}, "no start-up file"),
        ({"startup_active": False}, "did not run the start-up file"),
        ({"error": "RuntimeError: Unimplemented merge method pcb"}, "did not take"),
        ({"error": "ImportError: x"}, "cannot be imported"),
    ],
)
def test_every_cause_has_its_advice(found: dict[str, Any], advice: str) -> None:
    """The first line of advice is about the cause that hides the others."""
    report = {
        "versions": {"mergekit": "0.1.5"},
        "mergekit_supported": True,
        "registered": None,
        "autoload": None,
        "startup_file": "mergekit_pcb.pth",
        "startup_active": True,
        "error": None,
    }
    assert advice in doctor._advice(report | found)[0]
