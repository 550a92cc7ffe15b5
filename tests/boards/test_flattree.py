"""Editing a device tree that may come from anywhere (Devicetree Specification v0.4, chapter 5)."""

from __future__ import annotations

import random
import struct
import time

import pytest

from emulator.boards.flattree import FlatTree
from emulator.core.errors import ImageError

HEADER_SIZE = 40
RESERVATION = struct.pack(">4Q", 0x90000000, 0x1000, 0, 0)


def node(name, *contents):
    text = name.encode() + b"\0"
    return struct.pack(">I", 1) + text.ljust((len(text) + 3) & ~3, b"\0") + b"".join(contents) + struct.pack(">I", 2)


def prop(name_offset, value):
    return struct.pack(">III", 3, len(value), name_offset) + value.ljust((len(value) + 3) & ~3, b"\0")


def blob(structure, strings=b"model\0bootargs\0", **fields):
    structure += struct.pack(">I", 9)
    reserved, at = HEADER_SIZE, HEADER_SIZE + len(RESERVATION)
    values = {
        "magic": 0xD00DFEED,
        "total": at + len(structure) + len(strings),
        "off_struct": at,
        "off_strings": at + len(structure),
        "off_reserved": reserved,
        "version": 17,
        "last_compatible": 16,
        "cpu": 0,
        "len_strings": len(strings),
        "len_struct": len(structure),
    } | fields
    return struct.pack(">10I", *values.values()) + RESERVATION + structure + strings


NOP = struct.pack(">I", 4)
SAMPLE = blob(node("", prop(0, b"x\0"), NOP, node("chosen", prop(6, b"old\0"), node("sub")), node("soc")))


def test_untouched_tree_comes_out_byte_for_byte():
    assert FlatTree(SAMPLE, "x.dtb").to_bytes() == SAMPLE


def test_bytes_behind_the_total_size_are_dropped():
    assert FlatTree(SAMPLE + b"padding", "x.dtb").to_bytes() == SAMPLE


def test_old_value_is_replaced_in_its_place(walk_tree):
    tree = FlatTree(SAMPLE, "x.dtb")
    tree.set_chosen("bootargs", b"console=ttyS0\0")
    assert walk_tree(tree.to_bytes()) == [
        ("", None, None),
        ("", "model", b"x\0"),
        ("/chosen", None, None),
        ("/chosen", "bootargs", b"console=ttyS0\0"),
        ("/chosen/sub", None, None),
        ("/soc", None, None),
    ]
    assert RESERVATION in tree.to_bytes()


def test_new_property_comes_first(walk_tree):
    tree = FlatTree(SAMPLE, "x.dtb")
    tree.set_chosen("linux,initrd-start", bytes(4))
    assert walk_tree(tree.to_bytes())[3:5] == [
        ("/chosen", "linux,initrd-start", bytes(4)),
        ("/chosen", "bootargs", b"old\0"),
    ]


def test_missing_chosen_is_added_to_the_root(walk_tree):
    tree = FlatTree(blob(node("", prop(0, b"x\0"), node("soc"))), "x.dtb")
    tree.set_chosen("rng-seed", b"seed")
    assert walk_tree(tree.to_bytes())[-2:] == [("/chosen", None, None), ("/chosen", "rng-seed", b"seed")]
    assert walk_tree(tree.to_bytes())[2][0] == "/soc"


def test_chosen_deeper_in_the_tree_is_another_node(walk_tree):
    tree = FlatTree(blob(node("", node("soc", node("chosen", prop(6, b"no\0"))))), "x.dtb")
    tree.set_chosen("bootargs", b"yes\0")
    assert ("/chosen", "bootargs", b"yes\0") in walk_tree(tree.to_bytes())
    assert ("/soc/chosen", "bootargs", b"no\0") in walk_tree(tree.to_bytes())


def test_value_offset_points_into_the_packed_tree():
    tree = FlatTree(SAMPLE, "x.dtb")
    tree.set_chosen("rng-seed", b"0123456789abcdef")
    offset = tree.chosen_value_offset("rng-seed")
    assert tree.to_bytes()[offset : offset + 16] == b"0123456789abcdef"
    assert tree.chosen_value_offset("absent") is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"magic": 0xEDFE0DD0}, "magic number 0xedfe0dd0"),
        ({"total": 39}, "total size 39"),
        ({"total": 0xFFFFFFFF}, "total size 4294967295"),
        ({"version": 16}, "version 16"),
        ({"last_compatible": 18}, "compatible with 18"),
        ({"off_struct": 0xFFFFFFFC}, "lies outside the tree"),
        ({"off_struct": 74}, "not aligned"),
        ({"len_struct": 0xFFFFFFFF}, "lies outside the tree"),
        ({"len_struct": 0}, "no end"),
        ({"off_strings": 0xFFFFFFFF}, "lies outside the tree"),
        ({"len_strings": 0}, "no property name"),
        ({"off_reserved": 0xFFFFFFF8}, "reservations have no end"),
        ({"off_reserved": 44}, "not aligned"),
    ],
)
def test_wrong_header_field_is_refused(fields, message):
    with pytest.raises(ImageError, match=message):
        FlatTree(blob(node("", prop(0, b"x\0")), **fields), "x.dtb")


@pytest.mark.parametrize(
    "structure",
    [
        b"",
        node("")[:-4],
        node("") + node(""),
        node("", prop(0xFFFF, b"")),
        node("") + struct.pack(">I", 2),
        prop(0, b"x"),
        NOP + node(""),
        node("", struct.pack(">I", 5)),
        node("", struct.pack(">III", 3, 0xFFFFFFFF, 0)),
    ],
)
def test_structure_that_makes_no_sense_is_refused(structure):
    with pytest.raises(ImageError, match=r"cannot use device tree x\.dtb: "):
        FlatTree(blob(structure), "x.dtb")


def test_tree_over_the_size_limit_is_refused():
    with pytest.raises(ImageError, match="limit of 1048576"):
        FlatTree(blob(node("", prop(0, bytes(1 << 20)))), "x.dtb")


def test_every_truncation_is_refused():
    for length in range(len(SAMPLE)):
        with pytest.raises(ImageError):
            FlatTree(SAMPLE[:length], "x.dtb")


def test_corrupted_trees_are_refused_or_stay_usable():
    chance = random.Random(1)
    for _ in range(2000):
        data = bytearray(SAMPLE)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            tree = FlatTree(bytes(data), "x.dtb")
        except ImageError:
            continue
        tree.set_chosen("rng-seed", bytes(32))
        FlatTree(tree.to_bytes(), "again")


def test_largest_tree_of_tiny_nodes_is_read_in_reasonable_time():
    count = (1 << 20) // 12 - 20
    deep = struct.pack(">II", 1, 0) * count + struct.pack(">I", 2) * count
    began = time.perf_counter()
    FlatTree(blob(deep), "deep.dtb").set_chosen("rng-seed", bytes(32))
    assert time.perf_counter() - began < 20
