"""`mergekit-pcb check`: what is wrong with a recipe, before anything is downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mergekit_pcb.output.text import echo
from mergekit_pcb.printable import printable
from mergekit_pcb.recipes.findings import ADVICE, ERROR, Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mergekit_pcb.check.linter import Examined


def _print_rules(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    # mergekit takes seconds to import, which `--help` need not.
    from mergekit_pcb.check.rules import RULES

    width = max(map(len, RULES))
    for rule, description in RULES.items():
        click.echo(f"{rule:{width}}  {description}")
    ctx.exit()


@click.command()
@click.argument(
    "recipes",
    metavar="RECIPE...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
)
@click.option(
    "--kind",
    type=click.Choice(("auto", "yaml", "multi", "pytorch")),
    default="auto",
    help="The command the recipe is for: mergekit-yaml, mergekit-multi or "
    "mergekit-pytorch.  [default: seen from the recipe]",
)
@click.option(
    "--format",
    "layout",
    type=click.Choice(("text", "json")),
    default="text",
    show_default=True,
    help="Lines for people and editors, or one JSON object.",
)
@click.option("--strict", is_flag=True, help="Exit with status 1 on advice, too.")
@click.option("--quiet", "-q", is_flag=True, help="Print errors only.")
@click.option(
    "--rules",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_rules,
    help="Print id and meaning of every rule, and exit.",
)
@click.pass_context
def check(
    ctx: click.Context,
    recipes: Sequence[str],
    kind: str,
    layout: str,
    strict: bool,
    quiet: bool,
) -> None:
    """Find what is wrong with a merge RECIPE before gigabytes are downloaded.

    Reads recipes for any merge method, and headers of local weight files, but no
    weights; asks no server. mergekit drops unknown keys in silence and meets most
    other mistakes after the download; here each is one line: where it is, what is
    wrong, what to write instead.

    \b
    $ mergekit-pcb check recipe.yml
    recipe.yml:5:7: error: `pcb` has no parameter `densty`; did you mean `density`?
    1 error in recipe.yml

    An error stops mergekit or makes it do something else than the recipe says;
    advice is no certain mistake. RECIPE `-` is the standard input. Exit status: 0
    without errors, 1 with errors, 2 when the command itself is used wrongly.
    """  # noqa: D301 - click wants the character itself
    findings: list[Finding] = []
    listed: list[Finding] = []
    lines: list[str] = []
    for recipe in recipes:
        name = "stdin" if recipe == "-" else recipe
        examined = _examine_file(recipe, name, kind)
        findings += examined.findings
        shown = [f for f in examined.findings if f.severity == ERROR or not quiet]
        listed += shown
        lines += [_coloured(finding) for finding in shown]
        if not quiet:
            lines.append(printable(_summary(name, examined)))
    if layout == "json":
        lines = [_json(listed)]
    for line in lines:
        echo(line)
    if any(strict or finding.severity == ERROR for finding in findings):
        ctx.exit(1)


def _examine_file(path: str, name: str, kind: str) -> Examined:
    from mergekit_pcb.check.linter import Examined, examine
    from mergekit_pcb.errors import PCBError
    from mergekit_pcb.recipes.reading import recipe_text

    try:
        text = recipe_text(path)
    except PCBError as error:
        finding = Finding(name, 1, 1, ERROR, error.message, rule="not-text")
        return Examined([finding], [])
    try:
        return examine(text, name, kind)
    except OSError as error:  # of a model's folder
        reason = f"{error.filename}: {error.strerror}"
        return Examined([Finding(name, 1, 1, ERROR, reason, rule="unreadable")], [])


def _coloured(finding: Finding) -> str:
    colour = "red" if finding.severity == ERROR else "yellow"
    severity = click.style(finding.severity, fg=colour, bold=True)
    return str(finding).replace(f" {finding.severity}: ", f" {severity}: ", 1)


def _summary(name: str, examined: Examined) -> str:
    errors, advice = _counts(examined.findings)
    parts = [f"{errors} error{'s' * (errors > 1)}"] if errors else []
    parts += [f"{advice} advice"] if advice else []
    if parts:
        return f"{', '.join(parts)} in {name}"
    documents = examined.documents
    methods = [document.spec.name for document in documents if document.spec]
    if len(documents) == 1:
        based = documents[0].is_pcb
        count = len(documents[0].models) - based
        listed = f"{'base and ' * based}{count} model{'s' * (count != 1)}"
        return f"{name}: ok ({methods[0]}, {listed})"
    return f"{name}: ok ({len(documents)} merges: {', '.join(methods)})"


def _counts(findings: Sequence[Finding]) -> tuple[int, int]:
    """How many errors, and how much advice."""
    severities = [finding.severity for finding in findings]
    return severities.count(ERROR), severities.count(ADVICE)


def _json(findings: Sequence[Finding]) -> str:
    import json
    from dataclasses import asdict

    errors, advice = _counts(findings)
    listed = [asdict(finding) for finding in findings]
    report = {"errors": errors, "advice": advice, "findings": listed}
    text = json.dumps(report, indent=2, ensure_ascii=False)
    # JSON leaves some characters as they are that steer a terminal.
    return "".join(
        c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text
    )
