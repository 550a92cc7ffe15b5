/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The kernels: each does a fixed amount of work and returns a checksum of what came out.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdint.h>

/* compute.c: the CPU and RAM alone */
uint64_t bench_sieve(void);
uint64_t bench_fib(void);
uint64_t bench_matrix(void);
uint64_t bench_crc(void);
uint64_t bench_memcpy(void);

/* system.c: traps and device registers */
void bench_system_init(void);
uint64_t bench_software_irq(void);
uint64_t bench_timer_irq(void);
uint64_t bench_uart_read(void);
uint64_t bench_uart_write(void);
uint64_t bench_mtime(void);
uint64_t bench_ecall(void);
uint64_t bench_rdtime(void);

#endif
