/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Doing nothing, and keeping account of it.
 */
#include "toy.h"

#include "csr.h"
#include "print.h"
#include "timer.h"
#include "trap.h"
#include "uart.h"

static uint64_t sleeps, time_asleep;

/* Interrupts are closed between the last look for work and wfi. Otherwise an interrupt could bring work in just that
 * moment, and we would sleep over it. wfi wakes up for a closed interrupt as well; it is taken when we open again. */
void idle_sleep(void)
{
    uint64_t irq = irq_off();

    if (!uart_input_waiting() && !dirty_awake()) {
        uint64_t before = mtime();

        wait_for_interrupt();
        time_asleep += mtime() - before;
        sleeps++;
    }
    irq_restore(irq);
}

static void print_time(const char *what, uint64_t ticks)
{
    print("%s %lu.%03lu s\n", what, ticks / MTIME_HZ, ticks % MTIME_HZ / (MTIME_HZ / 1000));
}

void idle_command(int argc, char **argv)
{
    uint64_t up = mtime() - toy_start_time;

    print("sleeps %lu\n", sleeps);
    print_time("asleep", time_asleep);
    print_time("awake ", up - time_asleep);
    print("interrupts: %lu software, %lu timer, %lu external (UART: %lu receive, %lu transmit)\n",
          trap_count(IRQ_SOFTWARE), trap_count(IRQ_TIMER), trap_count(IRQ_EXTERNAL), uart_counts.receive,
          uart_counts.transmit);
}
