/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A printf small enough to read.
 */
#include "print.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "string.h"
#include "uart.h"

struct buffer {
    size_t length;
    char text[255];
};

static void add(struct buffer *out, const char *text, size_t length, size_t width, char pad)
{
    for (size_t i = length; i < width && out->length < sizeof(out->text); i++)
        out->text[out->length++] = pad;
    for (size_t i = 0; i < length && out->length < sizeof(out->text); i++)
        out->text[out->length++] = text[i];
}

static void add_number(struct buffer *out, uint64_t value, unsigned base, bool negative, size_t width, char pad)
{
    char digits[21];
    char *first = digits + sizeof(digits);

    do {
        *--first = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    if (negative)
        *--first = '-';
    add(out, first, digits + sizeof(digits) - first, width, pad);
}

static void format_into(struct buffer *out, const char *format, va_list arguments)
{
    for (; *format; format++) {
        if (*format != '%') {
            add(out, format, 1, 0, ' ');
            continue;
        }
        format++;

        char pad = *format == '0' ? '0' : ' ';
        size_t width = 0;
        while (*format >= '0' && *format <= '9')
            width = width * 10 + (*format++ - '0');
        bool is_long = *format == 'l';
        if (is_long)
            format++;

        switch (*format) {
        case 's': {
            const char *text = va_arg(arguments, const char *);
            add(out, text, strlen(text), width, ' ');
            break;
        }
        case 'c': {
            char character = va_arg(arguments, int);
            add(out, &character, 1, width, ' ');
            break;
        }
        case 'd': {
            int64_t value = is_long ? va_arg(arguments, int64_t) : va_arg(arguments, int);
            add_number(out, value < 0 ? -(uint64_t)value : (uint64_t)value, 10, value < 0, width, pad);
            break;
        }
        case 'u':
        case 'x': {
            uint64_t value = is_long ? va_arg(arguments, uint64_t) : va_arg(arguments, unsigned);
            add_number(out, value, *format == 'x' ? 16 : 10, false, width, pad);
            break;
        }
        case '%':
            add(out, "%", 1, 0, ' ');
            break;
        default:                /* the compiler's format check knows more than we do: show what we cannot */
            add(out, "%?", 2, 0, ' ');
            return;
        }
    }
}

void print(const char *format, ...)
{
    struct buffer out;
    va_list arguments;

    out.length = 0;
    va_start(arguments, format);
    format_into(&out, format, arguments);
    va_end(arguments);
    uart_write(out.text, out.length);
}
