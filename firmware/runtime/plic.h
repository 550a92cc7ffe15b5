/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The platform-level interrupt controller: which device wants attention.
 */
#ifndef PLIC_H
#define PLIC_H

/* Call `handler` whenever `source` interrupts; takes over the external interrupt. The only source in use is the UART,
 * so there is one handler. */
void plic_on(unsigned source, void (*handler)(void));

#endif
