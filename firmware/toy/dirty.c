/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * `dirty`: a background writer that keeps memory changing at a known rate, and notices if a change gets lost.
 *
 * The buffer is written page by page, pass after pass. Every 64-bit word of a page follows from the page's number and
 * the pass. Before a page is written, it must still be what the pass before made of it: a page that was lost, that fell
 * back to an older state or that landed in the wrong place does not go unnoticed.
 */
#include "toy.h"

#include "board.h"
#include "print.h"
#include "string.h"
#include "timer.h"

#define MIB (1UL << 20)
#define BUFFER_MAX (64 * MIB)
#define RATE_MAX 4096               /* MiB/s */
#define PAGES_PER_MIB (MIB / PAGE_SIZE)
#define WORDS_PER_PAGE (PAGE_SIZE / sizeof(uint64_t))
#define NAP (MTIME_HZ / 100)        /* between two bursts of writing */
#define BURST 16                    /* pages between two looks at the clock */

static uint64_t free_start, free_pages;     /* what we may use */

static uint64_t *buffer;
static uint64_t pages;              /* size of the buffer */
static uint64_t pass;               /* 1 for the first; 0: never started */
static uint64_t next_page;          /* how far this pass has come */

static uint64_t rate;               /* MiB/s; 0: stopped */
static uint64_t since, written_since;       /* the rate holds from this moment on; pages written in that time */
static unsigned burst_left;
static volatile bool napping;       /* nothing is due before the alarm */

static uint64_t written, errors;    /* pages */
static uint64_t first_bad;          /* address of the first word found wrong */

static uint64_t first_word(uint64_t page, uint64_t in_pass)
{
    return (page + 1) * 0x9e3779b97f4a7c15 ^ in_pass * 0xc2b2ae3d27d4eb4f;
}

#define WORD_STEP 0x0101010101010101

static void fill(uint64_t page)
{
    uint64_t *words = buffer + page * WORDS_PER_PAGE;
    uint64_t word = first_word(page, pass);

    for (unsigned i = 0; i < WORDS_PER_PAGE; i++, word += WORD_STEP)
        words[i] = word;
}

static void verify(uint64_t page, uint64_t in_pass)
{
    const uint64_t *words = buffer + page * WORDS_PER_PAGE;
    uint64_t word = first_word(page, in_pass);

    for (unsigned i = 0; i < WORDS_PER_PAGE; i++, word += WORD_STEP) {
        if (words[i] != word) {
            if (!errors++) {
                first_bad = (uint64_t)&words[i];
                shell_notice("dirty: memory at 0x%lx is not what was written\n", first_bad);
            }
            return;
        }
    }
}

static void write_page(void)
{
    if (pass > 1)
        verify(next_page, pass - 1);
    fill(next_page);
    written++;
    written_since++;
    if (++next_page == pages) {
        next_page = 0;
        pass++;
    }
}

/* How many pages should have been written by now but are not. */
static uint64_t pages_due(void)
{
    uint64_t now = mtime();
    uint64_t target = (now - since) * rate * PAGES_PER_MIB / MTIME_HZ;
    uint64_t backlog_max = rate * PAGES_PER_MIB / 4;

    /* Too slow a machine, or one that stood still for a while: forget what was missed, do not race after it. */
    if (target > written_since + backlog_max) {
        since = now;
        written_since = 0;
        return backlog_max;
    }
    return target > written_since ? target - written_since : 0;
}

bool dirty_awake(void)
{
    return rate && !napping;
}

bool dirty_step(void)
{
    if (!dirty_awake())
        return false;
    if (!burst_left) {
        uint64_t due = pages_due();

        if (!due) {
            napping = true;         /* before the alarm is set, which may go off at once */
            timer_set(TIMER_DIRTY, mtime() + NAP);
            return false;
        }
        burst_left = due < BURST ? due : BURST;
    }
    burst_left--;
    write_page();
    return true;
}

static void wake_up(uint64_t now)
{
    napping = false;
}

void dirty_init(uint64_t start, uint64_t end)
{
    free_start = start;
    free_pages = end > start ? (end - start) / PAGE_SIZE : 0;
    if (free_pages > BUFFER_MAX / PAGE_SIZE)
        free_pages = BUFFER_MAX / PAGE_SIZE;
    timer_on(TIMER_DIRTY, wake_up);
}

static void statistics(void)
{
    print("dirty: %lu MiB/s to 0x%lx+0x%lx, %lu pages written, %lu passes, %lu errors\n", rate, (uint64_t)buffer,
          pages * PAGE_SIZE, written, pass ? pass - 1 : 0, errors);
    if (errors)
        print("dirty: first error at 0x%lx\n", first_bad);
}

static void check_all(void)
{
    uint64_t before = errors;

    for (uint64_t page = 0; page < pages; page++) {
        uint64_t in_pass = page < next_page ? pass : pass - 1;

        if (in_pass)
            verify(page, in_pass);
    }
    print("dirty: all pages checked, %lu errors\n", errors - before);
}

static void start(uint64_t new_rate, uint64_t new_pages)
{
    rate = new_rate;
    burst_left = 0;
    timer_set(TIMER_DIRTY, TIMER_OFF);
    napping = false;
    since = mtime();
    written_since = 0;
    if (!pass || new_pages != pages) {      /* otherwise go on where we were, and with what we know of the buffer */
        buffer = (uint64_t *)free_start;
        pages = new_pages;
        pass = 1;
        next_page = written = errors = 0;
    }
}

void dirty_command(int argc, char **argv)
{
    uint64_t new_rate, mib, new_pages = pages ? pages : free_pages;

    if (argc == 1) {
        statistics();
        return;
    }
    if (argc == 2 && !strcmp(argv[1], "check")) {
        check_all();
        return;
    }
    if (!parse_number(argv[1], &new_rate) || new_rate > RATE_MAX || (argc > 2 && !parse_number(argv[2], &mib))) {
        print("usage: dirty [RATE [SIZE] | check], RATE in MiB/s up to %u, SIZE in MiB\n", RATE_MAX);
        return;
    }
    if (argc > 2)
        new_pages = mib < BUFFER_MAX / MIB ? mib * PAGES_PER_MIB : free_pages;
    if (new_pages > free_pages)
        new_pages = free_pages;
    if (!new_rate) {
        rate = 0;
        timer_set(TIMER_DIRTY, TIMER_OFF);
    } else if (!new_pages) {
        print("dirty: no room\n");
    } else {
        start(new_rate, new_pages);
    }
    statistics();
}
