"""A recipe's text, changed in a few places; comments and layout stay.

What is to be changed is given as the values that the text shall have. So the text that
comes out can be read again and compared: where it has other values, or the places
cannot be found in the text, the caller is told and writes the values plainly instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import yaml

from mergekit_pcb.recipes.positions import read

_ALIAS = "alias"


class _Edit(NamedTuple):
    """What stands from character ``start`` up to ``end``, and the text instead."""

    start: int
    end: int
    text: str


def with_values(
    text: str, documents: Sequence[dict[str, Any]], comments: Sequence[str]
) -> str | None:
    """Change a YAML text so that it has other values.

    Keys may be missing in mappings, be new at the top level, and values without
    items may differ.

    Args:
        text: YAML, one mapping or several.
        documents: the values that the text shall have.
        comments: for each document lines to write above its `merge_method`, without
            the sign of a comment; may be empty.

    Returns:
        The text, or None if the changes cannot be made in it.
    """
    if "\r\n" in text:
        unix = with_values(text.replace("\r\n", "\n"), documents, comments)
        return unix and unix.replace("\n", "\r\n")
    try:
        nodes = list(_nodes(text))
        edits = [
            edit
            for node, values, comment in zip(nodes, documents, comments, strict=True)
            for edit in _document(text, node, values, comment)
        ]
        changed = _edited(text, edits)
        if _values(changed) == list(documents):
            return changed
    except (yaml.YAMLError, ValueError):
        pass
    return None


def in_yaml(documents: Sequence[dict[str, Any]], comments: Sequence[str]) -> str:
    """The same values as text of our own layout."""
    texts = [
        _as_comment(comment, "")
        + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=math.inf)
        for values, comment in zip(documents, comments, strict=True)
    ]
    return "---\n".join(texts)


def _values(text: str) -> list[Any]:
    places, findings = read(text, "")
    return [] if findings and not places else [place.value for place in places]


class _Composer(yaml.SafeLoader):
    """A composer that keeps aliases where they stand in the text."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.get_event()  # type: ignore[no-untyped-call]
            return yaml.ScalarNode(_ALIAS, "", event.start_mark, event.end_mark)
        return super().compose_node(parent, index)


def _nodes(text: str) -> Iterator[yaml.Node]:
    composer = _Composer(text)
    try:
        while composer.check_node():
            node = composer.get_node()
            if node is not None:
                yield node
    finally:
        composer.dispose()


def _document(
    text: str, node: yaml.Node, values: dict[str, Any], comment: str
) -> Iterator[_Edit]:
    if not isinstance(node, yaml.MappingNode):
        raise ValueError("a recipe is a mapping")
    yield from _changes(text, node, values)
    keys = {key.value: (key, value) for key, value in node.value}
    method, written = keys["merge_method"]
    new = {name: value for name, value in values.items() if name not in keys}
    if new and node.flow_style:
        line = yaml.safe_dump(
            new,
            sort_keys=False,
            allow_unicode=True,
            default_flow_style=True,
            width=math.inf,
        )
        end = written.end_mark.index
        yield _Edit(end, end, f", {line.strip()[1:-1]}")
    elif new:
        lines = yaml.safe_dump(new, sort_keys=False, allow_unicode=True, width=math.inf)
        indented = "".join(
            " " * method.start_mark.column + line
            for line in lines.splitlines(keepends=True)
        )
        after = _line_end(text, written.end_mark.index)
        # The last line of a text need not end.
        ended = after > 0 and text[after - 1] == "\n"
        yield _Edit(after, after, indented if ended else "\n" + indented)
    if comment:
        above = _line_start(text, (node if node.flow_style else method).start_mark)
        indent = "" if node.flow_style else " " * method.start_mark.column
        yield _Edit(above, above, _as_comment(comment, indent))


def _as_comment(lines: str, indent: str) -> str:
    written = (f"{indent}# {line}".rstrip() for line in lines.splitlines())
    return "".join(f"{line}\n" for line in written)


def _changes(text: str, node: yaml.Node, values: Any) -> Iterator[_Edit]:
    """What to change in the text of a node so that it has these values."""
    if isinstance(node, yaml.MappingNode):
        if not isinstance(values, dict):
            raise ValueError("another kind of value")
        items = [
            (key, value, key.value in values or key.value == "<<")
            for key, value in node.value
        ]
        cut = _cut_from_flow if node.flow_style else _cut_lines
        yield from cut(text, items)
        for key, value, present in items:
            if present and key.value in values:
                yield from _changes(text, value, values[key.value])
    elif isinstance(node, yaml.SequenceNode):
        if not isinstance(values, list) or len(values) != len(node.value):
            raise ValueError("another number of entries")
        for item, value in zip(node.value, values, strict=True):
            yield from _changes(text, item, value)
    elif node.tag != _ALIAS and _scalar(node) != values:
        line = yaml.safe_dump(values, default_flow_style=True, width=math.inf)
        new = line.removesuffix("...\n").strip()
        yield _Edit(node.start_mark.index, node.end_mark.index, new)


def _scalar(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    finally:
        loader.dispose()


_Items = Sequence[tuple[yaml.Node, yaml.Node, bool]]


def _cut_lines(text: str, items: _Items) -> Iterator[_Edit]:
    """Remove keys of a mapping whose keys have lines of their own."""
    for number, (key, value, present) in enumerate(items):
        if present:
            continue
        start = _line_start(text, key.start_mark)
        end = _line_end(text, _content_end(value))
        if text[start : key.start_mark.index].strip():
            # The key stands behind the `-` of its entry, which the next one needs.
            following = items[number + 1][0]
            start, end = key.start_mark.index, following.start_mark.index
        yield _Edit(start, end, "")


def _cut_from_flow(text: str, items: _Items) -> Iterator[_Edit]:
    """Remove entries of a mapping in braces, each with one comma."""
    runs = [list(run) for _, run in groupby(items, key=lambda item: item[2])]
    for number, run in enumerate(runs):
        if run[0][2]:
            continue
        start, end = run[0][0].start_mark.index, run[-1][1].end_mark.index
        if number + 1 < len(runs):
            end = runs[number + 1][0][0].start_mark.index
        elif number:
            start = runs[number - 1][-1][1].end_mark.index
        yield _Edit(start, end, "")


def _content_end(node: yaml.Node) -> int:
    """Where a value ends; PyYAML counts what follows a block up to the next key."""
    if not isinstance(node, yaml.CollectionNode) or node.flow_style:
        return int(node.end_mark.index)
    last = node.value[-1]
    return _content_end(last[1] if isinstance(last, tuple) else last)


def _line_start(text: str, mark: Any) -> int:
    return text.rfind("\n", 0, mark.index) + 1


def _line_end(text: str, index: int) -> int:
    """Where the next line begins."""
    found = text.find("\n", index)
    return len(text) if found < 0 else found + 1


def _edited(text: str, edits: Sequence[_Edit]) -> str:
    pieces, position = [], 0
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):
        if edit.start < position:
            raise ValueError("changes of the same place")
        pieces += [text[position : edit.start], edit.text]
        position = edit.end
    return "".join([*pieces, text[position:]])
