/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The whole floating-point state, in and out.
 */
#ifndef FPCHECK_H
#define FPCHECK_H

#include <stdint.h>

struct fp_state {
    uint64_t f[32];
    uint64_t fcsr;
};

/* Load all registers from `before`, spin until `ticks` has changed twice, store them to `after`. */
void fp_across_tick(const struct fp_state *before, struct fp_state *after);

#endif
