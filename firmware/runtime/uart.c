/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Driver for the NS16550A.
 *
 * Receiving: the interrupt moves bytes from the FIFO to a ring. When the ring is full the receive interrupt is switched
 * off until there is room again, so the sender has to wait and nothing is lost.
 *
 * Sending: bytes go into a ring, and the "transmitter holding register empty" interrupt moves sixteen at a time to the
 * FIFO. It is enabled only while the ring holds something, for it is pending whenever the FIFO is empty. Who
 * finds the ring full moves bytes by polling.
 */
#include "uart.h"

#include "board.h"
#include "csr.h"
#include "plic.h"

#define IER_RECEIVE 0x01
#define IER_TRANSMIT 0x02
#define IIR_NONE 0x01
#define IIR_REASON 0x0f
#define IIR_TRANSMIT 0x02
#define IIR_RECEIVE 0x04
#define IIR_TIMEOUT 0x0c        /* less than the trigger level in the FIFO, but it has been there for a while */
#define FCR_ENABLE_AND_CLEAR 0x07
#define LCR_8N1 0x03
#define LCR_DLAB 0x80
#define MCR_DTR_RTS_OUT2 0x0b   /* on a PC, OUT2 is what lets the interrupt through */
#define LSR_DATA_READY 0x01
#define LSR_THR_EMPTY 0x20
#define LSR_ALL_SENT 0x40

#define BAUD 115200
#define FIFO_DEPTH 16
#define RING_SIZE 1024          /* a power of two: head and tail run freely, their difference is the fill level */

struct ring {
    uint32_t head, tail;        /* next to take, next to fill */
    uint8_t bytes[RING_SIZE];
};

struct uart_counts uart_counts;

static struct ring rx, tx;
static uint8_t enabled_interrupts;      /* what IER holds */
static bool use_interrupts;

static uint32_t ring_level(const struct ring *ring)
{
    return ring->tail - ring->head;
}

static void ring_put(struct ring *ring, uint8_t byte)
{
    ring->bytes[ring->tail++ % RING_SIZE] = byte;
}

static uint8_t ring_take(struct ring *ring)
{
    return ring->bytes[ring->head++ % RING_SIZE];
}

static void enable(uint8_t bits)
{
    if ((enabled_interrupts & bits) != bits)
        REG8(UART_IER) = enabled_interrupts |= bits;
}

static void disable(uint8_t bits)
{
    if (enabled_interrupts & bits)
        REG8(UART_IER) = enabled_interrupts &= ~bits;
}

/* Fill the FIFO from the ring if it is empty. */
static void transmit(void)
{
    if (!(REG8(UART_LSR) & LSR_THR_EMPTY))
        return;
    for (unsigned room = FIFO_DEPTH; room && ring_level(&tx); room--)
        REG8(UART_THR) = ring_take(&tx);
}

static void receive(void)
{
    while (REG8(UART_LSR) & LSR_DATA_READY) {
        if (ring_level(&rx) == RING_SIZE) {
            disable(IER_RECEIVE);
            return;
        }
        ring_put(&rx, REG8(UART_RBR));
    }
}

void uart_init(void)
{
    uint16_t divisor = UART_CLOCK_HZ / (16 * BAUD);

    REG8(UART_IER) = 0;
    REG8(UART_LCR) = LCR_DLAB;
    REG8(UART_DLL) = divisor & 0xff;
    REG8(UART_DLM) = divisor >> 8;
    REG8(UART_LCR) = LCR_8N1;
    receive();      /* what was typed before we came would be lost: switching the FIFOs on empties them */
    REG8(UART_FCR) = FCR_ENABLE_AND_CLEAR;
    REG8(UART_MCR) = MCR_DTR_RTS_OUT2;
}

static void uart_interrupt(void)
{
    uint8_t iir;

    while (!((iir = REG8(UART_IIR)) & IIR_NONE)) {
        switch (iir & IIR_REASON) {
        case IIR_RECEIVE:
        case IIR_TIMEOUT:
            uart_counts.receive++;
            receive();
            break;
        case IIR_TRANSMIT:
            uart_counts.transmit++;
            transmit();
            if (!ring_level(&tx))
                disable(IER_TRANSMIT);
            break;
        default:                /* not enabled: cannot be */
            return;
        }
    }
}

void uart_use_interrupts(void)
{
    plic_on(PLIC_SOURCE_UART, uart_interrupt);
    use_interrupts = true;
    enable(IER_RECEIVE);
}

static void put(uint8_t byte)
{
    if (!use_interrupts) {
        uart_poll_put(byte);
        return;
    }
    while (ring_level(&tx) == RING_SIZE)
        transmit();
    ring_put(&tx, byte);
}

void uart_write(const char *text, size_t length)
{
    uint64_t irq = irq_off();

    for (size_t i = 0; i < length; i++) {
        if (text[i] == '\n')
            put('\r');
        put(text[i]);
    }
    if (ring_level(&tx))
        enable(IER_TRANSMIT);
    irq_restore(irq);
}

int uart_read(void)
{
    uint64_t irq = irq_off();
    int byte = -1;

    if (ring_level(&rx))
        byte = ring_take(&rx);
    if (ring_level(&rx) <= RING_SIZE / 2)
        enable(IER_RECEIVE);
    irq_restore(irq);
    return byte;
}

bool uart_input_waiting(void)
{
    return *(volatile uint32_t *)&rx.tail != rx.head;
}

bool uart_input_holds(uint8_t byte)
{
    uint64_t irq = irq_off();
    bool found = false;

    for (uint32_t i = rx.head; i != rx.tail && !found; i++)
        found = rx.bytes[i % RING_SIZE] == byte;
    irq_restore(irq);
    return found;
}

void uart_flush(void)
{
    uint64_t irq = irq_off();

    while (ring_level(&tx))
        transmit();
    while (!(REG8(UART_LSR) & LSR_ALL_SENT))
        ;
    irq_restore(irq);
}

void uart_poll_put(uint8_t byte)
{
    while (!(REG8(UART_LSR) & LSR_THR_EMPTY))
        ;
    REG8(UART_THR) = byte;
}

uint8_t uart_poll_get(void)
{
    if (ring_level(&rx))
        return ring_take(&rx);      /* from uart_init */
    while (!(REG8(UART_LSR) & LSR_DATA_READY))
        ;
    return REG8(UART_RBR);
}
