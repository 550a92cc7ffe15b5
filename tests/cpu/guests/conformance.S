/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Start-up, the way into a probe and the two trap handlers. See conformance.c.
 */
    .option norelax
    .section .text.start, "ax"
    .globl _start
_start:
    la      sp, stack_top
    j       main

/* void enter(entry a0, mstatus a1, struct trap *a2, argument a3, argument a4): run code until it traps to M.
 * The code finds its arguments in a1 and a2, 0x55 in a0; a0 goes into the record at the end. */
    .text
    .globl enter
enter:
    addi    sp, sp, -14 * 8
    sd      ra, 0 * 8(sp)
    sd      s0, 1 * 8(sp)
    sd      s1, 2 * 8(sp)
    sd      s2, 3 * 8(sp)
    sd      s3, 4 * 8(sp)
    sd      s4, 5 * 8(sp)
    sd      s5, 6 * 8(sp)
    sd      s6, 7 * 8(sp)
    sd      s7, 8 * 8(sp)
    sd      s8, 9 * 8(sp)
    sd      s9, 10 * 8(sp)
    sd      s10, 11 * 8(sp)
    sd      s11, 12 * 8(sp)
    sd      a2, 13 * 8(sp)
    csrw    mscratch, sp
    csrw    sscratch, a2
    csrw    mepc, a0
    csrw    mstatus, a1
    la      t0, m_handler
    csrw    mtvec, t0
    sfence.vma
    mv      a1, a3
    mv      a2, a4
    li      a0, 0x55
    li      a3, 0
    li      a4, 0
    li      a5, 0
    mret

    .align 8
    .globl m_vectors
m_vectors:
    .option push
    .option norvc
    j       m_handler
    .rept 15
    j       m_vectored
    .endr
    .option pop

m_vectored:         /* tells that it was not entered by the base */
    addi    a4, a4, 1

    .align 2
m_handler:
    csrrw   sp, mscratch, sp
    ld      t0, 13 * 8(sp)
    csrr    t1, mcause
    sd      t1, 0 * 8(t0)
    csrr    t1, mepc
    sd      t1, 1 * 8(t0)
    csrr    t1, mtval
    sd      t1, 2 * 8(t0)
    csrr    t1, mstatus
    sd      t1, 3 * 8(t0)
    sd      a0, 4 * 8(t0)
    sd      a4, 5 * 8(t0)
    li      t1, 1 << 17         /* MPRV */
    csrc    mstatus, t1
    csrw    mie, zero
    csrw    satp, zero
    sfence.vma
    ld      ra, 0 * 8(sp)
    ld      s0, 1 * 8(sp)
    ld      s1, 2 * 8(sp)
    ld      s2, 3 * 8(sp)
    ld      s3, 4 * 8(sp)
    ld      s4, 5 * 8(sp)
    ld      s5, 6 * 8(sp)
    ld      s6, 7 * 8(sp)
    ld      s7, 8 * 8(sp)
    ld      s8, 9 * 8(sp)
    ld      s9, 10 * 8(sp)
    ld      s10, 11 * 8(sp)
    ld      s11, 12 * 8(sp)
    addi    sp, sp, 14 * 8
    ret

    .align 8
    .globl s_vectors
s_vectors:
    .option push
    .option norvc
    j       s_handler
    .rept 15
    j       s_vectored
    .endr
    .option pop

s_vectored:
    addi    a5, a5, 1

    .align 2
    .globl s_handler
s_handler:          /* records like the other, then calls on machine mode */
    csrrw   t0, sscratch, t0
    csrr    t1, scause
    sd      t1, 6 * 8(t0)
    csrr    t1, sepc
    sd      t1, 7 * 8(t0)
    csrr    t1, stval
    sd      t1, 8 * 8(t0)
    csrr    t1, sstatus
    sd      t1, 9 * 8(t0)
    sd      a0, 10 * 8(t0)
    sd      a5, 11 * 8(t0)
    ecall

    .bss
    .align 4
    .space 8192
stack_top:
