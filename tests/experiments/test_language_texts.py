from __future__ import annotations

import pytest

from experiments.suites.language_texts import (
    EXTRACT_BYTES,
    LEAK_LENGTH,
    Texts,
    _without_tags,
    split_documents,
)


def documents(count: int = 40) -> dict[str, str]:
    return {
        f"{d:02}": "\n".join(
            f"Line {i} of document {d} says this and no other line does."
            for i in range(40)
        )
        for d in range(count)
    }


def split(texts: dict[str, str], **options: int) -> Texts:
    return split_documents(texts, **{"train_bytes": 9_000, "test": 8, **options})


def owners(text: str) -> set[str]:
    lines = (line.split() for line in text.splitlines())
    return {words[4] for words in lines if len(words) > 4}


def test_parts_share_no_document() -> None:
    """A document whose line is in one part has no line in another."""
    found = split(documents(), extracts=3)
    items = [*found.validation, *found.test]
    of_each = [owners("\n".join(item)) for item in items] + [owners(found.train)]
    assert all(len(one) == 1 for one in of_each[:-1])
    assert sum(map(len, of_each)) == len(set.union(*of_each))


def test_parts_have_the_size_asked_for() -> None:
    """Test items, half as many for validation, and text to train on."""
    found = split(documents(), extracts=3)
    assert (len(found.test), len(found.validation)) == (8, 4)
    assert 9_000 <= len(found.train.encode()) < 9_000 + 41 * 60
    assert split(documents(), train_bytes=0).train == ""


def test_extracts_are_short_apart_and_begin_with_a_line() -> None:
    """As many as asked for, none longer than a number of bytes."""
    for item in split(documents(), extracts=3).test:
        assert len(item) == 3
        lines = [extract.splitlines()[0] for extract in item]
        assert len(set(lines)) == 3
        assert all(line.startswith("Line ") for line in lines)
        assert all(len(extract.encode()) <= EXTRACT_BYTES for extract in item)


def test_extracts_are_cut_between_words_and_letters() -> None:
    """Whatever the number of bytes of a letter."""
    texts = {f"{d:02}": ("å" * 149 + " ") * 9 + str(d) for d in range(20)}
    for item in split(texts, train_bytes=0, test=4).test:
        assert item == ("å" * 149,)


def test_same_documents_same_split() -> None:
    """The order of the dict does not matter."""
    assert split(dict(reversed(documents().items()))) == split(documents())


def test_repeated_lines_do_not_leak() -> None:
    """A long line that every document repeats is in one item only."""
    refrain = "And this refrain, as long as a verse, returns in every one."
    assert len(refrain) >= LEAK_LENGTH
    found = split({name: f"{refrain}\n{t}" for name, t in documents().items()})
    held_out = [
        extract for item in (*found.test, *found.validation) for extract in item
    ]
    assert sum(refrain in extract for extract in held_out) == 1
    assert refrain not in found.train


@pytest.mark.parametrize("sizes", [{"test": 30}, {"train_bytes": 10**6}])
def test_too_little_text_is_an_error(sizes: dict[str, int]) -> None:
    """Documents that cannot fill the parts are refused."""
    with pytest.raises(ValueError, match=r"too (few|little)"):
        split(documents(), **sizes)


def test_brown_loses_its_tags() -> None:
    """Each word is followed by a slash and its part of speech."""
    tagged = "\n\n\tHe/pps said/vbd ``/`` no/rb ''/'' ,/, 1/2/cd ./.\n"
    assert _without_tags(tagged) == 'He said "no", 1/2.'
