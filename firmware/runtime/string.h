/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The few functions of the C library that are used here (the compiler calls the mem… ones on its own, too).
 */
#ifndef STRING_H
#define STRING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *memcpy(void *to, const void *from, size_t length);
void *memset(void *to, int value, size_t length);
size_t strlen(const char *text);
int strcmp(const char *a, const char *b);

/* The whole of `text` as a number, decimal or 0x…; false if it is none or needs more than 64 bits. */
bool parse_number(const char *text, uint64_t *value);

#endif
