/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What we want to know from the device tree.
 */
#ifndef FDT_H
#define FDT_H

#include <stdint.h>

/* Bytes of RAM at RAM_BASE according to the flattened device tree at `address`; 0 if there is no tree or it does not
 * say. Any address will do, also one where nothing is. */
uint64_t fdt_ram_size(uintptr_t address);

#endif
