"""Read YAML as mergekit does, with the line and column of every value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from mergekit_pcb.recipes.findings import ADVICE, ERROR, Finding

_MERGE_TAG = "tag:yaml.org,2002:merge"

_UNQUOTED_BRACES = "a list or mapping cannot be a key"

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

    def error(self, message: str, fix: str = "") -> Finding:
        """An error at this place; ``fix`` says what to write instead."""
        return self._finding(ERROR, message, fix)

    def advice(self, message: str, fix: str = "") -> Finding:
        """Advice at this place."""
        return self._finding(ADVICE, message, fix)

    def _finding(self, severity: str, message: str, fix: str) -> Finding:
        return Finding(
            self.file, self.line, self.column, severity, message, fix, self.path
        )

    def walk(self) -> Iterator[Place]:
        """This place and everything inside it."""
        yield self
        for child in (*self.fields.values(), *self.items):
            yield from child.walk()


def read(text: str, file: str) -> tuple[list[Place], list[Finding]]:
    """The documents of a YAML text, and what is wrong with it as YAML."""
    reader = _Reader(file)
    documents = []
    try:
        for number, node in enumerate(yaml.compose_all(text, Loader=yaml.SafeLoader)):
            documents.append(reader.document(node, number))
            if documents[-1].value is None:
                # For PyYAML an empty document is at the end of the file.
                documents[-1] = _at_its_start(documents[-1], text, number)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return [], [*reader.findings, _unreadable(error, text, file)]
    return documents, reader.findings


def _at_its_start(place: Place, text: str, number: int) -> Place:
    starts = [
        event.start_mark
        for event in yaml.parse(text, Loader=yaml.SafeLoader)
        if isinstance(event, yaml.DocumentStartEvent)
    ]
    mark = starts[number]
    assert mark is not None, "the parser marks every event"
    return replace(place, line=mark.line + 1, column=mark.column + 1)


def _unreadable(error: Exception, text: str, file: str) -> Finding:
    line, column = 1, 1
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        line, column = mark.line + 1, mark.column + 1
    elif isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    problem = getattr(error, "problem", None) or str(error)
    if isinstance(error, yaml.reader.ReaderError):
        problem = f"the character {text[error.position]!a} is not allowed"
    message, fix = _PLAIN_WORDS.get(problem, (f"not valid YAML: {problem}", ""))
    return Finding(file, line, column, ERROR, message, fix, rule="yaml-syntax")


class _Reader:
    def __init__(self, file: str) -> None:
        self.file = file
        self.findings: list[Finding] = []
        self._references: Counter[int] = Counter()
        self._open: set[int] = set()

    def document(self, node: yaml.Node, number: int) -> Place:
        self._references = _count_references(node)
        return self._place(node, f"documents[{number}]" if number else "")

    def _place(self, node: yaml.Node, path: str) -> Place:
        if id(node) in self._open:
            raise yaml.constructor.ConstructorError(
                None, None, f"the alias at `{path}` contains itself", node.start_mark
            )
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
            value = _scalar(node)
        self._open.discard(id(node))
        return Place(
            file=self.file,
            line=node.start_mark.line + 1,
            column=node.start_mark.column + 1,
            path=path,
            value=value,
            fields=fields,
            keys=keys,
            items=items,
            anchored=self._references[id(node)] > 1
            or any(child.anchored for child in (*fields.values(), *items)),
        )

    def _mapping(
        self, node: yaml.MappingNode, path: str
    ) -> tuple[dict[str, Place], dict[str, Place]]:
        fields: dict[str, Place] = {}
        keys: dict[str, Place] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE_TAG:
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, _UNQUOTED_BRACES, key_node.start_mark
                )
            name = str(_scalar(key_node))
            where = f"{path}.{name}" if path else name
            key = self._place(key_node, where)
            # The value of a repeated key may still be in use through its anchor.
            if name in keys and not fields[name].anchored:
                twice = key.error(
                    f"`{name}` is written twice, first on line {keys[name].line}, and "
                    "only the last one counts",
                    "remove one of them",
                )
                self.findings.append(replace(twice, rule="duplicate-key"))
            fields[name], keys[name] = self._place(value_node, where), key
        # What `<<` brings in never replaces a key of the mapping itself.
        for merged in _merged_into(node):
            more_fields, more_keys = self._mapping(merged, path)
            fields = {**more_fields, **fields}
            keys = {**more_keys, **keys}
        return fields, keys


def _merged_into(node: yaml.MappingNode) -> list[yaml.MappingNode]:
    found: list[yaml.Node] = []
    for key_node, value_node in node.value:
        if key_node.tag == _MERGE_TAG:
            many = isinstance(value_node, yaml.SequenceNode)
            found += value_node.value if many else [value_node]
    mappings = [merged for merged in found if isinstance(merged, yaml.MappingNode)]
    if len(mappings) < len(found):
        raise yaml.constructor.ConstructorError(
            None, None, "`<<` takes a mapping or a list of them", node.start_mark
        )
    return mappings


def _scalar(node: yaml.Node) -> Any:
    return yaml.constructor.SafeConstructor().construct_object(node, deep=True)


def _count_references(root: yaml.Node) -> Counter[int]:
    """How many parents refer to each node: an alias is a second reference."""
    counts: Counter[int] = Counter()
    todo = [root]
    while todo:
        node = todo.pop()
        counts[id(node)] += 1
        if counts[id(node)] > 1:
            continue
        if isinstance(node, yaml.MappingNode):
            todo += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            todo += node.value
    return counts
