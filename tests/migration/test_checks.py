"""Descriptions that contradict themselves cannot be built; attributes that were forgotten are found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from emulator.migration.checks import unknown_attributes
from emulator.migration.errors import DescriptionError
from emulator.migration.fields import (
    Array,
    ArrayOfPointer,
    GTree,
    PartialBuffer,
    QTailQ,
    Struct,
    SubArray,
    UInt8,
    UInt32,
    VArray,
    VStruct,
    WithTmp,
)
from emulator.migration.vmstate import VMStateDescription


@dataclass(slots=True)
class Inner:
    a: int = 0
    b: int = 0


@dataclass(slots=True)
class State:
    x: int = 0
    y: list[int] = field(default_factory=list)
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None

    @property
    def length(self) -> int:
        return len(self.y)


@dataclass(slots=True)
class Tmp:
    parent: State
    n: int = 0


def yes(_state: State, _version_id: int) -> bool:
    return True


INNER = VMStateDescription("inner", Inner, version_id=2, minimum_version_id=1, fields=(UInt8("a"),), derived=("b",))
TMP = VMStateDescription("tmp", Tmp, fields=(UInt8("n"),))
CLASH = VMStateDescription("tmp", Tmp, fields=(UInt8("n", wire_name="x"),))
SPLIT = VMStateDescription("tmp", Tmp, subsections=(VMStateDescription("tmp/n", Tmp, fields=(UInt8("n"),)),))
NO_TMP = VMStateDescription("tmp", Inner, derived=("a", "b"))
BUILDS: list[tuple[str, dict[str, Any]]] = [
    ("a name has 1 to 255 ASCII characters", {"name": ""}),
    ("a name has 1 to 255 ASCII characters", {"name": "x" * 256}),
    ("a name has 1 to 255 ASCII characters", {"name": "é"}),
    ("int is not a dataclass", {"state_class": int}),
    ("no version from 2 to 1", {"version_id": 1, "minimum_version_id": 2}),
    ("no version from -1 to 1", {"version_id": 1, "minimum_version_id": -1}),
    ("field x of version 2 is never on the wire", {"version_id": 1, "fields": (UInt8("x", version_id=2),)}),
    ("field inner: inner has no version 3", {"fields": (VStruct("inner", INNER, 3),)}),
    ("field inner: inner has no version 0", {"fields": (VStruct("inner", INNER, 0),)}),
    ("State has no attribute z", {"fields": (UInt8("z"),)}),
    ("State has no attribute length", {"fields": (UInt8("length"),)}),
    ("Inner has no attribute z", {"fields": (UInt8("inner.z"),)}),
    ("State.x is not a dataclass", {"fields": (UInt8("x.z"),)}),
    ("State has no attribute n", {"fields": (VArray("y", UInt8, "n"),)}),
    ("State has no attribute z", {"derived": ("z",)}),
    ("x is described and yet marked derived", {"fields": (UInt8("x"),), "derived": ("x",)}),
    ("x is described twice", {"fields": (UInt8("x"), UInt32("x"))}),
    ("x is described twice", {"fields": (UInt8("x"), UInt32("x", field_exists=yes))}),
    ("inner.a is described twice", {"fields": (UInt8("inner.a"), Struct("inner", INNER))}),
    ("y is described twice", {"fields": (SubArray("y", UInt8, 0, 3), SubArray("y", UInt8, 2, 3))}),
    ("y is described twice", {"fields": (PartialBuffer("y", 3), PartialBuffer("y", 3, start=2))}),
    ("y is described twice", {"fields": (SubArray("y", UInt8, 0, 3), Array("y", UInt8, 9))}),
    ("x is loaded after y, which it counts", {"fields": (VArray("y", UInt8, "x"), UInt8("x"))}),
    ("Inner has no attribute parent", {"fields": (WithTmp(NO_TMP),)}),
    ("State has no attribute z", {"fields": (WithTmp(TMP, covers=("z",)),)}),
    (
        "subsection other/a is not named dev...",
        {"subsections": (VMStateDescription("other/a", State),)},
    ),
    ("subsection dev is not named dev...", {"subsections": (VMStateDescription("dev", State),)}),
    ("x is described twice, once in tmp", {"fields": (UInt8("x"), WithTmp(CLASH, inline=True))}),
    ("tmp is inline and has subsections", {"fields": (WithTmp(SPLIT, inline=True),)}),
    ("subsection dev/a is there twice", {"subsections": (VMStateDescription("dev/a", State),) * 2}),
    ("subsection dev/a describes Inner", {"subsections": (VMStateDescription("dev/a", Inner),)}),
]


@pytest.mark.parametrize(("why", "arguments"), BUILDS)
def test_contradiction_is_refused_when_the_description_is_built(why: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(DescriptionError) as caught:
        VMStateDescription(**cast("dict[str, Any]", {"name": "dev", "state_class": State} | arguments))
    assert str(caught.value) == f"description {arguments.get('name', 'dev')}: {why}"


def test_class_that_only_its_function_knows_cannot_be_looked_into() -> None:
    @dataclass
    class Local:
        a: int = 0

    @dataclass
    class Outer:
        local: Local = field(default_factory=Local)

    with pytest.raises(DescriptionError, match=r"cannot tell what Outer\.local is"):
        VMStateDescription("dev", Outer, fields=(UInt8("local.a"),))


@pytest.mark.parametrize(
    "fields",
    [
        (UInt8("x", field_exists=yes), UInt32("x", field_exists=yes)),
        (SubArray("y", UInt8, 0, 3), SubArray("y", UInt8, 3, 3)),
        (UInt8("inner.a"), UInt8("inner.b")),
        (UInt8("x"), VArray("y", UInt8, "x")),
        (VArray("y", UInt8, "length"),),
        (UInt8("maybe.a"),),
    ],
)
def test_sound_descriptions_are_built(fields: Any) -> None:
    assert VMStateDescription("dev", State, fields=fields).fields == fields


def test_count_with_impossible_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match="multiply must be at least 1"):
        VArray("y", UInt8, "x", multiply=0)


# Completeness


def test_what_no_field_describes_is_named() -> None:
    description = VMStateDescription("dev", State, fields=(UInt8("x"),))
    assert unknown_attributes(description) == ("y", "inner", "maybe")


def test_what_is_marked_derived_or_in_a_subsection_is_known() -> None:
    sub = VMStateDescription("dev/y", State, fields=(Array("y", UInt8, 1),))
    description = VMStateDescription("dev", State, fields=(UInt8("x"),), derived=("inner", "maybe"), subsections=(sub,))
    assert unknown_attributes(description) == ()


def test_half_described_objects_are_looked_into() -> None:
    description = VMStateDescription("dev", State, fields=(UInt8("inner.a"),), derived=("x", "y", "maybe"))
    assert unknown_attributes(description) == ("inner.b",)


def test_structs_are_looked_into_wherever_they_are() -> None:
    forgetful = VMStateDescription("f", Inner, fields=(UInt8("a"),))

    @dataclass
    class Many:
        one: Any = None
        some: Any = None
        pointers: Any = None
        versioned: Any = None
        queue: Any = None
        tree: Any = None
        late: Any = None

    description = VMStateDescription(
        "dev",
        Many,
        fields=(
            Struct("one", forgetful),
            Array("some", forgetful, 2),
            ArrayOfPointer("pointers", forgetful, 2),
            VStruct("versioned", forgetful, 0),
            QTailQ("queue", forgetful, maximum=1),
            GTree("tree", forgetful, maximum=1),
        ),
        subsections=(VMStateDescription("dev/late", Many, fields=(Struct("late", forgetful),)),),
    )
    names = ("one", "some", "pointers", "versioned", "queue", "tree", "late")
    assert unknown_attributes(description) == tuple(f"{name}.b" for name in names)


def test_only_a_temporarys_parent_needs_no_description() -> None:
    @dataclass
    class Child:
        parent: Any = None

    assert unknown_attributes(VMStateDescription("dev", Child)) == ("parent",)


def test_temporaries_cover_what_they_say_and_what_they_reach_in_their_parent() -> None:
    back = VMStateDescription("back", State, fields=(UInt8("x"),), derived=("y", "inner", "maybe"))
    tmp = VMStateDescription("tmp", Tmp, fields=(UInt8("n"), Struct("parent", back)))
    description = VMStateDescription("dev", State, fields=(WithTmp(tmp, covers=("y",)),), derived=("inner", "maybe"))
    assert unknown_attributes(description) == ()
    assert unknown_attributes(VMStateDescription("dev", State, fields=(WithTmp(TMP),))) == ("x", "y", "inner", "maybe")
    reaching = VMStateDescription("tmp", Tmp, fields=(UInt8("n"), UInt8("parent.x", wire_name="x")))
    description = VMStateDescription("dev", State, fields=(WithTmp(reaching),), derived=("inner", "maybe"))
    assert unknown_attributes(description) == ("y",)


def test_structs_in_a_temporarys_parent_are_looked_into() -> None:
    forgetful = VMStateDescription("f", Inner, fields=(UInt8("a"),))
    back = VMStateDescription("back", State, fields=(Struct("inner", forgetful),))
    tmp = VMStateDescription("tmp", Tmp, fields=(UInt8("n"), Struct("parent", back)))
    description = VMStateDescription("dev", State, fields=(WithTmp(tmp),), derived=("x", "y", "maybe"))
    assert unknown_attributes(description) == ("tmp.inner.b",)
