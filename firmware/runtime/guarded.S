/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Instructions that may fault, and what to do then. Each of them has an entry in the table of fixups: "if the
 * instruction at this address traps, go on at that one". The trap handler looks there before it calls an exception an
 * error.
 */
    .macro fixup from, to
    .pushsection .fixups, "a"
    .dword \from, \to
    .popsection
    .endm

    .text
    /* size_t guarded_copy(void *to, const volatile void *from, size_t length): how many bytes could not be read. */
    .globl guarded_copy
guarded_copy:
    beqz a2, 2f
1:  lbu t0, 0(a1)
    sb t0, 0(a0)
    addi a0, a0, 1
    addi a1, a1, 1
    addi a2, a2, -1
    bnez a2, 1b
2:  mv a0, a2
    ret
    fixup 1b, 2b

    /* bool guarded_rdtime(uint64_t *time): false if this CPU has no `time` register, which the board decides. */
    .globl guarded_rdtime
guarded_rdtime:
1:  csrr t0, time
    sd t0, 0(a0)
    li a0, 1
    ret
2:  li a0, 0
    ret
    fixup 1b, 2b
