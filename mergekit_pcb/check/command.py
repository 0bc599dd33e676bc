"""`mergekit-pcb check`: what is wrong with a recipe, before anything is downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mergekit_pcb.check.rules.document import Document
    from mergekit_pcb.recipes.findings import Finding

KINDS = ("auto", "yaml", "multi", "pytorch")


def check_recipe(text: str, source_name: str, kind: str = "auto") -> list[Finding]:
    """Everything that is wrong with a mergekit recipe, in the order of its lines.

    Args:
        text: The YAML, as `mergekit-yaml`, `mergekit-multi` or `mergekit-pytorch`
            reads it.
        source_name: What findings call the file.
        kind: The command it is for: `yaml`, `multi`, `pytorch`, or `auto` to see
            from the text.

    Example:
        >>> for finding in check_recipe("merge_method: tise", "recipe.yml"):
        ...     print(finding)
        recipe.yml:1:1: error: there is nothing to merge here; list the models ...
        recipe.yml:1:15: error: there is no merge method `tise`; did you mean `ties`?
    """
    return _examine(text, source_name, kind)[0]


def _examine(
    text: str, source_name: str, kind: str
) -> tuple[list[Finding], list[Document]]:
    # mergekit takes seconds to import, which `--help` need not.
    from mergekit_pcb.check.rules import findings_between, findings_of
    from mergekit_pcb.check.rules.document import MULTI
    from mergekit_pcb.check.rules.kinds import documents_of
    from mergekit_pcb.recipes.positions import read

    places, findings = read(text, source_name)
    if findings and not places:
        return findings, []
    documents, more = documents_of(places, source_name, kind)
    findings += more
    for document in documents:
        findings += findings_of(document)
    if any(document.kind == MULTI for document in documents):
        findings += findings_between(documents)
    # A value that YAML aliases stands in several places and is told once.
    told = {(f.line, f.column, f.message): f for f in reversed(findings)}
    return sorted(told.values()), documents


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
    type=click.Choice(KINDS),
    default="auto",
    help="The command the recipe is for: mergekit-yaml, mergekit-multi or "
    "mergekit-pytorch.  [default: seen from the recipe]",
)
@click.option(
    "--format",
    "layout",
    type=click.Choice(("text", "json")),
    default="text",
    help="Lines for people and editors, or one JSON object.",
)
@click.option("--strict", is_flag=True, help="Exit with status 1 on advice, too.")
@click.option("--quiet", "-q", is_flag=True, help="Print errors only.")
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

    Reads recipes for any merge method, opens no weights and asks no server. mergekit
    drops unknown keys in silence and meets most other mistakes after the download;
    here each is one line: where it is, what is wrong, what to write instead.

    \b
    $ mergekit-pcb check recipe.yml
    recipe.yml:5:7: error: `pcb` has no parameter `densty`; did you mean `density`?
    1 error in recipe.yml

    An error stops mergekit or makes it do something else than the recipe says;
    advice runs as written. RECIPE `-` is the standard input. Exit status: 0 without
    errors, 1 with errors, 2 when the command itself is used wrongly.
    """  # noqa: D301 - click wants the character itself
    from mergekit_pcb.recipes.findings import ERROR

    findings: list[Finding] = []
    lines: list[str] = []
    for recipe in recipes:
        name = "stdin" if recipe == "-" else recipe
        found, documents = _examine_file(recipe, name, kind)
        findings += found
        shown = [f for f in found if f.severity == ERROR or not quiet]
        lines += [_coloured(finding) for finding in shown]
        if not quiet:
            lines.append(_summary(name, found, documents))
    if layout == "json":
        lines = [_json(findings)]
    for line in lines:
        click.echo(line)
    if any(strict or finding.severity == ERROR for finding in findings):
        ctx.exit(1)


def _examine_file(
    path: str, name: str, kind: str
) -> tuple[list[Finding], list[Document]]:
    from mergekit_pcb.recipes.findings import ERROR, Finding

    try:
        with click.open_file(path, encoding="utf-8") as file:
            text = file.read()
    except UnicodeDecodeError:
        problem = "the file is not UTF-8 text"
        return [Finding(name, 1, 1, ERROR, problem, "save it as UTF-8")], []
    return _examine(text, name, kind)


def _coloured(finding: Finding) -> str:
    colour = "red" if finding.severity == "error" else "yellow"
    severity = click.style(finding.severity, fg=colour, bold=True)
    where, _, rest = str(finding).partition(f" {finding.severity}: ")
    return f"{where} {severity}: {rest}"


def _summary(name: str, findings: list[Finding], documents: list[Document]) -> str:
    counts = {
        kind: sum(f.severity == kind for f in findings) for kind in ("error", "advice")
    }
    if findings:
        parts = [
            f"{count} {kind}{'s' * (kind == 'error' and count > 1)}"
            for kind, count in counts.items()
            if count
        ]
        return f"{', '.join(parts)} in {name}"
    methods = [document.spec.name for document in documents if document.spec]
    if len(documents) == 1:
        count = len(documents[0].models)
        return f"{name}: ok ({methods[0]}, {count} model{'s' * (count != 1)})"
    return f"{name}: ok ({len(documents)} merges: {', '.join(methods)})"


def _json(findings: list[Finding]) -> str:
    import json
    from dataclasses import asdict

    report = {
        "errors": sum(finding.severity == "error" for finding in findings),
        "advice": sum(finding.severity == "advice" for finding in findings),
        "findings": [asdict(finding) for finding in findings],
    }
    return json.dumps(report, indent=2, ensure_ascii=False)
