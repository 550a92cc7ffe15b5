/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The part of QEMU's RISC-V `virt` board that these guests use: addresses, interrupt numbers, clock rates.
 */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

#define RAM_BASE 0x80000000UL
#define RAM_SIZE_ASSUMED (16UL << 20)   /* when no device tree says how much there is */

#define FINISHER_BASE 0x100000UL        /* one 32-bit register that ends or resets the machine */

#define CLINT_BASE 0x2000000UL
#define CLINT_MSIP (CLINT_BASE + 0x0)           /* bit 0 raises the software interrupt of hart 0 */
#define CLINT_MTIMECMP (CLINT_BASE + 0x4000)    /* the timer interrupt is pending while mtime >= mtimecmp */
#define CLINT_MTIME (CLINT_BASE + 0xbff8)
#define MTIME_HZ 10000000UL

#define PLIC_BASE 0xc000000UL
#define PLIC_SOURCE_UART 10

#define UART_BASE 0x10000000UL
#define UART_CLOCK_HZ 3686400UL

/* Device registers: volatile, because every single access counts and none may be reordered or merged. */
#define REG8(address) (*(volatile uint8_t *)(address))
#define REG32(address) (*(volatile uint32_t *)(address))
#define REG64(address) (*(volatile uint64_t *)(address))

/* Placed by link.ld. */
extern char __image_start[], __image_end[];     /* code and constants, as they are in the ELF file */
extern char __free_start[];                     /* the first byte behind the guest, on a page boundary */
extern char __main_stack_top[], __trap_stack_top[];

#define PAGE_SIZE 4096UL

#endif
