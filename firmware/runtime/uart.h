/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The serial port: polled at first, driven by interrupts after uart_use_interrupts.
 */
#ifndef UART_H
#define UART_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct uart_counts {
    uint64_t receive, transmit;     /* interrupts by their reason */
};

extern struct uart_counts uart_counts;

/* 115200 baud, 8N1, FIFOs on, no interrupts. */
void uart_init(void);

/* From now on both directions go through ring buffers; needs the external interrupt (see plic.h). */
void uart_use_interrupts(void);

/* Send text; a newline becomes CR LF. Nothing that an interrupt handler sends gets in between. Never loses a byte. */
void uart_write(const char *text, size_t length);

/* The next received byte, or -1; only with interrupts. */
int uart_read(void);

/* Whether uart_read would return a byte. */
bool uart_input_waiting(void);

/* Whether `byte` is among the bytes that uart_read will return. */
bool uart_input_holds(uint8_t byte);

/* Wait until the last byte has left. */
void uart_flush(void);

/* Send or receive one raw byte by polling; only without interrupts. */
void uart_poll_put(uint8_t byte);
uint8_t uart_poll_get(void);

/* The registers themselves, for the bench. */
#define UART_RBR (UART_BASE + 0)    /* read: receiver buffer */
#define UART_THR (UART_BASE + 0)    /* write: transmitter holding */
#define UART_DLL (UART_BASE + 0)    /* divisor latch, with LCR_DLAB */
#define UART_DLM (UART_BASE + 1)
#define UART_IER (UART_BASE + 1)    /* interrupt enable */
#define UART_IIR (UART_BASE + 2)    /* read: interrupt identification */
#define UART_FCR (UART_BASE + 2)    /* write: FIFO control */
#define UART_LCR (UART_BASE + 3)    /* line control */
#define UART_MCR (UART_BASE + 4)    /* modem control */
#define UART_LSR (UART_BASE + 5)    /* line status */
#define UART_SCR (UART_BASE + 7)    /* scratch: a byte to play with */

#endif
