/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * `count`: a line every second, printed by the timer interrupt. Shows whether the machine's clock runs.
 */
#include "toy.h"

#include "print.h"
#include "string.h"
#include "timer.h"

static bool counting;
static uint64_t number;
static uint64_t beat;           /* when the last line was due */

static void next(uint64_t now)
{
    shell_notice("count %lu\n", ++number);
    beat = timer_next_beat(beat, MTIME_HZ, now);
    timer_set(TIMER_COUNT, beat);
}

void count_init(void)
{
    timer_on(TIMER_COUNT, next);
}

static void stop(void)
{
    timer_set(TIMER_COUNT, TIMER_OFF);
    counting = false;
    print("count stopped at %lu\n", number);
}

void count_command(int argc, char **argv)
{
    bool only_stop = argc == 2 && !strcmp(argv[1], "stop");

    if (argc > 1 && !only_stop) {
        print("usage: count [stop]\n");
    } else if (counting || only_stop) {
        stop();
    } else {
        counting = true;
        number = 0;
        beat = mtime() + MTIME_HZ;
        timer_set(TIMER_COUNT, beat);
    }
}
