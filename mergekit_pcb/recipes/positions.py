"""Read YAML as mergekit does, with the line and column of every value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from mergekit_pcb.recipes.findings import ADVICE, ERROR, Finding

_UNQUOTED_BRACES = "a list or mapping cannot be a key"

# A recipe that people write has some hundred values. With aliases of aliases a file of
# a kilobyte has more values than fit into memory.
_MOST_VALUES = 20_000
_MOST_MERGED = 1_000

_DASH = (
    "this `-` does not line up with the list above it",
    "indent every `-` of a list by the same number of spaces",
)
_KEY = (
    "this key does not line up with the keys above it",
    "indent the keys of one entry by the same number of spaces",
)

# PyYAML describes what its scanner found, not what is wrong in the text.
_PLAIN_WORDS = {
    "found character '\\t' that cannot start any token": (
        "a tab cannot indent YAML",
        "write spaces",
    ),
    "mapping values are not allowed here": (
        "a `:` is not allowed here",
        "indent the key like its neighbours, or put quotes around the text",
    ),
    _UNQUOTED_BRACES: (_UNQUOTED_BRACES, "put quotes around text with braces"),
    "could not find expected ':'": (
        "a key without `: ` and a value",
        "write `key: value`, with a space after the colon",
    ),
    "expected <block end>, but found '-'": _DASH,
    "expected <block end>, but found '<block sequence start>'": _DASH,
    "expected <block end>, but found '?'": _KEY,
    "expected <block end>, but found '<block mapping start>'": _KEY,
}


@dataclass(frozen=True, eq=False)
class Place:
    """A value of the recipe and its position in the file.

    ``value`` is what ``yaml.safe_load`` gives. A mapping has ``fields`` and the
    places of their ``keys``; a list has ``items``; any other value has neither, so
    every place can be searched for every key.
    """

    file: str
    line: int
    column: int
    path: str
    value: Any
    fields: Mapping[str, Place] = field(default_factory=dict)
    keys: Mapping[str, Place] = field(default_factory=dict)
    items: tuple[Place, ...] = ()
    # Whether a YAML alias elsewhere refers to this value or into it.
    anchored: bool = False

    def get(self, key: str) -> Place | None:
        """The place of ``key``'s value; None when it is absent or empty."""
        found = self.fields.get(key)
        return None if found is None or found.value is None else found

    def items_of(self, key: str) -> tuple[Place, ...]:
        """The entries of the list at ``key``; none when there is no such list."""
        return self.fields[key].items if key in self.fields else ()

    def error(self, message: str, fix: str = "") -> Finding:
        """An error at this place; ``fix`` says what to write instead."""
        return Finding(
            self.file, self.line, self.column, ERROR, message, fix, self.path
        )

    def advice(self, message: str, fix: str = "") -> Finding:
        """Advice at this place."""
        return replace(self.error(message, fix), severity=ADVICE)

    def walk(self) -> Iterator[Place]:
        """This place and everything inside it."""
        yield self
        for child in (*self.fields.values(), *self.items):
            yield from child.walk()


def read(text: str, file: str) -> tuple[list[Place], list[Finding]]:
    """The documents of a YAML text, and what is wrong with it as YAML."""
    documents: list[Place] = []
    findings: list[Finding] = []
    try:
        reader = _Reader(text, file, findings)
        while reader.check_node():
            documents.append(reader.document(len(documents)))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return [], [*findings, _unreadable(error, text, file)]
    return documents, findings


def _unreadable(error: Exception, text: str, file: str) -> Finding:
    line, column = 1, 1
    problem = getattr(error, "problem", None) or str(error)
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        line, column = mark.line + 1, mark.column + 1
    elif isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        problem = f"the character {text[error.position]!a} is not allowed"
    if isinstance(error, _TooMuch):
        return Finding(file, line, column, ERROR, problem, rule="yaml-syntax")
    message, fix = _PLAIN_WORDS.get(problem, (f"not valid YAML: {problem}", ""))
    return Finding(file, line, column, ERROR, message, fix, rule="yaml-syntax")


class _TooMuch(yaml.MarkedYAMLError):
    """More values than a recipe can have."""

    def __init__(self, where: str, most: int, node: yaml.Node) -> None:
        problem = f"more than {most:,} values{where}, which no recipe has"
        super().__init__(problem=problem, problem_mark=node.start_mark)


class _Reader(yaml.SafeLoader):
    """PyYAML's loader, which also remembers what is not in its nodes."""

    def __init__(self, text: str, file: str, findings: list[Finding]) -> None:
        super().__init__(text)
        self._file = file
        self._findings = findings
        # By the id of the node.
        self._aliased: set[int] = set()
        self._own_keys: dict[int, set[int]] = {}
        self._open: set[int] = set()
        self._composed = 0
        self._values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        self._composed += 1
        if node is not None and self._composed > _MOST_VALUES:
            raise _TooMuch("", _MOST_VALUES, node)
        if is_alias:
            self._aliased.add(id(node))
        elif isinstance(node, yaml.MappingNode):
            self._own_keys[id(node)] = {id(key) for key, _ in node.value}
        return node

    def document(self, number: int) -> Place:
        self._aliased.clear()
        start = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        node = self.get_node()
        assert node is not None, "the caller asked check_node"
        place = self._place(node, f"documents[{number}]" if number else "")
        if place.value is None:
            # For PyYAML an empty document is at the end of the file.
            return replace(place, line=start.line + 1, column=start.column + 1)
        return place

    def _place(self, node: yaml.Node, path: str) -> Place:
        if id(node) in self._open:
            raise yaml.constructor.ConstructorError(
                None, None, f"the alias at `{path}` contains itself", node.start_mark
            )
        self._values += 1
        if self._values > _MOST_VALUES:
            raise _TooMuch(", aliases put in", _MOST_VALUES, node)
        self._open.add(id(node))
        fields: dict[str, Place] = {}
        keys: dict[str, Place] = {}
        items: tuple[Place, ...] = ()
        if isinstance(node, yaml.MappingNode):
            fields, keys = self._mapping(node, path)
            value: Any = {keys[name].value: fields[name].value for name in fields}
        elif isinstance(node, yaml.SequenceNode):
            items = tuple(
                self._place(child, f"{path}[{index}]")
                for index, child in enumerate(node.value)
            )
            value = [item.value for item in items]
        else:
            value = self.construct_object(node, deep=True)
        self._open.discard(id(node))
        return Place(
            file=self._file,
            line=node.start_mark.line + 1,
            column=node.start_mark.column + 1,
            path=path,
            value=value,
            fields=fields,
            keys=keys,
            items=items,
            anchored=id(node) in self._aliased
            or any(child.anchored for child in (*fields.values(), *items)),
        )

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge" and len(value.value) > _MOST_MERGED:
                raise _TooMuch(" behind `<<`", _MOST_MERGED, key)
        super().flatten_mapping(node)
        if len(node.value) > _MOST_VALUES:
            raise _TooMuch(" behind `<<`", _MOST_VALUES, node)

    def _mapping(
        self, node: yaml.MappingNode, path: str
    ) -> tuple[dict[str, Place], dict[str, Place]]:
        fields: dict[str, Place] = {}
        keys: dict[str, Place] = {}
        written: dict[str, Place] = {}
        try:
            # Puts what `<<` brings in before the keys of the mapping itself.
            self.flatten_mapping(node)
        except yaml.constructor.ConstructorError as error:
            error.problem = "`<<` takes a mapping or a list of them"
            error.problem_mark = error.context_mark
            raise
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, _UNQUOTED_BRACES, key_node.start_mark
                )
            name = str(self.construct_object(key_node))
            where = f"{path}.{name}" if path else name
            key = self._place(key_node, where)
            # The value of a repeated key may still be in use through its anchor.
            if name in written and not fields[name].anchored:
                twice = key.error(
                    f"`{name}` is written twice, first on line {written[name].line}, "
                    "and only the last one counts",
                    "remove one of them",
                )
                self._findings.append(replace(twice, rule="duplicate-key"))
            fields[name], keys[name] = self._place(value_node, where), key
            if id(key_node) in self._own_keys[id(node)]:
                written[name] = key
        return fields, keys
