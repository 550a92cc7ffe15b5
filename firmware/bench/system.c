/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Kernels that leave the fast path of an emulator: interrupts, exceptions and device registers.
 */
#include "bench.h"

#include "board.h"
#include "csr.h"
#include "timer.h"
#include "trap.h"
#include "uart.h"

#define IRQ_ROUNDS 20000
#define REGISTER_ROUNDS 100000
#define ECALL_ROUNDS 100000

static volatile uint64_t software_irqs, timer_irqs, ecalls;

static void software_interrupt(void)
{
    REG32(CLINT_MSIP) = 0;
    software_irqs++;
}

static void timer_interrupt(void)
{
    REG64(CLINT_MTIMECMP) = TIMER_OFF;
    timer_irqs++;
}

static bool exception(struct trap_frame *frame)
{
    if (frame->mcause != CAUSE_ECALL_M)
        return false;
    frame->mepc += 4;
    ecalls++;
    return true;
}

void bench_system_init(void)
{
    REG64(CLINT_MTIMECMP) = TIMER_OFF;
    trap_on_interrupt(IRQ_SOFTWARE, software_interrupt);
    trap_on_interrupt(IRQ_TIMER, timer_interrupt);
    trap_on_exception(exception);
}

/* A store to msip makes the interrupt pending; wait until it has been taken. */
uint64_t bench_software_irq(void)
{
    for (uint64_t i = 0; i < IRQ_ROUNDS; i++) {
        REG32(CLINT_MSIP) = 1;
        while (software_irqs == i)
            ;
    }
    return software_irqs;
}

/* A deadline that has passed is due at once. An early interrupt would add to the sum, but none can come here. */
uint64_t bench_timer_irq(void)
{
    for (uint64_t i = 0; i < IRQ_ROUNDS; i++) {
        REG64(CLINT_MTIMECMP) = 0;
        while (timer_irqs == i)
            ;
    }
    return timer_irqs;
}

uint64_t bench_uart_read(void)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < REGISTER_ROUNDS; i++)
        sum += REG8(UART_LSR);
    return sum;
}

/* The scratch register has no effect; every value is read back. */
uint64_t bench_uart_write(void)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < REGISTER_ROUNDS / 2; i++) {
        REG8(UART_SCR) = i;
        sum += REG8(UART_SCR);
    }
    return sum;
}

/* Checksum: how often time went backwards. */
uint64_t bench_mtime(void)
{
    uint64_t last = 0, backwards = 0;

    for (unsigned i = 0; i < REGISTER_ROUNDS; i++) {
        uint64_t now = mtime();

        backwards += now < last;
        last = now;
    }
    return backwards;
}

uint64_t bench_ecall(void)
{
    for (unsigned i = 0; i < ECALL_ROUNDS; i++)
        __asm__ volatile("ecall" : : : "memory");
    return ecalls;
}

/* The same for the CPU's own register. */
uint64_t bench_rdtime(void)
{
    uint64_t last = 0, backwards = 0;

    for (unsigned i = 0; i < REGISTER_ROUNDS; i++) {
        uint64_t now = csr_read(time);

        backwards += now < last;
        last = now;
    }
    return backwards;
}
