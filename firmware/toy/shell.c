/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Line editing. The line on the screen belongs to the user; what an interrupt handler has to say goes above it.
 */
#include "toy.h"

#include "csr.h"
#include "print.h"
#include "uart.h"

#define PROMPT "toy> "
#define ERASE_LINE "\r\033[K"
#define BELL '\a'

#define CTRL(letter) ((letter) & 0x1f)
#define DELETE 0x7f
#define ESCAPE 0x1b

static char line[80];
static unsigned length;
static bool editing;            /* a prompt is on the screen and `line` behind it */
static bool after_return;       /* the last character was CR: a LF right behind it is the same line end */
static enum { PLAIN, AFTER_ESCAPE, IN_SEQUENCE } escape;    /* cursor keys send ESC [ … letter */

void shell_start(void)
{
    uint64_t irq = irq_off();

    length = 0;
    line[0] = '\0';
    editing = true;
    print(PROMPT);
    irq_restore(irq);
}

static void rub_out(void)
{
    line[--length] = '\0';
    print("\b \b");
}

static void add(char c)
{
    if (length == sizeof(line) - 1) {
        print("%c", BELL);
        return;
    }
    line[length++] = c;
    line[length] = '\0';
    print("%c", c);
}

static void finish_line(void)
{
    editing = false;
    print("\n");
}

/* Whether `c` belongs to an escape sequence, which we swallow whole. */
static bool in_escape(char c)
{
    switch (escape) {
    case PLAIN:
        if (c == ESCAPE)
            escape = AFTER_ESCAPE;
        return c == ESCAPE;
    case AFTER_ESCAPE:
        escape = c == '[' || c == 'O' ? IN_SEQUENCE : PLAIN;
        return true;
    case IN_SEQUENCE:
        if (c >= '@' && c <= '~')
            escape = PLAIN;
        return true;
    }
    return false;
}

/* Take one character; true if it ends the line. A notice must not find the line half changed. */
static bool edit(char c)
{
    uint64_t irq = irq_off();
    bool second_half = after_return && c == '\n';
    bool complete = false;

    after_return = c == '\r';
    if (second_half || in_escape(c)) {
        /* nothing to do */
    } else if (c == '\r' || c == '\n') {
        finish_line();
        complete = true;
    } else if (c == CTRL('H') || c == DELETE) {
        if (length)
            rub_out();
    } else if (c == CTRL('U')) {
        while (length)
            rub_out();
    } else if (c == CTRL('C')) {
        print("^C");
        finish_line();
        line[0] = '\0';
        complete = true;
    } else if (c >= ' ' && c <= '~') {
        add(c);
    }
    irq_restore(irq);
    return complete;
}

void shell_input(char c)
{
    if (edit(c)) {
        command_run(line);
        shell_start();
    }
}

void shell_notice(const char *format, uint64_t value)
{
    uint64_t irq = irq_off();

    if (editing)
        print(ERASE_LINE);
    print(format, value);
    if (editing)
        print(PROMPT "%s", line);
    irq_restore(irq);
}

bool shell_interrupted(void)
{
    return uart_input_holds(CTRL('C'));
}
