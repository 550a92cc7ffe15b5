/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The test finisher (SiFive's `sifive,test0`): a word written to it ends or resets the machine.
 */
#include "power.h"

#include "board.h"
#include "csr.h"
#include "uart.h"

#define FINISHER_FAIL 0x3333    /* exit code in the upper half */
#define FINISHER_PASS 0x5555
#define FINISHER_RESET 0x7777

static _Noreturn void finish(uint32_t word)
{
    uart_flush();
    REG32(FINISHER_BASE) = word;
    csr_write(mie, 0);          /* the machine may stop a few instructions later than the store */
    for (;;)
        wait_for_interrupt();
}

_Noreturn void power_off(uint32_t code)
{
    finish(code ? code << 16 | FINISHER_FAIL : FINISHER_PASS);
}

_Noreturn void power_reset(void)
{
    finish(FINISHER_RESET);
}
