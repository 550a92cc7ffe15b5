/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Traps: interrupts go to the handler registered for them, exceptions to a fixup, a hook, or the screen.
 */
#ifndef TRAP_H
#define TRAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What trap.S stores, in this order. Whatever a handler changes here takes effect on return. */
struct trap_frame {
    uint64_t mscratch;      /* the value on return: zero says that this trap is nested in another */
    uint64_t x[31];         /* x1 to x31 */
    uint64_t mepc, mstatus, mcause, mtval;
};

#define FRAME_SP(frame) ((frame)->x[1])

/* Call `handler` for the interrupt `irq` (IRQ_SOFTWARE, IRQ_TIMER, IRQ_EXTERNAL) and enable it in mie. */
void trap_on_interrupt(unsigned irq, void (*handler)(void));

/* How many interrupts of this kind were taken. */
uint64_t trap_count(unsigned irq);

/* Let `hook` see each exception that has no fixup; it returns true if it dealt with it. */
void trap_on_exception(bool (*hook)(struct trap_frame *frame));

/* After an exception that nobody expected: report it, then go on in `restart` on an empty main stack. Without it, or
 * if the exception came inside a trap handler, the machine is switched off with EXIT_FATAL. */
void trap_recover_in(void (*restart)(void));

/* guarded.S: accesses that may fault. */
size_t guarded_copy(void *to, const volatile void *from, size_t length);
bool guarded_rdtime(uint64_t *time);

#endif
