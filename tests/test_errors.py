from __future__ import annotations

import inspect
import json
import re

import pytest

from stenopool import errors
from stenopool.errors import InputEmpty, InputError, StenoError

CLASSES = [
    member
    for _, member in inspect.getmembers(errors, inspect.isclass)
    if issubclass(member, StenoError)
]
LEAVES = [member for member in CLASSES if not member.__subclasses__()]


def drawn_tree() -> dict[str, tuple[str | None, str]]:
    """Each name in the module's drawing, with its parent and the rest of its line."""
    tree: dict[str, tuple[str | None, str]] = {}
    parents: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^((?:[│ ] {3})*(?:[├└]── )?)([A-Z]\w+)(.*)$", line)
        if found is None or (not found[1] and found[2] != "StenoError"):
            continue
        depth = len(found[1]) // 4
        parents[depth] = found[2]
        tree[found[2]] = (parents.get(depth - 1), found[3])
    return tree


def test_drawing_shows_every_class_below_its_parent() -> None:
    drawn = {name: parent for name, (parent, _) in drawn_tree().items()}
    actual = {
        member.__name__: None if member is StenoError else member.__bases__[0].__name__
        for member in CLASSES
    }
    assert drawn == actual


def test_drawing_says_the_exit_status_of_each_branch() -> None:
    drawn = {
        name: int(found[1])
        for name, (_, rest) in drawn_tree().items()
        if (found := re.search(r"exit (\d)", rest))
    }
    assert drawn == {member.__name__: member.exit_status for member in StenoError.__subclasses__()}


def test_drawing_marks_what_may_be_tried_again() -> None:
    drawn = {name for name, (_, rest) in drawn_tree().items() if "(transient)" in rest}
    assert drawn == {member.__name__ for member in CLASSES if member.transient}
    assert drawn


def test_codes_are_unique() -> None:
    codes = [member.code for member in CLASSES]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("member", LEAVES)
def test_code_is_the_name_in_snake_case(member: type[StenoError]) -> None:
    assert member.code == re.sub(r"(?<!^)(?=[A-Z])", "_", member.__name__).lower()


@pytest.mark.parametrize("member", CLASSES)
def test_exit_status_is_that_of_its_branch(member: type[StenoError]) -> None:
    branch = next((base for base in StenoError.__subclasses__() if issubclass(member, base)), None)
    assert member.exit_status == (branch.exit_status if branch else 1)
    assert 1 <= member.exit_status <= 7


def test_branches_have_different_exit_statuses() -> None:
    statuses = [member.exit_status for member in StenoError.__subclasses__()]
    assert len(set(statuses)) == len(statuses)


@pytest.mark.parametrize("member", CLASSES)
def test_record_is_plain_data_for_every_class(member: type[StenoError]) -> None:
    record = member("`a.wav` has no bytes", do="Copy it again").record()
    assert record == {
        "code": member.code,
        "message": "`a.wav` has no bytes",
        "hint": "Copy it again",
        "transient": member.transient,
    }
    assert json.loads(json.dumps(record)) == record


def test_error_reads_as_what_happened_and_is_caught_by_its_branch() -> None:
    with pytest.raises(InputError) as caught:
        raise InputEmpty("`a.wav` has no bytes", do="Copy it again")
    assert str(caught.value) == "`a.wav` has no bytes"


def test_what_to_do_cannot_be_left_out() -> None:
    with pytest.raises(TypeError):
        InputEmpty("`a.wav` has no bytes")  # type: ignore[call-arg]


@pytest.mark.parametrize("member", CLASSES)
def test_every_class_is_described(member: type[StenoError]) -> None:
    assert (member.__doc__ or "").strip()
