/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Memory and text.
 */
#include "string.h"

void *memcpy(void *to, const void *from, size_t length)
{
    uint8_t *t = to;
    const uint8_t *f = from;

    if (!(((uintptr_t)t | (uintptr_t)f) & 7)) {
        for (; length >= 8; length -= 8, t += 8, f += 8)
            *(uint64_t __attribute__((may_alias)) *)t = *(const uint64_t __attribute__((may_alias)) *)f;
    }
    while (length--)
        *t++ = *f++;
    return to;
}

void *memset(void *to, int value, size_t length)
{
    for (uint8_t *t = to; length--; t++)
        *t = value;
    return to;
}

size_t strlen(const char *text)
{
    const char *end = text;

    while (*end)
        end++;
    return end - text;
}

int strcmp(const char *a, const char *b)
{
    while (*a && *a == *b) {
        a++;
        b++;
    }
    return (unsigned char)*a - (unsigned char)*b;
}

static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return 16;
}

bool parse_number(const char *text, uint64_t *value)
{
    unsigned base = 10;
    uint64_t number = 0;

    if (text[0] == '0' && (text[1] | 0x20) == 'x') {
        base = 16;
        text += 2;
    }
    if (!*text)
        return false;
    for (; *text; text++) {
        unsigned digit = digit_value(*text);
        uint64_t room = UINT64_MAX - digit;

        if (digit >= base || number > room / base)
            return false;
        number = number * base + digit;
    }
    *value = number;
    return true;
}
