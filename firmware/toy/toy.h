/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What the parts of the toy guest know of each other.
 */
#ifndef TOY_H
#define TOY_H

#include <stdbool.h>
#include <stdint.h>

#define TOY_VERSION "1.0"

enum { TIMER_COUNT, TIMER_DIRTY };      /* whose alarm is which (timer.h) */

/* shell.c: the line being typed */
void shell_start(void);                 /* prompt for a new line */
void shell_input(char c);               /* a typed character; runs the command at the end of a line */
void shell_notice(const char *format, uint64_t value);  /* a line of output between the user's keystrokes */
bool shell_interrupted(void);           /* has ctrl-C been typed while a command runs? */

/* commands.c */
void command_run(char *line);           /* cuts the line to pieces */

/* count.c */
void count_init(void);
void count_command(int argc, char **argv);

/* dirty.c */
void dirty_init(uint64_t start, uint64_t end);
bool dirty_step(void);                  /* do a little of the writing that is due; false if none is */
bool dirty_awake(void);                 /* whether dirty_step should be called without waiting for an interrupt */
void dirty_command(int argc, char **argv);

/* idle.c */
void idle_sleep(void);                  /* wfi, unless there is something to do */
void idle_command(int argc, char **argv);

/* main.c */
extern uint64_t toy_start_time;         /* mtime when the guest started */
extern uint64_t toy_ram_size;

#endif
