/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The stress guest: does simple things very often while a timer interrupts it a thousand times a second, and checks
 * that each was done exactly once. An emulator that stops and resumes its CPU carelessly repeats or loses some.
 *
 * It reads a line from the serial port (without echo), runs the test it names, and prints `ok NAME FIGURES` or
 * `FAIL NAME FIGURES`.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "csr.h"
#include "fpcheck.h"
#include "power.h"
#include "print.h"
#include "string.h"
#include "timer.h"
#include "trap.h"
#include "uart.h"

#define TICK_HZ 1000
#define PERIOD (MTIME_HZ / TICK_HZ)

volatile uint64_t ticks;                /* fpcheck.S waits for it to change */
static uint64_t beat;
static bool anything_failed;

static void timer_interrupt(void)
{
    uint64_t now = mtime();

    if (now >= beat) {
        ticks++;
        beat = timer_next_beat(beat, PERIOD, now);
    }
    REG64(CLINT_MTIMECMP) = beat;
}

/* Byte number `n` of the sequence that tx sends and rx expects: printable, and with a period that is a prime, so that
 * it does not fit into any buffer a whole number of times. */
static uint8_t sequence(uint64_t n)
{
    return '!' + n % 89;
}

static void report(bool ok, const char *name, const char *figures, uint64_t n, uint64_t value)
{
    if (!ok)
        anything_failed = true;
    print("%s %s n=%lu %s=%lu ticks=%lu\n", ok ? "ok" : "FAIL", name, n, figures, value, ticks);
}

/* Whoever reads this checks it: the guest cannot know what arrived. */
static void test_tx(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        uart_poll_put(sequence(i));
    print("\n");
    report(true, "tx", "errors", n, 0);
}

/* After a wrong byte go on from where it belongs, so that one lost or doubled byte is one error. */
static void test_rx(uint64_t n)
{
    uint64_t errors = 0, expected = 0;

    print("go\n");
    for (uint64_t i = 0; i < n; i++) {
        uint8_t byte;

        do
            byte = uart_poll_get();
        while (byte < '!');             /* the rest of a CR LF */
        if (byte != sequence(expected)) {
            errors++;
            expected = byte - '!';
        }
        expected++;
    }
    report(!errors, "rx", "errors", n, errors);
}

static uint64_t counter;

static void test_amo(uint64_t n)
{
    counter = 0;
    for (uint64_t i = 0; i < n; i++)
        __asm__ volatile("amoadd.d zero, %1, %0" : "+A"(counter) : "r"(1UL) : "memory");
    report(counter == n, "amo", "sum", n, counter);
}

static void test_lrsc(uint64_t n)
{
    counter = 0;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t value, failed;

        do
            __asm__ volatile("lr.d %0, %2\n\t"
                             "addi %0, %0, 1\n\t"
                             "sc.d %1, %0, %2"
                             : "=&r"(value), "=&r"(failed), "+A"(counter) : : "memory");
        while (failed);
    }
    report(counter == n, "lrsc", "sum", n, counter);
}

/* `n` times: fill all floating-point registers and fcsr, let an interrupt pass, look at them again. */
static void test_fp(uint64_t n)
{
    uint64_t errors = 0;
    struct fp_state before, after;

    for (uint64_t i = 0; i < n; i++) {
        for (unsigned r = 0; r < 32; r++)
            before.f[r] = (i + 1) * 0x9e3779b97f4a7c15 + r * 0x0102030405060708;
        before.fcsr = (i % 5) << 5 | i % 32;    /* rounding mode 0 to 4, any of the five flags */
        fp_across_tick(&before, &after);
        for (unsigned r = 0; r < 32; r++)
            errors += after.f[r] != before.f[r];
        errors += after.fcsr != before.fcsr;
    }
    report(!errors, "fp", "errors", n, errors);
}

static const struct {
    const char *name;
    void (*run)(uint64_t n);
} tests[] = {
    {"tx", test_tx},
    {"rx", test_rx},
    {"amo", test_amo},
    {"lrsc", test_lrsc},
    {"fp", test_fp},
};

/* One line without its end; what does not fit is dropped. Empty lines (and the second half of CR LF) are skipped. */
static void read_line(char *line, size_t size)
{
    size_t length = 0;

    for (;;) {
        uint8_t byte = uart_poll_get();

        if (byte != '\r' && byte != '\n') {
            if (length < size - 1)
                line[length++] = byte;
        } else if (length) {
            line[length] = '\0';
            return;
        }
    }
}

static void run(char *line)
{
    char *number = line;
    uint64_t n = 0;

    while (*number && *number != ' ')
        number++;
    if (*number) {
        *number++ = '\0';
        if (!parse_number(number, &n))
            n = 0;
    }
    if (!strcmp(line, "quit"))
        power_off(anything_failed);
    for (size_t i = 0; n && i < sizeof(tests) / sizeof(tests[0]); i++) {
        if (!strcmp(line, tests[i].name)) {
            ticks = 0;
            tests[i].run(n);
            return;
        }
    }
    anything_failed = true;
    print("FAIL usage: tx N, rx N, amo N, lrsc N, fp N (N above 0), quit\n");
}

void main(void)
{
    char line[64];

    uart_init();
    beat = mtime() + PERIOD;
    REG64(CLINT_MTIMECMP) = beat;
    trap_on_interrupt(IRQ_TIMER, timer_interrupt);
    irq_on();
    print("stress ready\n");
    for (;;) {
        read_line(line, sizeof(line));
        run(line);
    }
}
