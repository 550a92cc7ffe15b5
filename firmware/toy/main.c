/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The toy guest: a shell on the serial port of QEMU's RISC-V `virt` board, in M-mode, with nothing below it.
 *
 * It is made to be stopped, saved, moved to another emulator and continued: it keeps time (count), keeps
 * changing memory and notices if a change is lost (dirty), and sleeps when it has nothing to do (wfi).
 */
#include "toy.h"

#include "board.h"
#include "csr.h"
#include "fdt.h"
#include "print.h"
#include "timer.h"
#include "trap.h"
#include "uart.h"

uint64_t toy_start_time;
uint64_t toy_ram_size;

/* Also where life goes on after a crash: with an empty stack, but with all variables as they were. */
static void main_loop(void)
{
    shell_start();
    for (;;) {
        int c = uart_read();

        if (c >= 0)
            shell_input(c);
        else if (!dirty_step())
            idle_sleep();
    }
}

/* The first address that is not ours to write to: the end of RAM, or the device tree if it lies there. */
static uint64_t free_end(uint64_t device_tree)
{
    uint64_t end = RAM_BASE + toy_ram_size;

    return device_tree >= (uint64_t)__free_start && device_tree < end ? device_tree : end;
}

void main(uint64_t hart, uint64_t device_tree)
{
    uart_init();
    toy_start_time = mtime();
    toy_ram_size = fdt_ram_size(device_tree);
    if (!toy_ram_size)
        toy_ram_size = RAM_SIZE_ASSUMED;

    timer_init();
    count_init();
    dirty_init((uint64_t)__free_start, free_end(device_tree));
    uart_use_interrupts();
    irq_on();

    print("toy guest %s, %lu MiB of RAM; try \"help\"\n", TOY_VERSION, toy_ram_size >> 20);
    trap_recover_in(main_loop);
    main_loop();
}
