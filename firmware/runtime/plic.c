/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Driver for SiFive's PLIC, context 0: M-mode of hart 0.
 *
 * The protocol: reading the claim register names the most urgent pending source and silences it; writing the
 * number back says that it is done, and lets it interrupt again. Zero means that nothing is pending.
 */
#include "plic.h"

#include "board.h"
#include "csr.h"
#include "trap.h"

#define PLIC_PRIORITY(source) (PLIC_BASE + 4 * (source))
#define PLIC_ENABLE(source) (PLIC_BASE + 0x2000 + 4 * ((source) / 32))
#define PLIC_THRESHOLD (PLIC_BASE + 0x200000)
#define PLIC_CLAIM (PLIC_BASE + 0x200004)

static unsigned handled_source;
static void (*source_handler)(void);

static void external_interrupt(void)
{
    uint32_t source;

    while ((source = REG32(PLIC_CLAIM)) != 0) {
        if (source == handled_source)
            source_handler();
        REG32(PLIC_CLAIM) = source;
    }
}

void plic_on(unsigned source, void (*handler)(void))
{
    handled_source = source;
    source_handler = handler;
    REG32(PLIC_PRIORITY(source)) = 1;       /* 0 would mean never */
    REG32(PLIC_ENABLE(source)) = 1U << source % 32;
    REG32(PLIC_THRESHOLD) = 0;              /* let every priority above 0 through */
    trap_on_interrupt(IRQ_EXTERNAL, external_interrupt);
}
