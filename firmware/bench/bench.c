/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The benchmark guest: runs every kernel once, prints `bench NAME TICKS CHECKSUM` for each, and switches the machine
 * off. Ticks are those of mtime, 100 ns each. The checksum (hexadecimal) must be the same on every machine.
 */
#include "bench.h"

#include <stddef.h>

#include "csr.h"
#include "power.h"
#include "print.h"
#include "timer.h"
#include "trap.h"
#include "uart.h"

static const struct {
    const char *name;
    uint64_t (*run)(void);
} kernels[] = {
    {"sieve", bench_sieve},
    {"fib", bench_fib},
    {"matrix", bench_matrix},
    {"crc", bench_crc},
    {"memcpy", bench_memcpy},
    {"software-irq", bench_software_irq},
    {"timer-irq", bench_timer_irq},
    {"uart-read", bench_uart_read},
    {"uart-write", bench_uart_write},
    {"mtime", bench_mtime},
    {"ecall", bench_ecall},
    {"rdtime", bench_rdtime},
};

void main(void)
{
    uint64_t time;

    uart_init();
    bench_system_init();
    irq_on();
    for (size_t i = 0; i < sizeof(kernels) / sizeof(kernels[0]); i++) {
        if (kernels[i].run == bench_rdtime && !guarded_rdtime(&time)) {
            print("bench %s skipped\n", kernels[i].name);       /* this CPU has no `time` register */
            continue;
        }
        uart_flush();

        uint64_t start = mtime();
        uint64_t checksum = kernels[i].run();
        uint64_t ticks = mtime() - start;

        print("bench %s %lu %016lx\n", kernels[i].name, ticks, checksum);
    }
    power_off(0);
}
