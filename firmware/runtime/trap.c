/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What happens on a trap, after trap.S has saved the registers.
 */
#include "trap.h"

#include "board.h"
#include "csr.h"
#include "power.h"
#include "print.h"

struct fixup {
    uint64_t from, to;
};

extern const struct fixup __fixups_start[], __fixups_end[];

_Static_assert(sizeof(struct trap_frame) == 288, "FRAME in trap.S");

static void (*interrupt_handlers[IRQ_KINDS])(void);
static uint64_t interrupt_counts[IRQ_KINDS];
static bool (*exception_hook)(struct trap_frame *);
static void (*recovery)(void);

static const char *const exception_names[] = {
    "instruction address misaligned", "instruction access fault", "illegal instruction", "breakpoint",
    "load address misaligned", "load access fault", "store address misaligned", "store access fault",
    "ecall from U-mode", "ecall from S-mode", "ecall from VS-mode", "ecall from M-mode",
    "instruction page fault", "load page fault", "reserved", "store page fault",
};

static const char register_names[31][4] = {
    "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", "a0", "a1", "a2", "a3", "a4", "a5", "a6",
    "a7", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6",
};

void trap_on_interrupt(unsigned irq, void (*handler)(void))
{
    interrupt_handlers[irq] = handler;
    csr_set(mie, 1UL << irq);
}

uint64_t trap_count(unsigned irq)
{
    return interrupt_counts[irq];
}

void trap_on_exception(bool (*hook)(struct trap_frame *))
{
    exception_hook = hook;
}

void trap_recover_in(void (*restart)(void))
{
    recovery = restart;
}

static void dump(const struct trap_frame *frame)
{
    uint64_t cause = frame->mcause;
    const char *name = "unknown exception";

    if (cause & CAUSE_INTERRUPT)
        name = "interrupt without a handler";
    else if (cause < sizeof(exception_names) / sizeof(exception_names[0]))
        name = exception_names[cause];
    print("trap: %s\n", name);
    print("  mcause %016lx  mepc %016lx  mtval %016lx  mstatus %016lx\n", cause, frame->mepc, frame->mtval,
          frame->mstatus);
    for (unsigned i = 0; i < 31; i++)
        print("  %3s %016lx%s", register_names[i], frame->x[i], i % 4 == 3 || i == 30 ? "\n" : "");
}

static bool fix_up(struct trap_frame *frame)
{
    for (const struct fixup *fixup = __fixups_start; fixup < __fixups_end; fixup++) {
        if (fixup->from == frame->mepc) {
            frame->mepc = fixup->to;
            return true;
        }
    }
    return false;
}

static void unexpected(struct trap_frame *frame)
{
    bool nested = frame->mscratch == 0;

    dump(frame);
    if (!recovery || nested)
        power_off(EXIT_FATAL);
    FRAME_SP(frame) = (uint64_t)__main_stack_top;
    frame->mepc = (uint64_t)recovery;
    frame->mstatus |= MSTATUS_MPIE;     /* the exception may have come with interrupts closed */
}

/* Called by trap.S with interrupts closed. */
void trap_handle(struct trap_frame *frame)
{
    if (frame->mcause & CAUSE_INTERRUPT) {
        uint64_t irq = frame->mcause & ~CAUSE_INTERRUPT;

        if (irq < IRQ_KINDS && interrupt_handlers[irq]) {
            interrupt_counts[irq]++;
            interrupt_handlers[irq]();
            return;
        }
    } else if (fix_up(frame) || (exception_hook && exception_hook(frame))) {
        return;
    }
    unexpected(frame);
}
