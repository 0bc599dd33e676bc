"""``mergekit-pcb doctor``: would ``mergekit-yaml`` take ``merge_method: pcb`` here?"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import site
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from mergekit_pcb import __version__

SUPPORTED = ">=0.1.5,<0.2"
_PACKAGES = ("mergekit", "torch", "transformers", "pydantic", "numba")

# Runs in a fresh interpreter, because importing this package, which any code here has
# done, installs the hook that is to be examined. mergekit-yaml does not see the
# current folder, which `python -c` puts first on the path. The kernel comes last,
# because importing it installs the hook as well.
_PROBE = """
import json, sys
sys.path[:] = [entry for entry in sys.path if entry]
def one_line(error):
    return " ".join(f"{type(error).__name__}: {error}".split())
startup = sys.modules.get("_mergekit_pcb_startup")
started = getattr(startup, "started", False)
found = {"registered": None, "error": None, "startup_active": started}
try:
    from mergekit import merge_methods
    method = merge_methods.get("pcb")
    module = sys.modules.get("mergekit_pcb.plugin.method")
    if method is not getattr(module, "PCB", None):
        found["registered"] = "mergekit"
    else:
        found["registered"] = "start-up file" if started else "other"
except Exception as error:
    found["error"] = one_line(error)
try:
    from mergekit_pcb.kernel.backends import numba_problem
    found["numba_problem"] = numba_problem()
except Exception as error:
    found["numba_problem"] = one_line(error)
print()
print(json.dumps(found))
"""


@click.command()
@click.option(
    "--format",
    "output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How to print the report.",
)
def doctor(output: str) -> None:
    """Say whether mergekit-yaml accepts `merge_method: pcb` in this environment.

    If not, say why and what to do. Exits with 0 if it does and with 1 if not.

    \b
    $ mergekit-pcb doctor && mergekit-yaml recipe.yml merged/
    """  # noqa: D301 - click wants the character itself
    report = examine()
    if output == "json":
        click.echo(json.dumps(report, indent=2))
    else:
        click.echo(_as_text(report))
    sys.exit(0 if report["ok"] else 1)


def examine() -> dict[str, Any]:
    """Collect what decides whether ``pcb`` is there; starts a Python process.

    Returns:
        What ``--format json`` prints: ``ok``, ``versions``, ``executable``,
        ``mergekit_supported``, ``startup_file`` (path or None), ``registered``
        (``"start-up file"``, ``"mergekit"``, ``"other"`` or None), ``error`` (one line
        or None), ``startup_active``, ``numba_problem`` (empty if the compiled loops are
        available, else why not), ``autoload`` (the variable's value or None), ``notes``
        and ``advice`` (lists of lines).
    """
    versions: dict[str, str | None] = {
        "python": platform.python_version(),
        "mergekit-pcb": __version__,
        **{name: _version(name) for name in _PACKAGES},
    }
    probe, messages = _run_probe()
    supported = _supported(versions["mergekit"])
    startup_file = _startup_file()
    report: dict[str, Any] = {
        "ok": probe["registered"] is not None and supported,
        "versions": versions,
        "executable": sys.executable,
        "mergekit_supported": supported,
        "startup_file": str(startup_file) if startup_file else None,
        **probe,
        "autoload": os.environ.get("MERGEKIT_PCB_AUTOLOAD"),
        "notes": messages + _path_notes() + _speed_notes(probe),
    }
    report["advice"] = _advice(report)
    return report


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _supported(version: str | None) -> bool:
    release = tuple(int(part) for part in re.findall(r"\d+", version or "")[:3])
    return (0, 1, 5) <= release < (0, 2)


def _run_probe() -> tuple[dict[str, Any], list[str]]:
    """Return what the probe found, and our own lines of its standard error."""
    run = subprocess.run(
        [sys.executable, *_interpreter_flags(), "-c", _PROBE],
        capture_output=True,
        text=True,
        check=False,
    )
    messages = [x for x in run.stderr.splitlines() if x.startswith("mergekit-pcb:")]
    try:
        return json.loads(run.stdout.splitlines()[-1]), messages
    except (IndexError, ValueError):
        last = (run.stderr.strip().splitlines() or ["no output"])[-1]
        error = f"importing mergekit ended Python with status {run.returncode}: {last}"
        found = {"registered": None, "error": error, "startup_active": False}
        return {**found, "numba_problem": "not examined"}, messages


def _interpreter_flags() -> list[str]:
    """Return the flags of this process that decide about start-up files."""
    flags = sys.flags
    given = {"-S": flags.no_site, "-E": flags.ignore_environment}
    given["-s"] = flags.no_user_site
    return [flag for flag, is_set in given.items() if is_set]


def _startup_file() -> Path | None:
    """Return the start-up file that this version of Python would read."""
    name = "mergekit_pcb.start" if sys.version_info >= (3, 15) else "mergekit_pcb.pth"
    folders = [*site.getsitepackages(), site.getusersitepackages()]
    return next((p for f in folders if (p := Path(f, name)).is_file()), None)


def _path_notes() -> list[str]:
    """Return a note if the shell would run another environment's mergekit-yaml."""
    found = shutil.which("mergekit-yaml")
    ours = {Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))}
    ours.add(Path(sys.argv[0]).absolute().parent)
    if found is None or Path(found).parent in ours:
        return []
    return [f"`mergekit-yaml` on your PATH belongs to another environment: {found}"]


def _speed_notes(probe: dict[str, Any]) -> list[str]:
    """Return a note if merges run without the compiled loops, and how to have them."""
    reason = probe["numba_problem"]
    if not reason or not probe["registered"]:
        return []
    switches = ("MERGEKIT_PCB_NUMBA", "NUMBA_DISABLE_JIT")
    unset = [f"unset {name}" for name in switches if name in reason]
    remedy = unset[0] if unset else "pip install --upgrade numba"
    return [f"Merges run several times slower without the compiled loops: {remedy}"]


def _advice(report: dict[str, Any]) -> list[str]:
    """Return what to do; a cause that hides others comes first."""
    if report["versions"]["mergekit"] is None:
        return [f"install mergekit: pip install 'mergekit{SUPPORTED}'"]
    advice = []
    if not report["mergekit_supported"]:
        advice.append(f"needs mergekit {SUPPORTED}: pip install 'mergekit{SUPPORTED}'")
    if report["registered"] == "mergekit":
        advice.append("mergekit has a method `pcb` of its own and uses that one")
    if report["registered"]:
        return advice
    way_out = "use `mergekit-pcb merge` instead of `mergekit-yaml`"
    if report["autoload"] == "0":
        advice.append(f"MERGEKIT_PCB_AUTOLOAD=0 is set: unset it, or {way_out}")
    elif report["startup_file"] is None:
        advice.append(
            "no start-up file in site-packages (pip's --target and PYTHONPATH put none "
            "there): install again, from the clone or the wheel, without --target, or "
            + way_out
        )
    elif not report["startup_active"]:
        advice.append(f"Python did not run the start-up file (python -S?): {way_out}")
    elif "Unimplemented merge method" in (report["error"] or ""):
        advice.append(
            "the start-up file ran and mergekit did not take the method: see the line "
            "that begins with `mergekit-pcb:` above"
        )
    else:
        advice.append("mergekit cannot be imported: reinstall it, see the error above")
    return advice


def _as_text(report: dict[str, Any]) -> str:
    rows = {name: found or "missing" for name, found in report["versions"].items()}
    where = report["startup_file"] or "missing"
    active = "active" if report["startup_active"] else "not active"
    rows |= {
        "executable": report["executable"],
        "start-up file": f"{where} ({active})",
        "MERGEKIT_PCB_AUTOLOAD": report["autoload"] or "not set",
        "pcb registered by": report["registered"] or "nobody",
        "compiled loops": report["numba_problem"] or "available",
    }
    if report["error"]:
        rows["error"] = report["error"]
    width = max(map(len, rows))
    lines = [f"{name:<{width}}  {value}" for name, value in rows.items()]
    lines += ["", *report["notes"]] if report["notes"] else [""]
    if report["ok"]:
        lines.append("Good: `mergekit-yaml` accepts `merge_method: pcb`.")
    else:
        lines.append("Not good: `mergekit-yaml` would not run `merge_method: pcb`.")
    return "\n".join(lines + [f"* {line}" for line in report["advice"]])
