/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What the hart does when something unusual happens, one line of text for each case.
 *
 * A probe is a few instructions, run in a mode of choice, that end in a trap to machine mode: in the one that is
 * looked for, or in the `ecall` behind it. A line tells the cause, mepc, mtval, mstatus and a0, and the same for the
 * supervisor's handler where the trap was delegated. `code+N` is an address in the probe itself. Whatever could change
 * from run to run (times, the exact place of an interrupt) is left out, so the text of two harts can be compared.
 */
typedef unsigned long u64;
typedef unsigned int u32;
typedef unsigned char u8;

#define CODE(name, text) \
    static void __attribute__((naked, aligned(64), noinline, used)) name(void) { asm volatile(text "\necall"); }

#define csr_write(csr, value) asm volatile("csrw " #csr ", %0" : : "rK"((u64)(value)) : "memory")
#define csr_set(csr, value) asm volatile("csrs " #csr ", %0" : : "rK"((u64)(value)) : "memory")
#define csr_read(csr) ({ u64 v_; asm volatile("csrr %0, " #csr : "=r"(v_)); v_; })

#define reg8(a) (*(volatile u8 *)(a))
#define reg32(a) (*(volatile u32 *)(a))
#define reg64(a) (*(volatile u64 *)(a))

enum { U, S, M = 3 };

#define MIE (1UL << 3)
#define SIE (1UL << 1)
#define SPIE (1UL << 5)
#define MPIE (1UL << 7)
#define SPP (1UL << 8)
#define FS (1UL << 13)
#define MPRV (1UL << 17)
#define SUM (1UL << 18)
#define MXR (1UL << 19)
#define TVM (1UL << 20)
#define TW (1UL << 21)
#define TSR (1UL << 22)

#define UXL (3UL << 32)

#define SSI (1UL << 1)
#define MSI (1UL << 3)
#define STI (1UL << 5)
#define MTI (1UL << 7)
#define SEI (1UL << 9)
#define MEI (1UL << 11)

#define FINISHER 0x100000UL
#define CLINT 0x2000000UL
#define MTIMECMP (CLINT + 0x4000)
#define PLIC 0xc000000UL
#define UART 0x10000000UL
#define NOTHING 0x9000000UL
#define MROM 0x1000UL
#define FLASH 0x20000000UL

#define RAM_END 0x81000000UL
#define IN_QEMU 0x80f00000UL     /* a word here that is not 0 leaves out what QEMU does not survive */
#define DATA 0x80200000UL
#define TABLES 0x80300000UL
#define CODE_PAGE 0x80280000UL

struct trap {
    u64 mcause, mepc, mtval, mstatus, ma0, mvector;
    u64 scause, sepc, stval, sstatus, sa0, svector;
};

extern void enter(u64 entry, u64 status, struct trap *record, u64 a1, u64 a2);
extern char m_vectors[], s_vectors[], s_handler[];

static struct trap record;
static u64 satp, mie;

static void put(char c)
{
    while (!(reg8(UART + 5) & 0x20))
        ;
    reg8(UART) = c;
}

static void text(const char *s)
{
    while (*s)
        put(*s++);
}

static void hex(u64 v)
{
    int shift = 60;
    while (shift && !(v >> shift))
        shift -= 4;
    text("0x");
    for (; shift >= 0; shift -= 4)
        put("0123456789abcdef"[v >> shift & 15]);
}

static void where(const char *name, u64 v, u64 entry)
{
    text(name);
    if (v - entry < 64) {
        text("code+");
        hex(v - entry);
    } else {
        hex(v);
    }
}

static void shown(const char *mode, const u64 *r, u64 entry)
{
    text(mode);
    text(" cause=");
    hex(r[0]);
    if (r[0] >> 63) {
        text(r[1] - entry < 64 ? " epc=code" : " epc=elsewhere");
    } else {
        where(" epc=", r[1], entry);
    }
    where(" tval=", r[2], entry);
    text(" status=");
    hex(r[3]);
    text(" a0=");
    hex(r[4]);
    if (r[5])
        text(" vectored");
}

static void __attribute__((noinline)) run(u64 entry, int mode, u64 status, u64 a1, u64 a2)
{
    u64 *word = (u64 *)&record;
    for (unsigned i = 0; i < sizeof record / 8; i++)
        word[i] = 0;
    csr_write(satp, satp);
    csr_write(mie, mie);
    enter(entry, status | (u64)mode << 11, &record, a1, a2);
}

static void __attribute__((noinline)) probe_at(const char *name, u64 entry, int mode, u64 status, u64 a1, u64 a2)
{
    run(entry, mode, status, a1, a2);
    text(name);
    text(": ");
    if (record.sepc) {
        record.sstatus &= ~UXL;     /* see set/sstatus for it */
        shown("S", &record.scause, entry);
        if (record.mcause != 9)
            shown(" M", &record.mcause, entry);
    } else {
        shown("M", &record.mcause, entry);
    }
    put('\n');
}

#define probe(code, mode, status, a1, a2) probe_at(#code "/" #mode, (u64)code, mode, status, a1, a2)
#define named(name, code, mode, status, a1, a2) probe_at(name, (u64)code, mode, status, a1, a2)

static void allow_all(void)
{
    csr_write(pmpcfg0, 0);
    csr_write(pmpaddr0, -1);
    csr_write(pmpcfg0, 0x1f);
    asm volatile("sfence.vma" : : : "memory");
}

/* Synchronous exceptions */

CODE(illegal, ".word 0xffffffff")
CODE(illegal_compressed, ".half 0")
CODE(reserved_compressed, ".half 0x8002")  /* c.jr x0 */
CODE(reserved_opcode, ".word 0x0000000b")
CODE(reserved_add_4_spn, ".half 0x0004")              /* c.addi4spn with immediate 0 */
CODE(reserved_quadrant_0, ".half 0x8000")
CODE(reserved_lui, ".half 0x6081")                    /* c.lui with immediate 0 */
CODE(reserved_add_immediate_word, ".half 0x2005")     /* c.addiw to x0 */
CODE(reserved_arithmetic, ".half 0x9c41")
CODE(reserved_load_word_sp, ".half 0x4002")           /* c.lwsp to x0 */
CODE(reserved_load_double_sp, ".half 0x6002")         /* c.ldsp to x0 */
CODE(reserved_csr, ".word 0x30004073")                /* SYSTEM with funct3 4 */
CODE(reserved_system, ".word 0x00300073")
CODE(reserved_fence, ".word 0x0000200f")
CODE(reserved_shift, ".word 0x04051513")              /* slli with a bit of funct6 set */
CODE(reserved_load, ".word 0x0005f503")               /* LOAD with funct3 7 */
CODE(reserved_load_reserved, ".word 0x10b5b52f")      /* lr.d with rs2 */
CODE(longer_than_32, ".word 0x0000001f\nnop")
CODE(breakpoint, ".option push\n.option norvc\nebreak\n.option pop")
CODE(breakpoint_compressed, "c.ebreak")
CODE(behind_compressed, "c.nop\n.word 0xffffffff")
CODE(call, "nop")
CODE(load_8, "lb a0, 0(a1)")
CODE(load_16, "lh a0, 0(a1)")
CODE(load_32, "lw a0, 0(a1)")
CODE(load_64, "ld a0, 0(a1)")
CODE(load_unsigned_32, "lwu a0, 0(a1)")
CODE(load_compressed, "c.nop\nc.lw a0, 4(a1)")
CODE(load_offset, ".option push\n.option norvc\nld a0, -8(a1)\n.option pop")
CODE(load_to_base, "mv a0, a1\nld a0, 0(a0)")
CODE(load_double, "c.nop\nfld fa0, 8(a1)")
CODE(store_8, "sb a2, 0(a1)")
CODE(store_16, "sh a2, 0(a1)")
CODE(store_32, "sw a2, 0(a1)")
CODE(store_64, "sd a2, 0(a1)")
CODE(store_double, "fsd fa0, -8(a1)")
CODE(load_then_store, "ld a0, 0(a1)\nsd a2, 0(a1)")
CODE(store_twice, "sd a2, 0(a1)\nsd a2, 8(a1)")
CODE(store_then_load, "sd a2, 0(a1)\nld a0, 0(a1)")
CODE(atomic_add_32, "amoadd.w a0, a2, (a1)")
CODE(atomic_add_64, "amoadd.d a0, a2, (a1)")
CODE(atomic_swap_64, "amoswap.d a0, a2, (a1)")
CODE(load_reserved_32, "lr.w a0, (a1)")
CODE(load_reserved_64, "lr.d a0, (a1)")
CODE(store_conditional_64, "sc.d a0, a2, (a1)")
CODE(reserve_and_store, "lr.d a0, (a1)\nsc.d a0, a2, (a1)")
CODE(reserve_and_store_elsewhere, "lr.d a0, (a1)\naddi a1, a1, 8\nsc.d a0, a2, (a1)")
CODE(reserve_and_store_twice, "lr.d a0, (a1)\nsc.d a0, a2, (a1)\nsc.d a0, a2, (a1)")
CODE(jump, "jr a1")
CODE(jump_odd, "la a0, 1f\naddi a0, a0, 1\njr a0\n.word 0xffffffff\n1: li a0, 7")

static void exceptions(void)
{
    probe(illegal, M, 0, 0, 0);
    probe(illegal, S, 0, 0, 0);
    probe(illegal, U, 0, 0, 0);
    probe(illegal_compressed, M, MPIE, 0, 0);
    probe(reserved_compressed, M, 0, 0, 0);
    probe(reserved_opcode, M, 0, 0, 0);
    probe(reserved_add_4_spn, M, 0, 0, 0);
    probe(reserved_quadrant_0, M, 0, 0, 0);
    probe(reserved_lui, M, 0, 0, 0);
    probe(reserved_add_immediate_word, M, 0, 0, 0);
    probe(reserved_arithmetic, M, 0, 0, 0);
    probe(reserved_load_word_sp, M, 0, 0, 0);
    probe(reserved_load_double_sp, M, 0, 0, 0);
    probe(reserved_csr, M, 0, 0, 0);
    probe(reserved_system, M, 0, 0, 0);
    probe(reserved_fence, M, 0, 0, 0);
    probe(reserved_shift, M, 0, 0, 0);
    probe(reserved_load, M, 0, DATA, 0);
    probe(reserved_load_reserved, M, 0, DATA, 0);
    probe(longer_than_32, M, 0, 0, 0);
    probe(behind_compressed, M, 0, 0, 0);
    probe(breakpoint, M, MPIE, 0, 0);
    probe(breakpoint, S, MPIE, 0, 0);
    probe(breakpoint, U, 0, 0, 0);
    probe(breakpoint_compressed, M, 0, 0, 0);
    probe(breakpoint_compressed, U, 0, 0, 0);
    probe(call, M, 0, 0, 0);
    probe(call, S, MPIE | SPIE, 0, 0);
    probe(call, U, MPIE | SPIE | SPP, 0, 0);

    named("load/unassigned", load_64, M, 0, NOTHING, 0);
    named("load/unassigned/U", load_64, U, 0, NOTHING, 0);
    named("load/unassigned/misaligned", load_64, M, 0, NOTHING + 3, 0);
    named("load/unassigned/compressed", load_compressed, M, 0, NOTHING, 0);
    named("load/unassigned/offset", load_offset, M, 0, NOTHING, 0);
    named("load/unassigned/to-base", load_to_base, M, 0, NOTHING, 0);
    named("load/unassigned/double", load_double, M, FS, NOTHING, 0);
    named("load/unassigned/top", load_64, M, 0, -8, 0);
    named("load/zero", load_8, M, 0, 0, 0);
    named("load/plic/8", load_8, M, 0, PLIC + 4, 0);
    named("load/plic/16", load_16, M, 0, PLIC + 4, 0);
    named("load/plic/32", load_32, M, 0, PLIC + 4, 0);
    named("load/plic/64", load_64, M, 0, PLIC + 8, 0);
    named("load/plic/misaligned", load_32, M, 0, PLIC + 6, 0);
    named("load/plic/unsigned", load_unsigned_32, M, 0, PLIC + 4, 0);
    named("load/clint/msip/8", load_8, M, 0, CLINT, 0);
    named("load/clint/msip/64", load_64, M, 0, CLINT, 0);
    named("load/clint/hole", load_32, M, 0, CLINT + 0xc000, 0);
    named("load/uart/32", load_32, M, 0, UART + 4, 0);
    named("load/uart/behind", load_8, M, 0, UART + 0x100, 0);
    named("load/finisher", load_32, M, 0, FINISHER, 0);
    named("load/mrom", load_32, M, 0, MROM, 0);
    named("load/mrom/behind", load_8, M, 0, 0x10000, 0);
    named("load/ram/misaligned", load_64, M, 0, DATA + 5, 0);
    named("load/ram/end", load_64, M, 0, RAM_END - 8, 0);

    named("store/unassigned", store_64, M, 0, NOTHING, 0);
    named("store/unassigned/S", store_64, S, 0, NOTHING, 0);
    named("store/unassigned/misaligned", store_32, M, 0, NOTHING + 1, 0);
    named("store/unassigned/double", store_double, M, FS, NOTHING + 8, 0);
    named("store/zero", store_8, M, 0, 0, 0);
    named("store/mrom/8", store_8, M, 0, MROM + 0x800, 0x55);
    named("store/mrom/64", store_then_load, M, 0, MROM, 0x55);
    named("store/plic/8", store_8, M, 0, PLIC + 4, 0);
    named("store/plic/64", store_64, M, 0, PLIC + 8, 0);
    named("store/clint/misaligned", store_32, M, 0, MTIMECMP + 2, 0);
    named("store/clint/hole", store_32, M, 0, CLINT + 0xc000, 0);
    named("store/uart/16", store_16, M, 0, UART + 7, 0);
    named("store/ram/misaligned", store_then_load, M, 0, DATA + 3, 0x1122334455667788);
    named("store/ram/page-crossing", store_then_load, M, 0, DATA + 0xffd, 0x1122334455667788);

    named("atomic/ram", atomic_add_64, M, 0, DATA, 1);
    named("atomic/misaligned/32", atomic_add_32, M, 0, DATA + 2, 1);
    named("atomic/misaligned/64", atomic_add_64, M, 0, DATA + 4, 1);
    named("atomic/misaligned/U", atomic_swap_64, U, 0, DATA + 1, 1);
    named("atomic/unassigned", atomic_add_64, M, 0, NOTHING, 1);
    named("atomic/unassigned/swap", atomic_swap_64, M, 0, NOTHING, 1);
    named("atomic/mrom", atomic_add_64, M, 0, MROM, 0);
    named("atomic/plic/64", atomic_add_64, M, 0, PLIC + 8, 0);
    named("atomic/plic/32", atomic_add_32, M, 0, PLIC + 8, 2);
    named("reserved/misaligned/32", load_reserved_32, M, 0, DATA + 2, 0);
    named("reserved/misaligned/64", load_reserved_64, M, 0, DATA + 4, 0);
    named("reserved/unassigned", load_reserved_64, M, 0, NOTHING, 0);
    named("conditional/without", store_conditional_64, M, 0, DATA, 0);
    named("conditional/misaligned", store_conditional_64, M, 0, DATA + 1, 0);
    named("conditional/unassigned", store_conditional_64, M, 0, NOTHING, 0);
    named("conditional/with", reserve_and_store, M, 0, DATA, 3);
    named("conditional/with/U", reserve_and_store, U, 0, DATA, 3);
    named("conditional/elsewhere", reserve_and_store_elsewhere, M, 0, DATA, 3);
    named("conditional/twice", reserve_and_store_twice, M, 0, DATA, 3);
    run((u64)load_reserved_64, M, 0, DATA, 0);
    named("conditional/across-a-trap", store_conditional_64, M, 0, DATA, 4);

    named("fetch/unassigned", jump, M, 0, NOTHING, 0);
    named("fetch/unassigned/U", jump, U, 0, NOTHING, 0);
    named("fetch/plic", jump, M, 0, PLIC, 0);
    named("fetch/uart", jump, S, 0, UART, 0);
    named("fetch/zero", jump, M, 0, 0, 0);
    named("fetch/end-of-ram", jump, M, 0, RAM_END, 0);
    named("fetch/top", jump, M, 0, -4, 0);
    probe(jump_odd, M, 0, 0, 0);
    named("load/across-the-end-of-ram", load_64, M, 0, RAM_END - 4, 0);
    reg32(RAM_END - 4) = 0x11111111;
    named("store/across-the-end-of-ram", store_64, M, 0, RAM_END - 4, 0);
    text("store/across-the-end-of-ram/left: ");
    hex(reg32(RAM_END - 4));
    put('\n');
}

/* Floating point and the status register */

CODE(float_add, "fadd.d fa0, fa0, fa0")
CODE(float_move, "li a0, 9\nfmv.d.x fa0, a1\ncsrr a0, mstatus")
CODE(float_csr, "csrr a0, fcsr")
CODE(float_load, ".option push\n.option norvc\nfld fa0, 0(a1)\n.option pop")
CODE(float_load_compressed, "c.nop\nc.fld fa0, 0(a1)")
CODE(float_load_only, "fld fa0, 0(a1)\ncsrr a0, mstatus")
CODE(float_flags, "csrw fcsr, zero\nfmv.d.x fa0, zero\nli a1, 1\nfcvt.d.l fa1, a1\nfdiv.d fa1, fa1, fa0\ncsrr a0, fcsr")
CODE(float_rounding, "csrwi frm, 5\nfadd.d fa0, fa0, fa0")
CODE(float_rounding_dynamic, ".word 0x02a57553")  /* fadd.d with the dynamic rounding mode */
CODE(float_rounding_static, ".word 0x02a55553")    /* fadd.d with rounding mode 5, which is reserved */

static void floats(void)
{
    probe(float_add, M, 0, 0, 0);
    probe(float_csr, M, 0, 0, 0);
    probe(float_csr, U, 0, 0, 0);
    probe(float_load, M, 0, DATA, 0);
    probe(float_load_compressed, M, 0, DATA, 0);
    probe(float_add, U, FS, 0, 0);
    probe(float_move, M, FS, 5, 0);
    probe(float_load_only, M, FS, DATA, 0);
    probe(float_flags, M, FS, 0, 0);
    probe(float_rounding, M, FS, 0, 0);
    csr_write(mstatus, FS);
    csr_write(fcsr, 0);
    probe(float_rounding_dynamic, M, FS, 0, 0);
    probe(float_rounding_static, M, FS, 0, 0);
}

/* Privileged instructions */

CODE(machine_return, "la a0, 1f\ncsrw mepc, a0\ncsrw mstatus, a1\nmret\n1: li a0, 8")
CODE(machine_return_status, "la a0, 1f\ncsrw mepc, a0\ncsrw mstatus, a1\nmret\n1: csrr a0, mstatus")
CODE(supervisor_return, "la a0, 1f\ncsrw sepc, a0\nsret\n1: li a0, 8")
CODE(wait_for_interrupt, "wfi")
CODE(fence_virtual, "sfence.vma")
CODE(read_satp, "csrr a0, satp")
CODE(write_satp, "csrw satp, zero")
CODE(fence_instructions, "fence.i\nli a0, 4")
CODE(user_return, ".word 0x00200073")
CODE(bare_return, "mret")
CODE(bare_supervisor_return, "sret")
CODE(odd_return, "la a0, 1f\naddi a0, a0, 1\ncsrw mepc, a0\ncsrw mstatus, a1\nmret\n1: csrr a0, mepc\nandi a0, a0, 1")

static void privileges(void)
{
    named("mret/M-to-M", machine_return_status, M, 0, (u64)M << 11 | MPIE, 0);
    named("mret/M-to-M/off", machine_return_status, M, 0, (u64)M << 11, 0);
    named("mret/M-to-S", machine_return, M, 0, (u64)S << 11 | MPIE, 0);
    named("mret/M-to-U", machine_return, M, 0, (u64)U << 11 | SPP, 0);
    named("mret/M-to-reserved", machine_return, M, 0, 2UL << 11, 0);
    named("mret/M-to-U/mprv", machine_return, M, 0, (u64)U << 11 | MPRV, 0);
    named("mret/odd", odd_return, M, 0, (u64)M << 11, 0);
    named("mret/S", bare_return, S, 0, 0, 0);
    named("mret/U", bare_return, U, 0, 0, 0);
    named("sret/M-to-U", supervisor_return, M, SPIE, 0, 0);
    named("sret/M-to-S", supervisor_return, M, SPIE | SPP, 0, 0);
    named("sret/S-to-U", supervisor_return, S, SPIE, 0, 0);
    named("sret/S-to-S", supervisor_return, S, SPP, 0, 0);
    named("sret/S-to-S/on", supervisor_return, S, SPP | SPIE, 0, 0);
    named("sret/U", bare_supervisor_return, U, 0, 0, 0);
    named("sret/S/tsr", bare_supervisor_return, S, TSR, 0, 0);
    named("sret/M/tsr", supervisor_return, M, TSR | SPP, 0, 0);
    named("uret/M", user_return, M, 0, 0, 0);
    named("uret/U", user_return, U, 0, 0, 0);
    csr_write(stvec, s_handler);
    csr_write(mideleg, SSI);
    csr_write(mip, SSI);
    mie = SSI;
    named("wfi/S", wait_for_interrupt, S, 0, 0, 0);
    named("wfi/S/tw", wait_for_interrupt, S, TW, 0, 0);
    csr_write(mip, 0);
    csr_write(mideleg, 0);
    mie = 0;
    probe(wait_for_interrupt, U, 0, 0, 0);
    reg32(CLINT) = 1;
    mie = 1 << 3;
    named("wfi/M/pending", wait_for_interrupt, M, 0, 0, 0);
    named("wfi/M/tw", wait_for_interrupt, M, TW, 0, 0);
    mie = 0;
    reg32(CLINT) = 0;
    probe(fence_virtual, M, TVM, 0, 0);
    probe(fence_virtual, S, 0, 0, 0);
    probe(fence_virtual, U, 0, 0, 0);
    named("fence_virtual/S/tvm", fence_virtual, S, TVM, 0, 0);
    probe(read_satp, S, 0, 0, 0);
    probe(read_satp, U, 0, 0, 0);
    named("read_satp/S/tvm", read_satp, S, TVM, 0, 0);
    named("write_satp/S/tvm", write_satp, S, TVM, 0, 0);
    named("write_satp/M/tvm", write_satp, M, TVM, 0, 0);
    probe(fence_instructions, U, 0, 0, 0);
}

/* Control and status registers: which there are in each mode, and which bits of them can be set */

#define CSRR(rd, csr) (csr << 20 | 2 << 12 | rd << 7 | 0x73)
#define CSRW(csr, rs) ((csr) << 20 | (rs) << 15 | 1 << 12 | 0x73)
enum { T0 = 5, A0 = 10, A1 = 11 };

static void write_code(const u32 *words, int count)
{
    for (int i = 0; i < count; i++)
        reg32(CODE_PAGE + 4 * i) = words[i];
    asm volatile("fence.i");
}

static int is_illegal(int mode, u32 instruction)
{
    u32 words[] = {instruction, 0x73};
    write_code(words, 2);
    run(CODE_PAGE, mode, 0, 0, 0);
    return record.mcause == 2;
}

static void readable(int mode, const char *name)
{
    int first = -1;
    csr_write(mcounteren, 7);
    csr_write(scounteren, 7);
    text(name);
    for (int csr = 0; csr <= 0x1000; csr++) {
        int exists = csr < 0x1000 && !is_illegal(mode, CSRR(A0, csr));
        if (exists && first < 0)
            first = csr;
        if (!exists && first >= 0) {
            put(' ');
            hex(first);
            if (first < csr - 1) {
                put('-');
                hex(csr - 1);
            }
            first = -1;
        }
    }
    put('\n');
}

static void settable(const char *name, u32 csr, u64 value)
{
    u32 words[] = {CSRR(T0, csr), CSRW(csr, A1), CSRR(A0, csr), CSRW(csr, T0), 0x73};
    write_code(words, 5);
    run(CODE_PAGE, M, 0, value, 0);
    text("set/");
    text(name);
    put('/');
    hex(value);
    text(": ");
    if (record.mcause == 11)
        hex(record.ma0);
    else
        text("illegal");
    put('\n');
}

static void counters(void)
{
    static const char *const names[] = {"cycle", "time", "instret", "hpmcounter3"};
    for (u64 enabled = 0; enabled < 4; enabled++) {
        csr_write(mcounteren, enabled & 1 ? 15 : 0);
        csr_write(scounteren, enabled & 2 ? 15 : 0);
        for (u32 csr = 0xc00; csr <= 0xc03; csr++) {
            text("counter/");
            text(names[csr - 0xc00]);
            text(enabled & 1 ? "/mcounteren" : "");
            text(enabled & 2 ? "/scounteren" : "");
            text(": M");
            text(is_illegal(M, CSRR(A0, csr)) ? " illegal" : " works");
            text(" S");
            text(is_illegal(S, CSRR(A0, csr)) ? " illegal" : " works");
            text(" U");
            text(is_illegal(U, CSRR(A0, csr)) ? " illegal\n" : " works\n");
        }
    }
}

#define SET(csr, number, value) settable(csr, number, value)

static void registers(void)
{
    readable(M, "readable/M:");
    readable(S, "readable/S:");
    readable(U, "readable/U:");
    counters();
    text("write/read-only/0xc00: ");
    text(is_illegal(M, CSRW(0xc00U, 0)) ? "illegal\n" : "works\n");
    text("write/read-only/0xf14: ");
    text(is_illegal(M, CSRW(0xf14U, 0)) ? "illegal\n" : "works\n");
    text("set-none/read-only/0xf14: ");
    text(is_illegal(M, CSRR(0, 0xf14U)) ? "illegal\n" : "works\n");
    text("set-from-zero-register/read-only/0xf14: ");
    text(is_illegal(M, 0xf14U << 20 | A0 << 15 | 2 << 12 | 0x73) ? "illegal\n" : "works\n");
    SET("mstatus", 0x300, -1UL);
    SET("mstatus", 0x300, 0);
    SET("mstatus/mpp", 0x300, 2 << 11);
    SET("misa", 0x301, 0);
    SET("medeleg", 0x302, -1UL);
    SET("mideleg", 0x303, -1UL);
    SET("mie", 0x304, -1UL);
    SET("mtvec", 0x305, 0x80000001);
    SET("mtvec", 0x305, 0x80000002);
    SET("mtvec", 0x305, 0x80000004);
    SET("mcounteren", 0x306, -1UL);
    SET("mepc", 0x341, 0x80000003);
    SET("mcause", 0x342, -1UL);
    SET("mtval", 0x343, -1UL);
    SET("mip", 0x344, 0xddd);
    SET("sstatus", 0x100, -1UL);
    SET("sie", 0x104, -1UL);
    SET("stvec", 0x105, 0x80000001);
    SET("stvec", 0x105, 0x80000002);
    SET("scounteren", 0x106, -1UL);
    SET("sepc", 0x141, 0x80000003);
    SET("scause", 0x142, -1UL);
    SET("stval", 0x143, -1UL);
    SET("sip", 0x144, -1UL);
    SET("satp", 0x180, -1UL);
    SET("satp", 0x180, 8UL << 60 | 0xffffUL << 44 | 1);
    SET("satp", 0x180, 9UL << 60 | 1);
    SET("satp", 0x180, 7UL << 60 | 1);
    SET("satp", 0x180, 10UL << 60 | 1);
    SET("fcsr", 0x003, -1UL);
    SET("pmpaddr1", 0x3b1, -1UL);
    SET("pmpcfg2", 0x3a2, 0x60);
    csr_write(mideleg, -1);
    SET("sie/delegated", 0x104, -1UL);
    SET("sip/delegated", 0x144, -1UL);
    csr_write(mideleg, 0);
}

/* Delegation and interrupts */

CODE(spin, "li t0, 10000\n1: addi t0, t0, -1\nbnez t0, 1b\nli a0, 0x99")
CODE(spin_enabled, "csrs mie, a1\ncsrs mstatus, a2\nli t0, 10000\n1: addi t0, t0, -1\nbnez t0, 1b\nli a0, 0x99")
CODE(self_interrupt, "li a0, 1\nsw a0, 0(a1)\nli t0, 10000\n1: addi t0, t0, -1\nbnez t0, 1b\nli a0, 0x99")
CODE(supervisor_self_interrupt, "csrsi sip, 2\nli t0, 10000\n1: addi t0, t0, -1\nbnez t0, 1b\nli a0, 0x99")

static void delegation(void)
{
    csr_write(stvec, s_handler);
    csr_write(medeleg, 1 << 2 | 1 << 3 | 1 << 5 | 1 << 7 | 1 << 1 | 1 << 8);
    named("delegated/illegal/U", illegal, U, SPIE | SIE, 0, 0);
    named("delegated/illegal/S", illegal, S, SIE, 0, 0);
    named("delegated/illegal/M", illegal, M, SIE, 0, 0);
    named("delegated/breakpoint/U", breakpoint, U, 0, 0, 0);
    named("delegated/load/U", load_64, U, SPP, NOTHING, 0);
    named("delegated/store/S", store_64, S, 0, NOTHING, 0);
    named("delegated/atomic/S", atomic_add_64, S, 0, NOTHING, 0);
    named("delegated/fetch/U", jump, U, 0, NOTHING, 0);
    named("delegated/call/U", call, U, 0, 0, 0);
    named("delegated/not-delegated/U", atomic_add_64, U, 0, DATA + 1, 0);
    csr_write(stvec, s_vectors + 1);
    named("delegated/vectors-are-for-interrupts/U", illegal, U, 0, 0, 0);
    csr_write(medeleg, 0);
}

static void settle(void)
{
    csr_write(mip, 0);
    reg32(CLINT) = 0;
    reg64(MTIMECMP) = -1;
    mie = 0;
}

static void external(int on)
{
    reg32(PLIC + 4 * 10) = on;
    reg32(PLIC + 0x2000) = on << 10;
    reg32(PLIC + 0x2080) = on << 10;
    reg8(UART + 1) = on ? 2 : 0;
    if (!on) {
        reg32(PLIC + 0x200004);
        reg32(PLIC + 0x200004) = 10;
    }
}

CODE(spin_vectored, "la t0, m_vectors + 1\ncsrw mtvec, t0\ncsrs mie, a1\ncsrs mstatus, a2\nli t0, 10000\n"
                    "1: addi t0, t0, -1\nbnez t0, 1b\nli a0, 0x99")

static void interrupts(void)
{
    csr_write(stvec, s_handler);
    reg32(CLINT) = 1;
    named("interrupt/software/M", spin_enabled, M, 0, MSI, MIE);
    named("interrupt/software/M/mie-off", spin_enabled, M, 0, MSI, 0);
    named("interrupt/software/M/not-enabled", spin_enabled, M, 0, MTI, MIE);
    mie = MSI;
    named("interrupt/software/M/mret", spin, M, MPIE, 0, 0);
    named("interrupt/software/S/mie-off", spin, S, 0, 0, 0);
    named("interrupt/software/U/mie-off", spin, U, 0, 0, 0);
    csr_write(mideleg, -1);
    named("interrupt/software/M/cannot-be-delegated", spin, M, MPIE, 0, 0);
    csr_write(mideleg, 0);
    named("interrupt/software/M/vectored", spin_vectored, M, 0, MSI, MIE);
    settle();

    mie = MSI;
    named("interrupt/software/M/self", self_interrupt, M, MPIE, CLINT, 0);
    settle();
    mie = MSI;
    named("interrupt/software/U/self", self_interrupt, U, 0, CLINT, 0);
    settle();

    reg64(MTIMECMP) = 0;
    mie = MTI;
    named("interrupt/timer/M", spin, M, MPIE, 0, 0);
    named("interrupt/timer/S", spin, S, 0, 0, 0);
    named("interrupt/timer/M/vectored", spin_vectored, M, 0, MTI, MIE);
    settle();

    external(1);
    mie = MEI;
    named("interrupt/external/M", spin, M, MPIE, 0, 0);
    named("interrupt/external/M/vectored", spin_vectored, M, 0, MEI, MIE);
    mie = SEI;
    named("interrupt/external/S/not-delegated", spin, S, SIE, 0, 0);
    csr_write(mideleg, SEI);
    named("interrupt/external/S", spin, S, SIE, 0, 0);
    named("interrupt/external/S/sie-off", spin, S, 0, 0, 0);
    named("interrupt/external/U", spin, U, 0, 0, 0);
    named("interrupt/external/M/delegated-is-masked", spin, M, MPIE, 0, 0);
    csr_write(mideleg, 0);
    settle();
    external(0);

    csr_write(mip, SSI);
    mie = SSI;
    named("interrupt/supervisor-software/M", spin, M, MPIE, 0, 0);
    named("interrupt/supervisor-software/S/not-delegated", spin, S, 0, 0, 0);
    csr_write(mideleg, SSI);
    named("interrupt/supervisor-software/S", spin, S, SIE, 0, 0);
    named("interrupt/supervisor-software/S/sie-off", spin, S, 0, 0, 0);
    named("interrupt/supervisor-software/U", spin, U, 0, 0, 0);
    csr_write(stvec, s_vectors + 1);
    named("interrupt/supervisor-software/U/vectored", spin, U, 0, 0, 0);
    csr_write(stvec, s_handler);
    settle();
    mie = SSI;
    named("interrupt/supervisor-software/S/self", supervisor_self_interrupt, S, SIE, 0, 0);
    csr_write(mideleg, 0);
    settle();

    csr_write(mip, STI);
    mie = STI;
    csr_write(mideleg, STI);
    named("interrupt/supervisor-timer/S", spin, S, SIE, 0, 0);
    csr_write(mip, SEI);
    mie = SEI;
    csr_write(mideleg, SEI);
    named("interrupt/supervisor-external/by-software", spin, U, 0, 0, 0);
    csr_write(mideleg, 0);
    settle();

    reg32(CLINT) = 1;
    reg64(MTIMECMP) = 0;
    csr_write(mip, SSI | STI);
    mie = MSI | MTI | SSI | STI;
    named("order/msi-mti-ssi-sti", spin, M, MPIE, 0, 0);
    external(1);
    mie |= MEI | SEI;
    named("order/all", spin, M, MPIE, 0, 0);
    mie = MTI | SEI;
    named("order/mti-sei", spin, M, MPIE, 0, 0);
    mie = MTI | MEI;
    named("order/mti-mei", spin, M, MPIE, 0, 0);
    csr_write(mideleg, SSI | STI | SEI);
    mie = MTI | MEI | SSI | STI | SEI;
    named("order/machine-before-supervisor", spin, S, SIE, 0, 0);
    mie = SSI | STI | SEI;
    named("order/supervisor", spin, S, SIE, 0, 0);
    mie = STI | SEI;
    named("order/sti-sei", spin, U, 0, 0, 0);
    csr_write(mideleg, 0);
    external(0);
    settle();
}

/* Translation */

#define PTE_V 1UL
#define PTE_R 2UL
#define PTE_W 4UL
#define PTE_X 8UL
#define PTE_U 16UL
#define PTE_G 32UL
#define PTE_A 64UL
#define PTE_D 128UL
#define AD (PTE_A | PTE_D)
#define RW (PTE_V | PTE_R | PTE_W)
#define RWX (RW | PTE_X)

#define ROOT48 (TABLES)
#define ROOT39 (TABLES + 0x1000)
#define MIDDLE (TABLES + 0x2000)
#define LEAVES (TABLES + 0x3000)
#define USER_ALIAS 0x40000000UL     /* the address of RAM for user mode, less that for supervisor mode */
#define TARGET 0x100000000UL        /* where the page under test is */

#define entry_of(table, index) reg64((table) + 8 * (index))

static void prepare_tables(u64 mode)
{
    for (u64 a = TABLES; a < TABLES + 0x4000; a += 8)
        reg64(a) = 0;
    entry_of(ROOT48, 0) = ROOT39 >> 2 | PTE_V;
    entry_of(ROOT39, 2) = 0x80000000UL >> 2 | RWX | AD;
    entry_of(ROOT39, 3) = 0x80000000UL >> 2 | RWX | AD | PTE_U;
    entry_of(ROOT39, 4) = MIDDLE >> 2 | PTE_V;
    entry_of(MIDDLE, 0) = LEAVES >> 2 | PTE_V;
    satp = mode << 60 | (mode == 8 ? ROOT39 : ROOT48) >> 12;
}

static const char *scheme;

static void paged(const char *name, void (*code)(void), int mode, u64 status, u64 pte, u64 a1)
{
    u64 saved = satp;
    entry_of(LEAVES, 0) = pte;
    text(scheme);
    probe_at(name, (u64)code + (mode == U ? USER_ALIAS : 0), mode, status, a1, 0x77);
    if (entry_of(LEAVES, 0) != pte) {
        text(scheme);
        text(name);
        text("/entry: ");
        hex(pte & 255);
        text(" becomes ");
        hex(entry_of(LEAVES, 0) & 255);
        put('\n');
    }
    satp = saved;
}

#define PAGE(flags) (DATA >> 2 | (flags))

static void translation(u64 mode)
{
    prepare_tables(mode);
    scheme = mode == 8 ? "sv39/" : "sv48/";
    reg64(DATA) = 0x1234;
    reg32(DATA + 0x10) = 0x73;  /* ecall */
    asm volatile("fence.i");
    csr_write(medeleg, 0);
    csr_write(stvec, s_handler);

    paged("load", load_64, S, 0, PAGE(RW | AD), TARGET);
    paged("load/U", load_64, U, 0, PAGE(RW | PTE_U | AD), TARGET);
    paged("load/no-A", load_64, S, 0, PAGE(RW), TARGET);
    paged("store/no-D", store_64, S, 0, PAGE(RW | PTE_A), TARGET + 8);
    paged("store/no-A-no-D", store_64, S, 0, PAGE(RW), TARGET + 8);
    paged("fetch/no-A", jump, S, 0, PAGE(PTE_V | PTE_X), TARGET + 0x10);
    paged("load/no-D", load_64, S, 0, PAGE(RW | PTE_A), TARGET);
    paged("load/invalid", load_64, S, 0, PAGE(0), TARGET + 0x18);
    paged("load/invalid/other-bits", load_64, S, 0, PAGE(RWX & ~PTE_V), TARGET + 0x18);
    paged("load/execute-only", load_64, S, 0, PAGE(PTE_V | PTE_X | AD), TARGET);
    paged("load/execute-only/mxr", load_64, S, MXR, PAGE(PTE_V | PTE_X | AD), TARGET);
    paged("load/reserved-W", load_64, S, 0, PAGE(PTE_V | PTE_W | AD), TARGET);
    paged("load/reserved-WX", load_64, S, 0, PAGE(PTE_V | PTE_W | PTE_X | AD), TARGET);
    paged("load/user-page", load_64, S, 0, PAGE(RW | PTE_U | AD), TARGET);
    paged("load/user-page/sum", load_64, S, SUM, PAGE(RW | PTE_U | AD), TARGET);
    paged("load/supervisor-page/U", load_64, U, SUM, PAGE(RW | AD), TARGET);
    paged("store", store_then_load, S, 0, PAGE(RW | AD), TARGET + 0x20);
    paged("store/read-only", store_64, S, 0, PAGE(PTE_V | PTE_R | AD), TARGET + 0x18);
    paged("store/user-page", store_64, S, 0, PAGE(RW | PTE_U | AD), TARGET + 0x18);
    paged("store/user-page/sum", store_then_load, S, SUM, PAGE(RW | PTE_U | AD), TARGET + 0x18);
    paged("store/read-only/U", store_64, U, 0, PAGE(PTE_V | PTE_R | PTE_U | AD), TARGET + 0x18);
    paged("atomic", atomic_add_64, S, 0, PAGE(RW | PTE_A), TARGET);
    paged("atomic/invalid", atomic_add_64, S, 0, PAGE(0), TARGET);
    paged("atomic/read-only", atomic_add_64, S, 0, PAGE(PTE_V | PTE_R | AD), TARGET);
    paged("atomic/misaligned-and-invalid", atomic_add_64, S, 0, PAGE(0), TARGET + 1);
    paged("reserved/invalid", load_reserved_64, S, 0, PAGE(0), TARGET);
    paged("conditional/invalid", store_conditional_64, S, 0, PAGE(0), TARGET);
    paged("conditional/read-only", reserve_and_store, S, 0, PAGE(PTE_V | PTE_R | AD), TARGET);
    paged("fetch", jump, S, 0, PAGE(PTE_V | PTE_X | AD), TARGET + 0x10);
    paged("fetch/invalid", jump, S, 0, PAGE(0), TARGET + 0x10);
    paged("fetch/not-executable", jump, S, MXR, PAGE(RW | AD), TARGET + 0x10);
    paged("fetch/user-page", jump, S, SUM, PAGE(RWX | PTE_U | AD), TARGET + 0x10);
    paged("fetch/U", jump, U, 0, PAGE(RWX | PTE_U | AD), TARGET + 0x10);
    paged("fetch/supervisor-page/U", jump, U, 0, PAGE(RWX | AD), TARGET + 0x10);
    reg32(DATA + 0xffc) = 0x00130001;  /* c.nop, then the first half of an instruction */
    asm volatile("fence.i");
    paged("fetch/across-pages/invalid", jump, S, 0, PAGE(RWX | AD), TARGET + 0xffc);
    paged("load/across-pages/invalid", load_64, S, 0, PAGE(RWX | AD), TARGET + 0xffc);
    paged("store/across-pages/invalid", store_64, S, 0, PAGE(RWX | AD), TARGET + 0xffc);
    text(scheme);
    text("store/across-pages/left: ");
    hex(reg32(DATA + 0xffc));
    put('\n');
    paged("load/global", load_64, S, 0, PAGE(RW | PTE_G | AD), TARGET);
    paged("load/software-bits", load_64, S, 0, PAGE(RW | AD | 3 << 8), TARGET);
    paged("load/unassigned", load_64, S, 0, NOTHING >> 2 | RW | AD, TARGET + 8);
    paged("store/unassigned", store_64, U, 0, NOTHING >> 2 | RW | AD | PTE_U, TARGET + 8);
    paged("fetch/unassigned", jump, S, 0, NOTHING >> 2 | RWX | AD, TARGET + 8);
    paged("load/device", load_32, S, 0, PLIC >> 2 | RW | AD, TARGET + 4);
    paged("load/device/width", load_8, S, 0, PLIC >> 2 | RW | AD, TARGET + 4);
    paged("store/mrom", store_8, S, 0, MROM >> 2 | RW | AD, TARGET + 4);
    paged("fetch/device", jump, S, 0, PLIC >> 2 | RWX | AD, TARGET + 4);
    paged("load/leaf-level-pointer", load_64, S, 0, PAGE(PTE_V), TARGET);

    u64 lower = mode == 8 ? 1UL << 38 : 1UL << 47;
    paged("load/not-canonical", load_64, S, 0, PAGE(0), lower);
    paged("load/not-canonical/below-top", load_64, S, 0, PAGE(0), -lower - 8);
    paged("load/not-mapped/top", load_64, S, 0, PAGE(0), -8UL);
    paged("store/not-canonical", store_64, S, 0, PAGE(0), 1UL << 60 | TARGET);
    paged("fetch/not-canonical", jump, S, 0, PAGE(0), lower);

    entry_of(MIDDLE, 0) = DATA >> 2 | RW | AD;
    paged("superpage/2M", load_64, S, 0, PAGE(0), TARGET);
    entry_of(MIDDLE, 0) = (DATA + 0x1000) >> 2 | RW | AD;
    paged("superpage/2M/misaligned", load_64, S, 0, PAGE(0), TARGET);
    entry_of(MIDDLE, 0) = LEAVES >> 2 | PTE_V;
    entry_of(ROOT39, 5) = DATA >> 2 | RW | AD;
    paged("superpage/1G/misaligned", store_64, S, 0, PAGE(0), TARGET + (1UL << 30));
    entry_of(ROOT39, 5) = 0x80000000UL >> 2 | RW | AD;
    paged("superpage/1G", load_64, S, 0, PAGE(0), TARGET + (1UL << 30) + 0x200000);
    entry_of(ROOT39, 5) = NOTHING >> 2 | PTE_V;
    paged("table/unassigned", load_64, S, 0, PAGE(0), TARGET + (1UL << 30));
    paged("table/unassigned/store", store_64, S, 0, PAGE(0), TARGET + (1UL << 30));
    paged("table/unassigned/fetch", jump, S, 0, PAGE(0), TARGET + (1UL << 30));
    entry_of(ROOT39, 5) = UART >> 2 | PTE_V;
    paged("table/uart", load_64, S, 0, PAGE(0), TARGET + (1UL << 30));
    entry_of(ROOT39, 5) = PLIC >> 2 | PTE_V;
    paged("table/plic", load_64, S, 0, PAGE(0), TARGET + (1UL << 30));
    entry_of(ROOT39, 5) = ((1UL << 54) - 1024) | PTE_V;
    paged("table/top", load_64, S, 0, PAGE(0), TARGET + (1UL << 30));
    entry_of(ROOT39, 5) = 0;

    csr_write(medeleg, 0xb100);
    paged("delegated/load", load_64, U, 0, PAGE(0), TARGET);
    paged("delegated/store", store_64, U, SPIE | SIE, PAGE(PTE_V | PTE_R | PTE_U | AD), TARGET);
    paged("delegated/fetch", jump, U, 0, PAGE(RW | PTE_U | AD), TARGET);
    paged("delegated/load/S", load_64, S, SIE, PAGE(0), TARGET);
    csr_write(medeleg, 0);
    satp = 0;
}

CODE(mprv_load, "csrw mstatus, a2\nld a0, 0(a1)")
CODE(mprv_store, "csrw mstatus, a2\nsd a2, 0(a1)")

static void as_previous_mode(void)
{
    prepare_tables(8);
    reg64(DATA) = 0x1234;
    entry_of(LEAVES, 0) = PAGE(RW | AD);
    entry_of(LEAVES, 1) = PAGE(PTE_V | PTE_R | PTE_U | AD);
    named("mprv/load/S", mprv_load, M, 0, TARGET, MPRV | (u64)S << 11);
    named("mprv/load/U", mprv_load, M, 0, TARGET, MPRV | (u64)U << 11);
    named("mprv/load/M", mprv_load, M, 0, TARGET, MPRV | (u64)M << 11);
    named("mprv/load/S/user-page", mprv_load, M, 0, TARGET + 0x1000, MPRV | (u64)S << 11);
    named("mprv/load/S/user-page/sum", mprv_load, M, 0, TARGET + 0x1000, SUM | MPRV | (u64)S << 11);
    named("mprv/load/U/user-page", mprv_load, M, 0, TARGET + 0x1000, MPRV | (u64)U << 11);
    named("mprv/store/U/user-page", mprv_store, M, 0, TARGET + 0x1000, MPRV | (u64)U << 11);
    named("mprv/ignored-in-S", load_64, S, MPRV, TARGET, 0);
    satp = 0;
    named("mprv/load/S/bare", mprv_load, M, 0, DATA, MPRV | (u64)S << 11);
}

/* Physical memory protection */

#define NAPOT(base, size) ((base) >> 2 | ((size) / 8 - 1))
enum { PR = 1, PW = 2, PX = 4, TOR = 8, NA4 = 16, NAP = 24, LOCK = 128 };

static void protect(int entry, int cfg, u64 addr)
{
    u64 old = csr_read(pmpcfg0) & ~(255UL << 8 * entry);
    switch (entry) {
    case 0: csr_write(pmpaddr0, addr); break;
    case 1: csr_write(pmpaddr1, addr); break;
    case 2: csr_write(pmpaddr2, addr); break;
    case 3: csr_write(pmpaddr3, addr); break;
    }
    csr_write(pmpcfg0, old | (u64)cfg << 8 * entry);
}

static void no_protection(void)
{
    csr_write(pmpcfg0, 0);
    csr_write(pmpaddr0, 0);
    csr_write(pmpaddr1, 0);
    csr_write(pmpaddr2, 0);
    csr_write(pmpaddr3, 0);
}

static void before_any_entry(void)
{
    named("pmp/none/S", call, S, 0, 0, 0);
    named("pmp/none/U", call, U, 0, 0, 0);
    named("pmp/none/M", call, M, 0, 0, 0);
}

static void protection(void)
{
    reg64(DATA) = 0x1234;
    no_protection();
    protect(1, NAP | PR | PW | PX, -1);
    protect(0, NAP | PR, NAPOT(DATA, 0x1000));
    named("pmp/read-only/load", load_64, S, 0, DATA, 0);
    named("pmp/read-only/store", store_64, S, 0, DATA + 8, 0);
    named("pmp/read-only/store/U", store_64, U, 0, DATA + 8, 0);
    named("pmp/read-only/store/M", store_64, M, 0, DATA + 8, 0);
    named("pmp/read-only/load-then-store", load_then_store, S, 0, DATA, 0x1234);
    named("pmp/read-only/fetch", jump, U, 0, DATA, 0);
    named("pmp/read-only/atomic", atomic_add_64, U, 0, DATA, 0);
    named("pmp/read-only/behind", store_64, S, 0, DATA + 0x1000, 0);
    named("pmp/read-only/mprv", mprv_store, M, 0, DATA, MPRV | (u64)S << 11);
    protect(0, NAP, NAPOT(DATA, 0x1000));
    named("pmp/nothing/load", load_64, S, 0, DATA, 0);
    named("pmp/nothing/reserved", load_reserved_64, S, 0, DATA, 0);
    named("pmp/nothing/conditional", store_conditional_64, S, 0, DATA, 0);
    protect(0, NAP | PX, NAPOT(DATA, 0x1000));
    reg32(DATA) = 0x73;
    asm volatile("fence.i");
    named("pmp/execute-only/fetch", jump, U, 0, DATA, 0);
    named("pmp/execute-only/load", load_64, U, 0, DATA, 0);

    protect(0, NAP | PR, NAPOT(DATA + 0x40, 0x40));
    named("pmp/64-bytes/store-before", store_64, S, 0, DATA + 0x38, 0);
    named("pmp/64-bytes/store-inside", store_64, S, 0, DATA + 0x40, 0);
    named("pmp/64-bytes/load-inside", load_64, S, 0, DATA + 0x40, 0);
    named("pmp/64-bytes/store-behind", store_64, S, 0, DATA + 0x80, 0);
    named("pmp/64-bytes/store-astride", store_64, S, 0, DATA + 0x3c, 0);
    named("pmp/64-bytes/load-then-store", load_then_store, S, 0, DATA + 0x40, 0);
    named("pmp/64-bytes/store-outside-then-inside", store_twice, S, 0, DATA + 0x38, 0);
    protect(0, NA4 | PR, (DATA + 0x100) >> 2);
    named("pmp/na4/store-inside", store_32, S, 0, DATA + 0x100, 0);
    named("pmp/na4/store-before", store_32, S, 0, DATA + 0xfc, 0);
    named("pmp/na4/store-behind", store_32, S, 0, DATA + 0x104, 0);
    named("pmp/na4/store-astride", store_64, S, 0, DATA + 0x100, 0);

    no_protection();
    protect(2, NAP | PR | PW | PX, -1);
    protect(0, 0, DATA >> 2);
    protect(1, TOR | PR, (DATA + 0x2000) >> 2);
    named("pmp/tor/store-before", store_64, S, 0, DATA - 8, 0);
    named("pmp/tor/store-first", store_64, S, 0, DATA, 0);
    named("pmp/tor/store-last", store_64, S, 0, DATA + 0x1ff8, 0);
    named("pmp/tor/store-behind", store_64, S, 0, DATA + 0x2000, 0);
    named("pmp/tor/load", load_64, S, 0, DATA, 0);
    csr_write(pmpaddr0, (DATA + 0x1000) >> 2);
    named("pmp/tor/base-moved/store-before", store_64, S, 0, DATA, 0);
    named("pmp/tor/base-moved/store-inside", store_64, S, 0, DATA + 0x1000, 0);
    csr_write(pmpaddr0, (DATA + 0x2000) >> 2);
    named("pmp/tor/empty", store_64, S, 0, DATA + 0x1000, 0);

    reg64(DATA) = 0x1234;
    no_protection();
    protect(0, TOR | PR | PX, DATA >> 2);
    protect(1, NAP | PR | PW, NAPOT(0x80000000UL, 0x1000000));
    named("pmp/first-match/store", store_64, S, 0, DATA - 0x1000, 0);
    named("pmp/first-match/load-from-nowhere", load_64, S, 0, UART, 0);
    named("pmp/first-match/no-match", load_64, S, 0, 0x88000000UL, 0);
    named("pmp/first-match/no-match/M", load_64, M, 0, DATA, 0);

    no_protection();
    protect(1, NAP | PR | PW | PX, -1);
    protect(0, NAP, NAPOT(TABLES, 0x10000));
    prepare_tables(8);
    named("pmp/tables/load", load_64, S, 0, TARGET, 0);
    named("pmp/tables/fetch", call, S, 0, TARGET, 0);
    satp = 0;
    no_protection();
    named("pmp/all-off-again/S", call, S, 0, 0, 0);
}

CODE(protect_now, "csrw pmpcfg0, a2\nli a0, 2\nsd a0, 0(a1)")

static void upper_entries(void)
{
    no_protection();
    csr_write(pmpaddr9, -1);
    csr_write(pmpcfg2, (u64)(NAP | PR | PW | PX) << 8);
    csr_write(pmpaddr8, NAPOT(DATA, 0x1000));
    csr_set(pmpcfg2, NAP | PR);
    text("pmp/entry-8/cfg: ");
    hex(csr_read(pmpcfg2));
    put('\n');
    named("pmp/entry-8/store", store_64, S, 0, DATA, 0);
    named("pmp/entry-8/elsewhere", store_64, S, 0, DATA + 0x1000, 0);
    csr_write(pmpcfg2, 0);
    csr_write(pmpaddr8, 0);
    csr_write(pmpaddr9, 0);
}

static void locks(void)
{
    allow_all();
    reg64(DATA) = 1;
    csr_write(pmpaddr2, NAPOT(DATA, 0x1000));
    named("lock/takes-effect-at-once", protect_now, M, 0, DATA, (u64)(LOCK | NAP | PR) << 16 | 0x1f);
    named("lock/store/M", store_64, M, 0, DATA, 2);
    protect(2, NAP | PR | PW | PX, NAPOT(DATA, 0x1000));
    text("lock/cfg: ");
    hex(csr_read(pmpcfg0));
    put('\n');
    csr_write(pmpaddr2, 0);
    text("lock/addr: ");
    hex(csr_read(pmpaddr2));
    put('\n');
    named("lock/first-match-wins/M", store_64, M, 0, DATA, 2);
    csr_write(pmpcfg0, 0);
    named("lock/store/M/alone", store_64, M, 0, DATA, 2);
    named("lock/load/M", load_64, M, 0, DATA, 0);
    named("lock/load-then-store/M", load_then_store, M, 0, DATA, 0x1234);
    named("lock/fetch/M", jump, M, 0, DATA, 0);
    named("lock/elsewhere/M", load_64, M, 0, DATA + 0x1000, 0);
    csr_write(pmpaddr3, DATA >> 2);
    protect(3, LOCK | TOR, (DATA + 0x4000) >> 2);
    text("lock/below-tor: ");
    csr_write(pmpaddr2, 0);
    hex(csr_read(pmpaddr2));
    put('\n');
}

/* What QEMU 7.2 does not survive */
static void too_hard_for_qemu(void)
{
    reg32(RAM_END - 4) = 0x00130001;  /* c.nop, then the first half of an instruction */
    asm volatile("fence.i");
    named("fetch/across-the-end-of-ram", jump, M, 0, RAM_END - 4, 0);
    reg32(RAM_END - 4) = 0x00010001;
    asm volatile("fence.i");
    named("fetch/over-the-end-of-ram", jump, M, 0, RAM_END - 4, 0);
}

int main(void)
{
    settle();
    before_any_entry();
    allow_all();
    exceptions();
    floats();
    privileges();
    registers();
    delegation();
    interrupts();
    translation(8);
    translation(9);
    as_previous_mode();
    protection();
    upper_entries();
    locks();
    no_protection();
    if (!reg32(IN_QEMU))
        too_hard_for_qemu();
    text("end\n");
    reg32(FINISHER) = 0x5555;
    for (;;)
        ;
}
