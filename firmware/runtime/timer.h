/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Time, and a few alarms that share the one comparator. All times are in ticks of mtime (MTIME_HZ).
 */
#ifndef TIMER_H
#define TIMER_H

#include <stdint.h>

#include "board.h"

#define TIMER_OFF UINT64_MAX
#define TIMERS 2                /* alarm numbers 0 and 1: each guest gives them its own meaning */

/* Ticks since the board was powered on or reset. */
static inline uint64_t mtime(void)
{
    return REG64(CLINT_MTIME);
}

/* All alarms off, the timer interrupt on. */
void timer_init(void);

/* What to call, from the interrupt, when the alarm's time has come. It is off then, and may be set again. */
void timer_on(unsigned timer, void (*fire)(uint64_t now));

/* Set the alarm to `deadline`, or to TIMER_OFF. */
void timer_set(unsigned timer, uint64_t deadline);

/* The next beat of an alarm that beats every `period`: after `last`, never in the past. Beats missed stay missed. */
uint64_t timer_next_beat(uint64_t last, uint64_t period, uint64_t now);

#endif
