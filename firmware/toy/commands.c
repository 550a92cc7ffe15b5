/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The commands, as a table, and those that are too small for a file of their own.
 */
#include "toy.h"

#include "board.h"
#include "crc32.h"
#include "csr.h"
#include "power.h"
#include "print.h"
#include "string.h"
#include "timer.h"
#include "trap.h"

#define ARGUMENTS_MAX 4

struct command {
    const char *name, *usage, *help;
    void (*run)(int argc, char **argv);     /* argv[0] is the command's name */
};

static void version(int argc, char **argv)
{
    print("toy guest %s, built with gcc %s\n", TOY_VERSION, __VERSION__);
}

static void uptime(int argc, char **argv)
{
    uint64_t now = mtime();
    uint64_t up = now - toy_start_time;

    print("up %lu.%03lu s, mtime %lu\n", up / MTIME_HZ, up % MTIME_HZ / (MTIME_HZ / 1000), now);
}

static void echo(int argc, char **argv)
{
    print("%s\n", argc > 1 ? argv[1] : "");
}

static void crc(int argc, char **argv)
{
    static uint8_t chunk[1024];
    uint64_t address = (uint64_t)__image_start;
    uint64_t size = __image_end - __image_start;
    uint32_t sum = 0;

    if (argc != 1 &&
        (argc != 3 || !parse_number(argv[1], &address) || !parse_number(argv[2], &size))) {
        print("usage: crc [ADDR LEN]\n");
        return;
    }
    for (uint64_t done = 0; done < size;) {
        uint64_t n = size - done < sizeof(chunk) ? size - done : sizeof(chunk);
        uint64_t missing = guarded_copy(chunk, (const void *)(address + done), n);

        if (missing) {
            print("crc: cannot read address 0x%lx\n", address + done + n - missing);
            return;
        }
        if (shell_interrupted()) {
            print("crc: interrupted after %lu bytes\n", done);
            return;
        }
        sum = crc32(sum, chunk, n);
        done += n;
    }
    print("crc32 of 0x%lx+0x%lx: %08x\n", address, size, sum);
}

#define ILLEGAL_INSTRUCTION ".word 0xffffffff"

/* A trap in a trap, twice: the first one is fixed up, the second one is the end of the machine. */
static void bad_handler(void)
{
    uint8_t byte;

    REG32(CLINT_MSIP) = 0;
    print("in a handler: %lu byte not readable at address 0\n", guarded_copy(&byte, (const void *)0, 1));
    __asm__ volatile(ILLEGAL_INSTRUCTION);
}

static void crash_in_handler(void)
{
    trap_on_interrupt(IRQ_SOFTWARE, bad_handler);
    REG32(CLINT_MSIP) = 1;
    for (;;)
        wait_for_interrupt();
}

/* Several ways to do what one should not do. Address 0 is where the board has nothing. */
static void crash(int argc, char **argv)
{
    volatile uint64_t *nowhere = (volatile uint64_t *)0;
    const char *how = argc > 1 ? argv[1] : "illegal";

    __asm__ volatile("" : "+r"(nowhere));       /* or the compiler sees the null pointer and has ideas */
    if (!strcmp(how, "illegal"))
        __asm__ volatile(ILLEGAL_INSTRUCTION);
    else if (!strcmp(how, "load"))
        (void)*nowhere;
    else if (!strcmp(how, "store"))
        *nowhere = 0;
    else if (!strcmp(how, "jump"))
        ((void (*)(void))nowhere)();
    else if (!strcmp(how, "ebreak"))
        __asm__ volatile("ebreak");
    else if (!strcmp(how, "ecall"))
        __asm__ volatile("ecall");
    else if (!strcmp(how, "handler"))
        crash_in_handler();
    else
        print("usage: crash [illegal|load|store|jump|ebreak|ecall|handler]\n");
}

static void poweroff(int argc, char **argv)
{
    uint64_t code = 0;

    if (argc > 1 && (!parse_number(argv[1], &code) || code > EXIT_CODE_MAX)) {
        print("usage: poweroff [CODE], CODE up to %u\n", EXIT_CODE_MAX);
        return;
    }
    power_off(code);
}

static void reboot(int argc, char **argv)
{
    power_reset();
}

static void help(int argc, char **argv);

static const struct command commands[] = {
    {"help", "", "this list", help},
    {"version", "", "which guest this is", version},
    {"uptime", "", "time since the start", uptime},
    {"echo", "TEXT", "print TEXT", echo},
    {"count", "[stop]", "print a number every second; again, or stop: no more", count_command},
    {"dirty", "[RATE [SIZE]]", "write RATE MiB/s to SIZE MiB and verify; 0: stop; none: statistics", dirty_command},
    {"dirty", "check", "verify all that was written", dirty_command},
    {"crc", "[ADDR LEN]", "CRC-32 of memory, or of this guest's code and constants", crc},
    {"wfi", "", "how much the CPU slept, and what woke it", idle_command},
    {"crash", "[HOW]", "cause an exception: illegal, load, store, jump, ebreak, ecall, handler", crash},
    {"reboot", "", "reset the machine", reboot},
    {"poweroff", "[CODE]", "switch the machine off", poweroff},
    {0},
};

static void help(int argc, char **argv)
{
    static const char spaces[] = "                        ";

    for (const struct command *c = commands; c->name; c++) {
        size_t used = strlen(c->name) + strlen(c->usage);

        print("%s %s%s%s\n", c->name, c->usage, spaces + used, c->help);
    }
}

/* Cut `rest` at spaces into at most ARGUMENTS_MAX words; how many. `echo` gets the rest of the line as one. */
static int split(char *rest, char **argv)
{
    int argc = 0;

    for (;;) {
        while (*rest == ' ')
            rest++;
        if (!*rest || argc == ARGUMENTS_MAX)
            return argc;
        argv[argc++] = rest;
        if (argc == 2 && !strcmp(argv[0], "echo"))
            return argc;
        while (*rest && *rest != ' ')
            rest++;
        if (*rest)
            *rest++ = '\0';
    }
}

void command_run(char *line)
{
    char *argv[ARGUMENTS_MAX];
    int argc = split(line, argv);

    if (!argc)
        return;
    for (const struct command *c = commands; c->name; c++) {
        if (!strcmp(c->name, argv[0])) {
            c->run(argc, argv);
            return;
        }
    }
    print("%s: no such command; try \"help\"\n", argv[0]);
}
