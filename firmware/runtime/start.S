/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The first instructions of every guest. The board's reset vector jumps here, in M-mode, with
 * a0 = hart id and a1 = address of the device tree.
 */
#include "csr.h"

    .section .text.start, "ax"
    .globl _start
_start:
    csrci mstatus, MSTATUS_MIE              /* after a warm reset everything may still be switched on */
    csrw mie, zero

    bnez a0, park                           /* one hart is enough for us */

    .option push
    .option norelax                         /* or the linker would turn this into "mv gp, gp" */
    la gp, __global_pointer$
    .option pop

    /* mscratch holds the trap stack while no trap is being handled: see trap.S. */
    la t0, __trap_stack_top
    csrw mscratch, t0
    la t0, trap_entry
    csrw mtvec, t0

    li t0, MSTATUS_FS_INITIAL               /* floating point on */
    csrs mstatus, t0

    la t0, __bss_start
    la t1, __bss_end
1:  bgeu t0, t1, 2f
    sd zero, 0(t0)
    addi t0, t0, 8
    j 1b

2:  la sp, __main_stack_top
    call main                               /* main(hart, device tree): both still in a0 and a1 */

park:
    wfi
    j park
