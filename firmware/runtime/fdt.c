/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A reader for the flattened device tree (Devicetree Specification, chapter 5) that looks for one thing: the `reg`
 * property of the node /memory@ADDRESS. All numbers in the tree are big-endian. A tree that breaks the rules ends the
 * search.
 */
#include "fdt.h"

#include <stdbool.h>
#include <stddef.h>

#include "board.h"
#include "string.h"
#include "trap.h"

#define FDT_MAGIC 0xd00dfeed
#define FDT_SIZE_MAX (1U << 20)

enum { BEGIN_NODE = 1, END_NODE = 2, PROP = 3, NOP = 4 };
enum { HEADER_MAGIC = 0, HEADER_SIZE = 4, HEADER_STRUCT = 8, HEADER_STRINGS = 12, HEADER_LENGTH = 40 };

struct tree {
    const uint8_t *bytes;
    uint32_t size;
};

/* A 32-bit number at `offset`; 0, which is no token, outside of the tree. */
static uint32_t number(struct tree tree, uint64_t offset)
{
    const uint8_t *p = tree.bytes + offset;

    if (offset + 4 > tree.size)
        return 0;
    return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
}

/* One value of `cells` 32-bit numbers; wider ones than 64 bits are cut. */
static uint64_t value(struct tree tree, uint64_t offset, uint32_t cells)
{
    uint64_t result = 0;

    for (; cells--; offset += 4)
        result = result << 32 | number(tree, offset);
    return result;
}

static bool starts_with(struct tree tree, uint64_t offset, const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (offset + i >= tree.size || tree.bytes[offset + i] != (uint8_t)text[i])
            return false;
    return true;
}

static bool is_name(struct tree tree, uint64_t offset, const char *name)
{
    return starts_with(tree, offset, name, strlen(name) + 1);
}

static uint64_t align4(uint64_t offset)
{
    return (offset + 3) & ~3UL;
}

static uint64_t search(struct tree tree)
{
    uint64_t at = number(tree, HEADER_STRUCT);
    uint64_t strings = number(tree, HEADER_STRINGS);
    uint32_t address_cells = 2, size_cells = 1;     /* what the specification says if the root does not */
    unsigned depth = 0;
    bool in_memory = false;

    for (;;) {
        uint32_t token = number(tree, at);

        at += 4;
        switch (token) {
        case BEGIN_NODE:
            in_memory = ++depth == 2 && starts_with(tree, at, "memory@", 7);
            while (at < tree.size && tree.bytes[at])
                at++;
            at = align4(at + 1);
            break;
        case END_NODE:
            depth--;
            in_memory = false;
            break;
        case PROP: {
            uint32_t length = number(tree, at);
            uint64_t name = strings + number(tree, at + 4);
            uint64_t data = at + 8;

            if (depth == 1 && is_name(tree, name, "#address-cells"))
                address_cells = number(tree, data) & 3;
            else if (depth == 1 && is_name(tree, name, "#size-cells"))
                size_cells = number(tree, data) & 3;
            else if (in_memory && is_name(tree, name, "reg") && length >= 4 * (address_cells + size_cells) &&
                     value(tree, data, address_cells) == RAM_BASE)
                return value(tree, data + 4 * address_cells, size_cells);
            at = align4(data + length);
            break;
        }
        case NOP:
            break;
        default:            /* the end, or nonsense */
            return 0;
        }
    }
}

uint64_t fdt_ram_size(uintptr_t address)
{
    uint8_t header[HEADER_LENGTH], last;
    struct tree tree = {header, sizeof(header)};

    if (guarded_copy(header, (const void *)address, sizeof(header)) || number(tree, HEADER_MAGIC) != FDT_MAGIC)
        return 0;
    tree.bytes = (const uint8_t *)address;
    tree.size = number((struct tree){header, sizeof(header)}, HEADER_SIZE);
    if (tree.size < HEADER_LENGTH || tree.size > FDT_SIZE_MAX ||
        guarded_copy(&last, tree.bytes + tree.size - 1, 1))
        return 0;
    return search(tree);
}
