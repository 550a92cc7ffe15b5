/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Kernels that need nothing but the CPU and RAM. Each takes 0.1 to 0.2 s under QEMU 7.2.
 *
 * Compiled with floating-point instructions, unlike everything else here, but with the same calling convention (numbers
 * travel in integer registers), so that it links with the rest.
 */
#include "bench.h"

#include <stddef.h>

#include "crc32.h"
#include "string.h"

#define SIEVE_LIMIT 2000000
#define SIEVE_ROUNDS 4
#define FIB_N 32
#define MATRIX_N 128
#define MATRIX_ROUNDS 3
#define CRC_ROUNDS 10
#define COPY_LENGTH (512 << 10)       /* both buffers together fit into an emulator's TLB */
#define COPY_ROUNDS 800

static uint8_t composite[SIEVE_LIMIT];
static double a[MATRIX_N][MATRIX_N], b[MATRIX_N][MATRIX_N], c[MATRIX_N][MATRIX_N];
static uint8_t source[COPY_LENGTH] __attribute__((aligned(4096)));
static uint8_t target[COPY_LENGTH] __attribute__((aligned(4096)));

/* Many byte stores in strides. Checksum: how many primes there are below the limit, each round. */
uint64_t bench_sieve(void)
{
    uint64_t primes = 0;

    for (unsigned round = 0; round < SIEVE_ROUNDS; round++) {
        memset(composite, 0, sizeof(composite));
        for (size_t i = 2; i < SIEVE_LIMIT; i++) {
            if (composite[i])
                continue;
            primes++;
            for (size_t j = i * i; j < SIEVE_LIMIT; j += i)
                composite[j] = 1;
        }
    }
    return primes;
}

/* Calls, returns and branches. */
__attribute__((noinline, noclone, optimize("no-optimize-sibling-calls"))) static uint64_t fib(uint64_t n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

uint64_t bench_fib(void)
{
    return fib(FIB_N);
}

/* Double precision. All values are whole numbers below 2^53, so the sum is exact whatever the rounding. */
uint64_t bench_matrix(void)
{
    double sum = 0;

    for (unsigned i = 0; i < MATRIX_N; i++) {
        for (unsigned j = 0; j < MATRIX_N; j++) {
            a[i][j] = i + 2.0 * j;
            b[i][j] = 3.0 * i - j;
        }
    }
    for (unsigned round = 0; round < MATRIX_ROUNDS; round++) {
        for (unsigned i = 0; i < MATRIX_N; i++) {
            for (unsigned j = 0; j < MATRIX_N; j++) {
                double dot = round;

                for (unsigned k = 0; k < MATRIX_N; k++)
                    dot += a[i][k] * b[k][j];
                c[i][j] = dot;
                sum += dot;
            }
        }
    }
    return (int64_t)sum;
}

static void fill_source(void)
{
    uint32_t x = 1;

    for (size_t i = 0; i < sizeof(source); i++) {
        x = x * 1664525 + 1013904223;
        source[i] = x >> 24;
    }
}

/* Shifts and exclusive ors, one bit at a time. */
uint64_t bench_crc(void)
{
    uint32_t crc = ~0U;

    fill_source();
    for (size_t i = 0; i < CRC_ROUNDS * sizeof(source); i++) {
        crc ^= source[i % sizeof(source)];
        for (unsigned bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0xedb88320 & -(crc & 1));
    }
    return ~crc;
}

/* Loads and stores of 64 bits. */
uint64_t bench_memcpy(void)
{
    for (unsigned round = 0; round < COPY_ROUNDS; round++) {
        source[round] = round;
        memcpy(target, source, sizeof(target));
    }
    return crc32(0, target, COPY_ROUNDS);
}
