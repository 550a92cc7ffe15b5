"""Versions, conditions, subsections and hooks: what a description does around its fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from emulator.migration.errors import FieldRangeError, StateError, SubsectionError, TruncatedError, VersionError
from emulator.migration.fields import Array, Buffer, Struct, UInt8, UInt16, VArrayAlloc, VStruct
from emulator.migration.vmstate import MigrationPriority, VMStateDescription
from emulator.migration.wire import Reader, Writer


@dataclass(slots=True)
class State:
    a: int = 0
    b: int = 0
    c: int = 0
    log: list[str] = field(default_factory=list)


# Versions and conditions


def versions(minimum: int, newest: int, *fields: Any) -> VMStateDescription:
    return VMStateDescription("dev", State, version_id=newest, minimum_version_id=minimum, fields=fields)


@pytest.mark.parametrize("version_id", [-1, 0, 1, 2, 3, 4, 2**32 - 1])
def test_only_versions_in_the_range_are_loaded(version_id: int, refused: Any) -> None:
    description = versions(1, 3, UInt8("a"))
    if 1 <= version_id <= 3:
        assert description.load(Reader(b"\7"), version_id).a == 7
    else:
        error = refused(description, b"\7", version_id=version_id)
        assert isinstance(error, VersionError)
        assert str(error) == f"dev at byte 0x0: expected version 1 to 3, got {version_id}"


@pytest.mark.parametrize("answer", [True, False])
@pytest.mark.parametrize("since", [0, 1, 2, 3])
@pytest.mark.parametrize("version_id", [1, 2])
@pytest.mark.parametrize("conditional", [True, False])
def test_a_condition_decides_alone_and_without_one_the_version_does(
    conditional: bool, version_id: int, since: int, answer: bool, save: Any, load: Any
) -> None:
    if not conditional and since > 2:
        return
    asked: list[int] = []

    def exists(_state: State, version: int) -> bool:
        asked.append(version)
        return answer

    options: Any = {"field_exists": exists} if conditional else {}
    description = versions(1, 2, UInt8("a"), UInt8("b", version_id=since, **options), UInt8("c"))
    present = answer if conditional else since <= version_id
    data = bytes((1, 2, 3)) if present else bytes((1, 3))
    assert save(description, State(1, 2, 3), version_id) == data
    assert load(description, data, version_id) == State(1, 2 if present else 0, 3)
    assert set(asked) == ({version_id} if conditional else set())


@pytest.mark.parametrize(("version_id", "data"), [(1, "00 07 09"), (2, "07 09")])
def test_a_field_that_changes_its_width_is_there_once_in_each_version(
    version_id: int, data: str, save: Any, load: Any
) -> None:
    description = versions(1, 2, UInt16("a", last_version_id=1), UInt8("a", version_id=2), UInt8("b"))
    assert save(description, State(7, 9), version_id) == bytes.fromhex(data)
    assert load(description, bytes.fromhex(data), version_id) == State(7, 9)
    described: dict[str, Any] = {}
    description.save(State(), Writer(), version_id=version_id, vmdesc=described)
    assert [entry["name"] for entry in described["fields"]] == ["a", "b"]


def test_a_condition_sees_what_was_loaded_before_it(load: Any) -> None:
    description = versions(0, 0, UInt8("a"), UInt8("b", field_exists=lambda state, _version: state.a == 1))
    assert load(description, bytes((1, 5))) == State(1, 5)
    assert load(description, bytes((2,))) == State(2)


def test_a_nested_struct_has_its_own_newest_version(save: Any, load: Any) -> None:
    inner = versions(3, 5, UInt8("a"), UInt8("b", version_id=4))
    outer = VMStateDescription("outer", Outer, version_id=1, fields=(Struct("inner", inner), UInt8("own")))
    assert save(outer, Outer(State(1, 2), 3)).hex() == "010203"
    assert load(outer, bytes((1, 2, 3)), 0) == Outer(State(1, 2), 3)
    fixed = VMStateDescription("outer", Outer, fields=(VStruct("inner", inner, 3), UInt8("own")))
    assert save(fixed, Outer(State(1, 2), 3)).hex() == "0103"
    assert load(fixed, bytes((1, 3))) == Outer(State(1), 3)


@dataclass(slots=True)
class Outer:
    inner: State = field(default_factory=State)
    own: int = 0
    rest: bytes = b""


def test_the_fresh_state_is_the_callers_if_there_is_one() -> None:
    fresh = State(b=4)
    assert versions(0, 0, UInt8("a")).load(Reader(b"\7"), state=fresh) is fresh
    assert fresh == State(7, 4)


def test_bytes_behind_the_payload_are_left_for_the_caller() -> None:
    reader = Reader(b"\7\x7e", base=100)
    versions(0, 0, UInt8("a")).load(reader)
    assert (reader.offset, reader.remaining) == (101, 1)


# Subsections


DEEP = VMStateDescription("dev/b/deep", State, version_id=3, fields=(UInt8("c"),), needed=lambda state: state.c > 0)
SUB = VMStateDescription(
    "dev/b",
    State,
    version_id=2,
    minimum_version_id=1,
    fields=(UInt8("b"),),
    needed=lambda state: state.b > 0,
    subsections=(DEEP,),
)
ALWAYS = VMStateDescription("dev/log", State, fields=(UInt8("c", version_id=0),))
DEV = VMStateDescription("dev", State, version_id=1, fields=(UInt8("a"),), subsections=(SUB,))
DEV_WIRE = """
    01              | a
    05              | here is a subsection
    05              | length of its name
    64 65 76 2f 62  | dev/b
    00 00 00 02     | version 2
    02              | b
    05              | here is a subsection of it
    0a              | length of its name
    64 65 76 2f 62 2f 64 65 65 70 | dev/b/deep
    00 00 00 03     | version 3
    03              | c
"""


def subsection(name: bytes, version_id: int, payload: bytes) -> bytes:
    return b"\5" + bytes((len(name),)) + name + version_id.to_bytes(4, "big") + payload


def test_subsections_are_framed_as_qemu_does(wire: Any, save: Any) -> None:
    assert save(DEV, State(1, 2, 3)) == wire(DEV_WIRE)
    assert save(DEV, State(1, 0, 3)) == b"\1"
    assert save(DEV, State(1, 2, 0)) == wire(DEV_WIRE)[:13]


def test_a_subsection_that_is_always_needed_is_always_saved(save: Any) -> None:
    description = VMStateDescription("dev", State, fields=(UInt8("a"),), subsections=(ALWAYS,))
    assert save(description, State()) == b"\0" + subsection(b"dev/log", 0, b"\0")
    assert ALWAYS.is_needed(State())


def test_subsections_are_loaded_and_may_be_missing(wire: Any) -> None:
    data = wire(DEV_WIRE)
    assert DEV.load(Reader(data)) == State(1, 2, 3)
    assert DEV.load(Reader(data[:13])) == State(1, 2)
    assert DEV.load(Reader(data[:1])) == State(1)


def test_every_other_truncation_of_subsections_is_refused(wire: Any, refused: Any) -> None:
    data = wire(DEV_WIRE)
    for length in set(range(1, len(data))) - {1, 13}:
        error = refused(DEV, data[:length])
        assert isinstance(error, TruncatedError | SubsectionError)
        assert error.offset in range(1, length + 1)


@pytest.mark.parametrize("data", [b"\1\5", b"\1\5\5", b"\1\5\5dev/"])
def test_subsection_whose_name_is_cut_off_is_a_truncation(data: bytes, refused: Any) -> None:
    assert isinstance(refused(DEV, data), TruncatedError)


def test_subsections_may_come_in_any_order(save: Any) -> None:
    first = VMStateDescription("dev/1", State, fields=(UInt8("b"),))
    second = VMStateDescription("dev/2", State, fields=(UInt8("c"),))
    description = VMStateDescription("dev", State, fields=(UInt8("a"),), subsections=(first, second))
    swapped = b"\1" + subsection(b"dev/2", 0, b"\3") + subsection(b"dev/1", 0, b"\2")
    assert description.load(Reader(swapped)) == State(1, 2, 3)
    assert save(description, State(1, 2, 3)) == b"\1" + subsection(b"dev/1", 0, b"\2") + subsection(b"dev/2", 0, b"\3")


@pytest.mark.parametrize(
    ("data", "offset"),
    [
        (b"\1" + subsection(b"dev/c", 1, b"\2"), 1),
        (b"\1" + subsection(b"dev", 1, b"\2"), 1),
        (b"\1" + subsection(b"other/b", 1, b"\2"), 1),
        (b"\1" + subsection(b"", 1, b"\2"), 1),
        (b"\1" + subsection(b"dev/b/deep", 1, b"\2"), 1),
        (b"\1" + subsection(b"dev/b\0", 1, b"\2"), 1),
        (b"\1" + subsection(b"dev/\xff\n", 1, b"\2"), 1),
        (b"\1" + subsection(b"dev/b", 1, b"\2") * 2, 13),
    ],
    ids=["unknown", "parent", "another's", "nameless", "nested one", "name too long", "not ASCII", "repeated"],
)
def test_misplaced_subsection_is_refused(data: bytes, offset: int, refused: Any) -> None:
    error = refused(DEV, data)
    assert isinstance(error, SubsectionError)
    assert error.offset == offset


@pytest.mark.parametrize("version_id", [0, 3, 2**32 - 1, 2**8 + 1])
def test_subsection_of_a_foreign_version_is_refused(version_id: int, refused: Any) -> None:
    error = refused(DEV, b"\1" + subsection(b"dev/b", version_id, b"\2"))
    assert isinstance(error, VersionError)
    assert (error.path, error.offset) == ("dev/b", 12)


def test_path_leads_through_subsections(refused: Any) -> None:
    error = refused(DEV, b"\1" + subsection(b"dev/b", 1, b""))
    assert str(error) == "dev dev/b.b at byte 0xc: expected 1 byte, got only 0"
    with pytest.raises(StateError, match=r"^cannot save dev/b\.b: "):
        DEV.save(State(b=256), Writer())


def test_a_nested_struct_has_its_own_subsections(save: Any) -> None:
    outer = VMStateDescription("outer", Outer, fields=(Array("inner", DEV, 2), UInt8("own")))
    state: Any = Outer([State(1, 2), State(3)], 4)  # type: ignore[arg-type]
    data = b"\1" + subsection(b"dev/b", 2, b"\2") + b"\3" + b"\4"
    assert save(outer, state) == data
    assert outer.load(Reader(data), state=Outer([State(), State()])) == state  # type: ignore[arg-type]


@pytest.mark.parametrize("follows", [b"\5\5dev_b\0\0\0\2\2", b"\5\xffdev/b", b"\5", b"\5\0\0\0\0\0\0"])
def test_data_behind_a_nested_struct_may_look_like_the_start_of_a_subsection(follows: bytes, save: Any) -> None:
    outer = VMStateDescription("outer", Outer, fields=(Struct("inner", DEV), Buffer("rest", len(follows))))
    state = Outer(State(1), rest=follows)
    assert outer.load(Reader(save(outer, state)), state=Outer(rest=bytes(len(follows)))) == state


# Hooks


def note(text: str) -> Any:
    return lambda state, *version: state.log.append(" ".join((text, *map(str, version))))


HOOKED = VMStateDescription(
    "dev",
    State,
    version_id=2,
    fields=(UInt8("a", field_exists=lambda state, _version: not state.log.append("field")),),
    subsections=(
        VMStateDescription(
            "dev/b",
            State,
            version_id=1,
            fields=(UInt8("b"),),
            pre_save=note("sub pre_save"),
            post_save=note("sub post_save"),
            pre_load=note("sub pre_load"),
            post_load=note("sub post_load"),
        ),
    ),
    pre_save=note("pre_save"),
    post_save=note("post_save"),
    pre_load=note("pre_load"),
    post_load=note("post_load"),
    derived=("log",),
)


def test_hooks_come_in_qemus_order() -> None:
    state, writer = State(1, 2), Writer()
    HOOKED.save(state, writer)
    assert state.log == ["pre_save", "field", "sub pre_save", "sub post_save", "post_save"]
    state = HOOKED.load(Reader(writer.data), 2)
    assert state.log == ["pre_load", "field", "sub pre_load", "sub post_load 1", "post_load 2"]


def test_post_save_comes_even_if_saving_fails() -> None:
    state = State(256)
    with pytest.raises(StateError):
        HOOKED.save(state, Writer())
    assert state.log == ["pre_save", "field", "post_save"]


@dataclass(slots=True)
class Methodical:
    a: int = 0

    def post_load(self, version_id: int) -> None:
        if self.a > version_id:
            raise FieldRangeError("a", self.a, version_id + 1)


def test_methods_of_the_state_are_hooks_and_may_refuse(refused: Any) -> None:
    description = VMStateDescription("dev", Methodical, version_id=3, fields=(UInt8("a"),))
    assert description.load(Reader(b"\3")).a == 3
    assert str(refused(description, b"\4")) == "dev a at byte 0x1: expected 0 to 3, got 4"
    unchecked = VMStateDescription("dev", Methodical, fields=(UInt8("a"),), post_load=lambda _state, _version: None)
    assert unchecked.load(Reader(b"\4")).a == 4


def test_subsections_leave_the_states_methods_to_their_parent(save: Any) -> None:
    late = VMStateDescription("dev/a", Methodical, version_id=1, minimum_version_id=1, fields=(UInt8("a"),))
    description = VMStateDescription("dev", Methodical, version_id=3, subsections=(late,))
    assert description.load(Reader(save(description, Methodical(3)))).a == 3
    with pytest.raises(FieldRangeError, match="expected 0 to 3, got 4"):
        description.load(Reader(save(description, Methodical(4))))


def test_a_subsections_name_need_not_have_a_slash(save: Any) -> None:
    late = VMStateDescription("dev_late", State, version_id=1, fields=(UInt8("b"),))
    description = VMStateDescription("dev", State, fields=(UInt8("a"),), subsections=(late,))
    data = save(description, State(1, 2))
    assert data == b"\1\5\x08dev_late\0\0\0\1\2"
    assert description.load(Reader(data)) == State(1, 2)


# The heading


def test_a_description_carries_what_whole_machines_need() -> None:
    description = VMStateDescription("dev", State, priority=MigrationPriority.GICV3, unmigratable=True)
    assert description.priority > MigrationPriority.PCI_BUS > MigrationPriority.DEFAULT
    assert description.unmigratable
    assert repr(description) == "<VMStateDescription dev>"


def test_neighbouring_scalars_of_several_objects_are_one_run(save: Any, load: Any) -> None:
    description = VMStateDescription(
        "outer", Outer, fields=(UInt8("inner.a"), UInt16("inner.b"), UInt8("own"), UInt8("inner.c"))
    )
    assert save(description, Outer(State(1, 2, 3), 4)).hex() == "01 0002 04 03".replace(" ", "")
    assert load(description, bytes.fromhex("0100020403")) == Outer(State(1, 2, 3), 4)


PLAIN = VMStateDescription("plain", State, fields=(UInt8("a"), UInt16("b")))
PLAINS = VMStateDescription("outer", Outer, fields=(Array("inner", PLAIN, 3), UInt8("own")))


def plains(*values: tuple[int, int]) -> Any:
    return Outer([State(*pair) for pair in values] or [State() for _ in range(3)], 9)  # type: ignore[arg-type]


def test_an_array_of_structs_has_one_behind_the_other(save: Any) -> None:
    state, wire = plains((1, 2), (3, 4), (5, 6)), bytes.fromhex("010002 030004 050006 09")
    assert save(PLAINS, state) == wire
    fresh = plains()
    inner = list(fresh.inner)
    assert PLAINS.load(Reader(wire), state=fresh) == state
    assert all(before is after for before, after in zip(inner, fresh.inner, strict=True))


def test_an_array_of_structs_on_the_heap_is_made_anew() -> None:
    description = VMStateDescription(
        "outer", Outer, fields=(UInt8("own"), VArrayAlloc("inner", PLAIN, "own", maximum=2))
    )
    state = description.load(Reader(bytes.fromhex("02 010002 030004")), state=Outer([], 0))  # type: ignore[arg-type]
    assert state.inner == [State(1, 2), State(3, 4)]


def test_a_struct_in_an_array_that_is_cut_off_or_cannot_be_saved_is_named() -> None:
    with pytest.raises(TruncatedError) as cut:
        PLAINS.load(Reader(bytes.fromhex("010002 0300")), state=plains())
    assert str(cut.value) == "outer inner[1].b at byte 0x4: expected 2 bytes, got only 1"
    for wrong in (1 << 16, None, "3"):
        with pytest.raises(StateError, match=r"^cannot save inner\[2\]\.b: "):
            PLAINS.save(plains((1, 2), (3, 4), (5, wrong)), Writer())  # type: ignore[arg-type]
    with pytest.raises(StateError, match=r"^cannot save inner\[1\]: "):
        PLAINS.save(Outer([State(), None, State()]), Writer())  # type: ignore[arg-type,list-item]
