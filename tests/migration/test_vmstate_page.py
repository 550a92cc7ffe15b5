"""docs/vmstate.md keeps its promises: its examples run, and its table has every macro and every kind of field."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

from emulator.migration import fields

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "vmstate.md").read_text()

KINDS = (
    "BOOL INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64 UINT8_EQUAL UINT16_EQUAL INT32_EQUAL UINT32_EQUAL "
    "UINT64_EQUAL INT32_POSITIVE_LE CPUDOUBLE_ARRAY SINGLE POINTER BUFFER_UNSAFE_INFO TIMER TIMER_PTR TIMER_ARRAY "
    "TIMER_PTR_ARRAY ARRAY BOOL_ARRAY SUB_ARRAY BOOL_SUB_ARRAY 2DARRAY ARRAY_INT32_UNSAFE VARRAY_INT32 VARRAY_UINT32 "
    "VARRAY_UINT16_UNSAFE VARRAY_MULTIPLY VARRAY_UINT32_ALLOC VARRAY_UINT16_ALLOC ARRAY_OF_POINTER STRUCT "
    "STRUCT_POINTER VSTRUCT STRUCT_ARRAY STRUCT_VARRAY_POINTER_KNOWN STRUCT_2DARRAY STRUCT_SUB_ARRAY "
    "STRUCT_VARRAY_UINT8 STRUCT_VARRAY_INT32 STRUCT_VARRAY_UINT32 STRUCT_VARRAY_POINTER_INT32 "
    "STRUCT_VARRAY_POINTER_UINT32 STRUCT_VARRAY_POINTER_UINT16 STRUCT_VARRAY_ALLOC ARRAY_OF_POINTER_TO_STRUCT BUFFER "
    "STATIC_BUFFER BUFFER_UNSAFE BUFFER_POINTER_UNSAFE PARTIAL_BUFFER BUFFER_START_MIDDLE VBUFFER VBUFFER_UINT32 "
    "PARTIAL_VBUFFER PARTIAL_VBUFFER_UINT32 VBUFFER_MULTIPLY VBUFFER_ALLOC_UINT32 BITMAP QTAILQ_V QLIST_V "
    "GTREE_DIRECT_KEY_V GTREE_V UNUSED UNUSED_BUFFER UNUSED_VARRAY_UINT32 VALIDATE WITH_TMP END_OF_LIST"
).split()
"""The macros of QEMU 7.2's vmstate.h, without VMSTATE_, forms with a version or test, and arrays of each width."""


def listed() -> set[str]:
    """The macros in the table, without VMSTATE_; one that is given by its end only belongs to the one before it."""
    names: set[str] = set()
    for row in re.findall(r"^\| (`VMSTATE_.*?) \|", PAGE, re.MULTILINE):
        full = ""
        for name in re.findall(r"`(\w+)`", row):
            if name.startswith("VMSTATE_"):
                full = name.removeprefix("VMSTATE_")
            names.add(full if name.startswith("VMSTATE_") else name)
            if name.startswith("_"):
                names.add(re.sub(r"_U?INT(8|16|32)(_\w+)?$", "", full) + name)
    return names


def test_every_macro_has_its_row() -> None:
    assert set(KINDS) - listed() == set()


def test_every_kind_of_field_is_on_the_page() -> None:
    named = set(re.findall(r"\b\w+\b", PAGE))
    assert set(fields.__all__) - named - {"Field"} == set()


def test_every_name_in_the_table_exists() -> None:
    called = {
        name
        for row in re.findall(r"^\| `VMSTATE_.*\| (.*) \|$", PAGE, re.MULTILINE)
        for name in re.findall(r"(\w+)\(", row)
    }
    assert called - set(fields.__all__) == set()


def test_examples_run_as_printed() -> None:
    blocks = re.findall(r"```pycon\n(.*?)```", PAGE, re.DOTALL)
    session = doctest.DocTestParser().get_doctest("\n".join(blocks), {"__name__": "page"}, "vmstate.md", None, None)
    said: list[str] = []
    result = doctest.DocTestRunner().run(session, out=said.append)
    assert result.attempted > 20
    assert result.failed == 0, "".join(said)
