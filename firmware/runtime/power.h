/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The end of the machine.
 */
#ifndef POWER_H
#define POWER_H

#include <stdint.h>

#define EXIT_FATAL 70       /* an exception that no guest here can handle; EX_SOFTWARE of sysexits.h */
#define EXIT_CODE_MAX 0xffff

/* Switch off after all output has left; `code` (0 to EXIT_CODE_MAX) becomes the emulator's exit status. */
_Noreturn void power_off(uint32_t code);

/* Reset the machine after all output has left. */
_Noreturn void power_reset(void);

#endif
