/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Alarms on mtimecmp. The timer interrupt is pending as long as mtime >= mtimecmp, so it is put away by writing a later
 * time, not by acknowledging it.
 *
 * The handler decides by looking at the time, never by having been called: an interrupt may come early (a machine that
 * was just migrated gets one for good measure), and then nothing happens but that the comparator is written again.
 */
#include "timer.h"

#include "csr.h"
#include "trap.h"

static uint64_t deadlines[TIMERS];
static void (*actions[TIMERS])(uint64_t now);

static void program(void)
{
    uint64_t first = TIMER_OFF;

    for (unsigned i = 0; i < TIMERS; i++)
        if (deadlines[i] < first)
            first = deadlines[i];
    REG64(CLINT_MTIMECMP) = first;
}

static void timer_interrupt(void)
{
    uint64_t now = mtime();

    for (unsigned i = 0; i < TIMERS; i++) {
        if (deadlines[i] <= now) {
            deadlines[i] = TIMER_OFF;
            actions[i](now);
        }
    }
    program();
}

void timer_init(void)
{
    for (unsigned i = 0; i < TIMERS; i++)
        deadlines[i] = TIMER_OFF;
    program();
    trap_on_interrupt(IRQ_TIMER, timer_interrupt);
}

void timer_on(unsigned timer, void (*fire)(uint64_t now))
{
    actions[timer] = fire;
}

void timer_set(unsigned timer, uint64_t deadline)
{
    uint64_t irq = irq_off();

    deadlines[timer] = deadline;
    program();
    irq_restore(irq);
}

uint64_t timer_next_beat(uint64_t last, uint64_t period, uint64_t now)
{
    uint64_t next = last + period;

    return next > now ? next : now + period;
}
