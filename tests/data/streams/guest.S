    .section .text.start
    .globl _start
_start:
    la sp, stack_top
    la t0, trap
    csrw mtvec, t0
    la a0, msg
1:  lbu a1,0(a0)
    beqz a1, 2f
    call putc
    addi a0,a0,1
    j 1b
2:  # a timer interrupt every 1000000 ticks of 10 MHz: 100 ms
    li t0, 0x200bff8
    ld t1, 0(t0)
    li t2, 1000000
    add t1,t1,t2
    li t0, 0x2004000
    sd t1,0(t0)
    li t0, 0x80
    csrs mie, t0
    csrsi mstatus, 8
    li s0, 0
3:  addi s0,s0,1
    j 3b
putc:
    li t0, 0x10000000
4:  lbu t1, 5(t0)
    andi t1,t1,0x20
    beqz t1,4b
    sb a1,0(t0)
    ret
    .align 4
trap:
    csrw mscratch, t0
    li a1, '.'
    call putc
    li t0, 0x200bff8
    ld t1, 0(t0)
    li t2, 1000000
    add t1,t1,t2
    li t0, 0x2004000
    sd t1,0(t0)
    csrr t0,mscratch
    mret
msg: .asciz "hello from riscv virt\r\n"
    .align 4
    .space 1024
stack_top:
