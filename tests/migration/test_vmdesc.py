"""The JSON that describes a stream: as QEMU 7.2 writes it for the same fields, and payloads read by nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from emulator.migration.errors import StreamError, SubsectionError, TruncatedError, VmdescError
from emulator.migration.fields import (
    Array,
    ArrayOfPointer,
    Bool,
    Buffer,
    Field,
    Float64,
    QTailQ,
    Struct,
    Timer,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    Unused,
    UnusedVArray,
    Validate,
    VArray,
    VStruct,
    WithTmp,
)
from emulator.migration.vmdesc import decode, from_json, save_section, to_json
from emulator.migration.vmstate import VMStateDescription
from emulator.migration.wire import Reader, Writer


@dataclass(slots=True)
class State:
    x: Any = None
    y: Any = None
    n: int = 0


@dataclass(slots=True)
class Entry:
    addr_reg: int = 0
    cfg_reg: int = 0


ENTRY = VMStateDescription(
    "cpu/pmp/entry", Entry, version_id=1, minimum_version_id=1, fields=(UInt64("addr_reg"), UInt8("cfg_reg"))
)
ENTRY_JSON: dict[str, Any] = {
    "vmsd_name": "cpu/pmp/entry",
    "version": 1,
    "fields": [{"name": "addr_reg", "type": "uint64", "size": 8}, {"name": "cfg_reg", "type": "uint8", "size": 1}],
}


def always(_state: State, _version_id: int) -> bool:
    return True


def never(_state: State, _version_id: int) -> bool:
    return False


def fields_of(state: State, *fields: Field, **options: Any) -> tuple[list[dict[str, Any]], bytes]:
    """What QEMU would list as the fields of a section, and the payload; the payload decodes by the list alone."""
    description = VMStateDescription("dev", State, version_id=1, fields=fields, **options)
    writer = Writer()
    section = save_section(description, state, writer, name="dev", instance_id=0)
    decode(from_json(to_json([section], page_size=4096))["dev", 0], Reader(writer.data))
    fields_json: list[dict[str, Any]] = section["fields"]
    return fields_json, bytes(writer.data)


def test_a_section_as_in_qemus_stream() -> None:
    @dataclass(slots=True)
    class Mtimer:
        timecmp: list[int] = field(default_factory=lambda: [7])

    description = VMStateDescription("riscv_mtimer", Mtimer, version_id=1, fields=(Array("timecmp", UInt64, 1),))
    writer = Writer()
    section = save_section(description, Mtimer(), writer, name="riscv_mtimer", instance_id=0)
    assert to_json([section], page_size=4096) == (
        b'{"page_size": 4096, "devices": [{"name": "riscv_mtimer", "instance_id": 0, "vmsd_name": "riscv_mtimer", '
        b'"version": 1, "fields": [{"name": "timecmp", "type": "uint64", "size": 8}]}]}'
    )


def test_an_array_of_like_elements_is_one_entry() -> None:
    entries, _ = fields_of(State([1, 2, 3]), Array("x", UInt32, 3))
    assert entries == [{"name": "x", "array_len": 3, "type": "uint32", "size": 4}]
    assert list(entries[0]) == ["name", "array_len", "type", "size"]


def test_an_array_of_structs_is_described_by_its_first() -> None:
    entries, data = fields_of(State([Entry(), Entry()]), Array("x", ENTRY, 2, wire_name="env.pmp_state.pmp"))
    assert entries == [{"name": "env.pmp_state.pmp", "array_len": 2, "type": "struct", "struct": ENTRY_JSON, "size": 9}]
    assert list(entries[0]) == ["name", "array_len", "type", "struct", "size"]
    assert len(data) == 18


def test_arrays_of_one_or_no_element() -> None:
    entries, _ = fields_of(State([1], [Entry()]), Array("x", UInt8, 1), Array("y", ENTRY, 1))
    assert entries == [
        {"name": "x", "type": "uint8", "size": 1},
        {"name": "y", "type": "struct", "struct": ENTRY_JSON, "size": 9},
    ]
    assert fields_of(State([9]), VArray("x", UInt8, "n")) == ([], b"")


def test_a_conditional_array_has_an_entry_for_each_element() -> None:
    entries, _ = fields_of(State([1, 2]), Array("x", UInt8, 2, field_exists=always))
    assert entries == [
        {"name": "x", "index": 0, "type": "uint8", "size": 1},
        {"name": "x", "index": 1, "type": "uint8", "size": 1},
    ]


def test_structs_with_conditions_inside_are_described_one_by_one() -> None:
    conditional = VMStateDescription(
        "e",
        Entry,
        fields=(UInt8("addr_reg"), UInt8("cfg_reg", field_exists=lambda entry, _version: entry.addr_reg > 0)),
    )
    entries, data = fields_of(State([Entry(0, 1), Entry(1, 2)]), Array("x", conditional, 2))
    assert [(entry["index"], entry["size"], len(entry["struct"]["fields"])) for entry in entries] == [
        (0, 1, 1),
        (1, 2, 2),
    ]
    assert data == b"\0\1\2"


def test_structs_with_subsections_are_described_one_by_one() -> None:
    sub = VMStateDescription("e/c", Entry, fields=(UInt8("cfg_reg"),), needed=lambda entry: entry.cfg_reg > 0)
    nested = VMStateDescription("e", Entry, fields=(UInt8("addr_reg"),), subsections=(sub,))
    entries, _ = fields_of(State([Entry(1), Entry(2, 3)]), Array("x", nested, 2))
    assert "subsections" not in entries[0]["struct"]
    assert entries[1]["struct"]["subsections"] == [
        {"vmsd_name": "e/c", "version": 0, "fields": [{"name": "cfg_reg", "type": "uint8", "size": 1}]}
    ]


def test_absent_fields_and_validations_are_not_described() -> None:
    entries, _ = fields_of(
        State(1, 2), UInt8("x", field_exists=never), UInt8("y", version_id=1), Validate("ok", always)
    )
    assert entries == [{"name": "y", "type": "uint8", "size": 1}]


def test_a_shared_name_gets_a_number_that_counts_absent_fields_too() -> None:
    entries, _ = fields_of(
        State(1, 2),
        UInt16("x", wire_name="cur_offset", field_exists=never),
        UInt32("y", wire_name="cur_offset"),
        Unused(2),
        Unused(3),
    )
    assert [(entry["name"], entry["size"]) for entry in entries] == [
        ("cur_offset[1]", 4),
        ("unused[0]", 2),
        ("unused[1]", 3),
    ]


def test_unused_arrays() -> None:
    assert fields_of(State(n=2), UnusedVArray("n", 3, maximum=9))[0] == [
        {"name": "unused", "array_len": 2, "type": "unused_buffer", "size": 3}
    ]
    assert fields_of(State(n=1), UnusedVArray("n", 3, maximum=9))[0] == [
        {"name": "unused", "type": "unused_buffer", "size": 3}
    ]
    assert fields_of(State(n=0), UnusedVArray("n", 3, maximum=9))[0] == []
    assert [
        entry["index"] for entry in fields_of(State(n=2), UnusedVArray("n", 3, maximum=9, field_exists=always))[0]
    ] == [
        0,
        1,
    ]


@dataclass(slots=True)
class Tmp:
    parent: State
    offset: int = 5


def test_versioned_structs_and_temporaries_are_described_in_place() -> None:
    entries, _ = fields_of(
        State(Entry()),
        VStruct("x", ENTRY, 1),
        WithTmp(VMStateDescription("dev/tmp", Tmp, fields=(UInt32("offset"),))),
    )
    assert entries == [
        {"name": "x", "type": "vstruct", **ENTRY_JSON, "size": 9},
        {
            "name": "tmp",
            "type": "tmp",
            "vmsd_name": "dev/tmp",
            "version": 0,
            "fields": [{"name": "offset", "type": "uint32", "size": 4}],
            "size": 4,
        },
    ]


def test_inline_temporaries_are_described_as_if_their_fields_were_the_parents() -> None:
    tmp = VMStateDescription("dev/tmp", Tmp, fields=(UInt8("offset"), UInt16("parent.n", wire_name="n")))
    fields, data = fields_of(State(n=7), WithTmp(tmp, inline=True))
    assert fields == [{"name": "offset", "type": "uint8", "size": 1}, {"name": "n", "type": "uint16", "size": 2}]
    assert data == b"\x05\0\7"


def test_queues_are_described_by_their_last_element() -> None:
    entries, _ = fields_of(State([Entry(), Entry()]), QTailQ("x", ENTRY, maximum=2))
    assert entries == [{"name": "x", "type": "qtailq", **ENTRY_JSON, "size": 21}]
    assert fields_of(State([]), QTailQ("x", ENTRY, maximum=2))[0] == [{"name": "x", "type": "qtailq", "size": 1}]


def test_null_pointers_are_described_as_qemu_7_2_does() -> None:
    description = VMStateDescription("dev", State, fields=(ArrayOfPointer("x", ENTRY, 2),))
    section: dict[str, Any] = {}
    description.save(State([None, Entry()]), Writer(), vmdesc=section)
    assert section["fields"] == [{"name": "x", "array_len": 2, "type": "struct", "struct": {}, "size": 1}]


# Reading by the description


def test_values_come_back_by_name() -> None:
    sub = VMStateDescription("dev/n", State, version_id=3, fields=(UInt8("n"),))
    description = VMStateDescription(
        "dev",
        State,
        fields=(
            Array("x", ENTRY, 2),
            Bool("y", wire_name="flag"),
            Unused(2),
            WithTmp(VMStateDescription("dev/tmp", Tmp, fields=(UInt32("offset"),))),
        ),
        subsections=(sub,),
    )
    writer = Writer()
    section = save_section(
        description, State([Entry(1, 2), Entry(3, 4)], True, 9), writer, name="0000/dev", instance_id=1
    )
    sections = from_json(to_json([section], page_size=4096))
    reader = Reader(writer.data)
    assert decode(sections["0000/dev", 1], reader) == {
        "x": [{"addr_reg": 1, "cfg_reg": 2}, {"addr_reg": 3, "cfg_reg": 4}],
        "flag": True,
        "unused": b"\0\0",
        "tmp": {"offset": 5},
        "dev/n": {"n": 9},
    }
    assert reader.remaining == 0


def test_numbers_have_their_signs_and_the_rest_is_bytes() -> None:
    description = VMStateDescription("dev", State, fields=(Timer("x"), Float64("y"), Buffer("n", 2)))
    writer = Writer()
    state = State(None, 1.5, b"ab")  # type: ignore[arg-type]
    section = save_section(description, state, writer, name="dev", instance_id=0)
    assert decode(section, Reader(writer.data)) == {"x": -1, "y": 1.5, "n": b"ab"}
    assert decode({"fields": [{"name": "a", "type": "pci config", "size": 2}]}, Reader(b"ab")) == {"a": b"ab"}
    assert decode({"fields": [{"name": "a", "type": "CPU_Double_U", "size": 2}]}, Reader(b"ab")) == {"a": b"ab"}


def test_every_truncation_is_refused() -> None:
    description = VMStateDescription(
        "dev",
        State,
        fields=(Struct("x", ENTRY), UInt8("n")),
        subsections=(VMStateDescription("dev/y", State, fields=(UInt8("y"),)),),
    )
    writer = Writer()
    section = save_section(description, State(Entry(), 1), writer, name="dev", instance_id=0)
    for length in range(len(writer.data)):
        with pytest.raises((TruncatedError, SubsectionError)):
            decode(section, Reader(writer.data[:length]))


def nested(depth: int) -> dict[str, Any]:
    description: dict[str, Any] = {"fields": []}
    for _ in range(depth):
        description = {"fields": [{"name": "x", "type": "struct", "struct": description, "size": 0}]}
    return description


NOTHING = {"name": "x", "type": "buffer", "size": 0}
HUGE = 1 << 60


@pytest.mark.parametrize(
    "section",
    [
        {"fields": None},
        {"fields": ["x"]},
        {"fields": [{}]},
        {"fields": [{"name": "x", "type": "uint8"}]},
        {"fields": [{"name": "x", "type": "uint8", "size": -1}]},
        {"fields": [{"name": "x", "type": "uint8", "size": True}]},
        {"fields": [{"name": "x", "type": "uint8", "size": HUGE}]},
        {"fields": [{"name": 1, "type": "uint8", "size": 1}]},
        {"fields": [{"name": "x", "type": "uint8", "size": 1}] * 2},
        {"fields": [NOTHING | {"array_len": -1}]},
        {"fields": [NOTHING | {"array_len": HUGE}]},
        {"fields": [NOTHING | {"array_len": 1 << 19}, NOTHING | {"name": "y", "array_len": (1 << 19) + 1}]},
        {"fields": [NOTHING | {"index": 1}]},
        {"fields": [NOTHING, NOTHING | {"index": 0}]},
        {"fields": [{"name": "x", "type": "struct", "struct": {"fields": []}, "size": 1}]},
        {
            "fields": [
                {
                    "name": "x",
                    "type": "struct",
                    "struct": {"fields": [NOTHING | {"array_len": 0}] * 1000},
                    "size": 0,
                    "array_len": 1 << 18,
                }
            ]
        },
        {"subsections": [{}]},
        {"subsections": [{"vmsd_name": "\n", "fields": []}]},
        nested(40),
        [],
    ],
)
def test_hostile_descriptions_are_refused(section: Any) -> None:
    with pytest.raises(StreamError) as caught:
        decode(section, Reader(bytes(8)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"\xff", b'{"devices": 1}', b'{"devices": [1]}', b'{"devices": [{}]}', b"[" * 100_000],
)
def test_malformed_json_is_refused(text: bytes) -> None:
    with pytest.raises(VmdescError) as caught:
        from_json(text)
    assert "\n" not in str(caught.value)


def test_json_is_spelled_as_qemu_spells_it() -> None:
    assert json.loads(to_json([], page_size=4096)) == {"page_size": 4096, "devices": []}
    assert to_json([], page_size=4096) == b'{"page_size": 4096, "devices": []}'
