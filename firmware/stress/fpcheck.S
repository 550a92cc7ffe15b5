/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Floating-point state across interrupts. Nothing else in this guest uses floating point, so whatever changes between
 * load and store was changed by the machine.
 */
    .macro each_register op, base
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    \op f\n, 8 * \n(\base)
    .endr
    .irp n, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    \op f\n, 8 * \n(\base)
    .endr
    .endm

    .attribute arch, "rv64gc"
    .text
    .globl fp_across_tick
fp_across_tick:
    each_register fld, a0
    ld t0, 256(a0)
    fscsr t0
    la t0, ticks
    ld t1, 0(t0)
    addi t1, t1, 2                      /* two, so that at least one came after the last register was loaded */
1:  ld t2, 0(t0)
    bltu t2, t1, 1b
    frcsr t0
    sd t0, 256(a1)
    each_register fsd, a1
    ret
