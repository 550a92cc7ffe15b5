/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Trap entry and exit: all integer registers go into a frame on the trap stack, C does the rest.
 *
 * mscratch tells whether we are inside a trap already. It holds the top of the trap stack while ordinary code runs, and
 * zero while a trap is handled. A trap inside a trap (a fault in a handler, or an interrupt if a handler allows some)
 * then simply stacks its frame below the first one, and since mepc and mstatus are in the frame as well, nothing of the
 * outer trap is lost. Handlers are compiled without floating point, so its registers stay where they are.
 */
#define FRAME 288                       /* struct trap_frame in trap.h: 36 registers */
#define SLOT(n) (8 * (n))

    .macro each_register op             /* all but x0, and x1 and x2, which entry and exit handle themselves */
    .irp n, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    \op x\n, SLOT(\n)(sp)
    .endr
    .endm

    .text
    .balign 4                           /* mtvec keeps its mode in the two lowest bits */
    .globl trap_entry
trap_entry:
    csrrw sp, mscratch, sp              /* the only way to get hold of a register without losing one */
    bnez sp, outermost

    csrrw sp, mscratch, zero            /* nested: this stack is the right one, take it back */
    addi sp, sp, -FRAME
    sd ra, SLOT(1)(sp)
    addi ra, sp, FRAME
    sd ra, SLOT(2)(sp)
    sd zero, SLOT(0)(sp)                /* mscratch stays zero after this one */
    j save

outermost:
    addi sp, sp, -FRAME
    sd ra, SLOT(1)(sp)
    csrrw ra, mscratch, zero            /* the interrupted code's sp; from here on a trap is a nested one */
    sd ra, SLOT(2)(sp)
    addi ra, sp, FRAME
    sd ra, SLOT(0)(sp)                  /* x0 needs no slot: keep there what mscratch has to be afterwards */

save:
    each_register sd
    csrr t0, mepc
    sd t0, SLOT(32)(sp)
    csrr t0, mstatus
    sd t0, SLOT(33)(sp)
    csrr t0, mcause
    sd t0, SLOT(34)(sp)
    csrr t0, mtval
    sd t0, SLOT(35)(sp)

    .option push
    .option norelax
    la gp, __global_pointer$            /* do not trust the interrupted code with it */
    .option pop
    mv a0, sp
    call trap_handle

    ld t0, SLOT(33)(sp)                 /* first: this closes interrupts if the handler had opened them */
    csrw mstatus, t0
    ld t0, SLOT(32)(sp)
    csrw mepc, t0
    ld t0, SLOT(0)(sp)
    csrw mscratch, t0
    ld ra, SLOT(1)(sp)
    each_register ld
    ld sp, SLOT(2)(sp)
    mret
