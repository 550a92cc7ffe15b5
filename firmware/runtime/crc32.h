/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * CRC-32 as in zlib, PNG and Ethernet.
 */
#ifndef CRC32_H
#define CRC32_H

#include <stddef.h>
#include <stdint.h>

/* The checksum of what gave `crc` (0 for nothing yet) followed by these bytes. */
uint32_t crc32(uint32_t crc, const uint8_t *bytes, size_t length);

#endif
