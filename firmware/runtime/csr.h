/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Control and status registers (RISC-V privileged specification), and the global interrupt switch.
 */
#ifndef CSR_H
#define CSR_H

#define MSTATUS_MIE 0x8            /* interrupts are taken */
#define MSTATUS_MPIE 0x80          /* what MIE was before the trap, and will be after mret */
#define MSTATUS_FS_INITIAL 0x2000  /* floating point is on, its registers are as after reset */

/* Bit numbers in mie and mip, and interrupt codes in mcause. */
#define IRQ_SOFTWARE 3
#define IRQ_TIMER 7
#define IRQ_EXTERNAL 11
#define IRQ_KINDS 12

#define CAUSE_ECALL_M 11

#ifndef __ASSEMBLER__

#include <stdint.h>

#define CAUSE_INTERRUPT (1UL << 63)

#define csr_read(name) ({ uint64_t value_; __asm__ volatile("csrr %0, " #name : "=r"(value_) : : "memory"); value_; })
#define csr_write(name, value) __asm__ volatile("csrw " #name ", %0" : : "r"(value) : "memory")
#define csr_set(name, bits) __asm__ volatile("csrs " #name ", %0" : : "r"(bits) : "memory")

/* Close a critical section against interrupts; the result goes to irq_restore, so such sections nest. */
static inline uint64_t irq_off(void)
{
    uint64_t before;
    __asm__ volatile("csrrci %0, mstatus, 8" : "=r"(before) : : "memory");
    return before & MSTATUS_MIE;
}

static inline void irq_restore(uint64_t before)
{
    csr_set(mstatus, before);
}

static inline void irq_on(void)
{
    csr_set(mstatus, MSTATUS_MIE);
}

/* Sleep until an interrupt is pending; it need not be allowed to be taken. */
static inline void wait_for_interrupt(void)
{
    __asm__ volatile("wfi" : : : "memory");
}

#endif /* __ASSEMBLER__ */

#endif
