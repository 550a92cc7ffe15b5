/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Formatted output to the serial port.
 */
#ifndef PRINT_H
#define PRINT_H

/* Like printf with %s %c %d %u %x %%, `l` for 64 bits, a width and zero padding. One call's output stays together, also
 * when an interrupt handler prints; it is cut after 255 bytes. */
__attribute__((format(printf, 1, 2))) void print(const char *format, ...);

#endif
