/* Products of a few rows on CPUs with 256-bit registers, of which there are 16. Part of product.h.
 *
 * int8 weights are a quarter of what float32 ones are, which is what a step waits for. With AVX-VNNI
 * their products are four times as fast too; without, they are computed in 16 bits, in which no sum
 * of two overflows, and are as fast as those of float32. Either way the sums are exact. */
#pragma once
#include <immintrin.h>

#define HAS_INT8
#define FOR_EACH(r, rows) _Pragma("GCC unroll 6") for (int r = 0; r < (rows); r++)

enum {
    PART = 8, /* outputs of a register of sums */
#ifdef __AVXVNNI__
    SPLIT = 1,
#else
    SPLIT = 2, /* registers for the sums of 8 outputs: each output has two */
#endif
    AT_ONCE = ROWS / SPLIT, /* rows for whose sums there are registers */
};

/* Four activations as often as a register holds them. */
static inline __m256i quads_of(const uint8_t *bytes) {
    int32_t quad;
    memcpy(&quad, bytes, 4);
#ifdef __AVXVNNI__
    return _mm256_set1_epi32(quad);
#else
    return _mm256_broadcastq_epi64(_mm_cvtepu8_epi16(_mm_cvtsi32_si128(quad)));
#endif
}

/* Adds their products with four weights of each of 8 outputs. */
static inline void add_products(__m256i *sum, __m256i quads, const int8_t *weights) {
#ifdef __AVXVNNI__
    *sum = _mm256_dpbusd_avx_epi32(*sum, quads, _mm256_loadu_si256((const __m256i *)weights));
#else
    for (int i = 0; i < SPLIT; i++) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)weights + i);
        sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(quads, _mm256_cvtepi8_epi16(bytes)));
    }
#endif
}

/* The sums of 8 outputs. */
static inline __m256i total_of(const __m256i *sum) {
#ifdef __AVXVNNI__
    return *sum;
#else
    return _mm256_permute4x64_epi64(_mm256_hadd_epi32(sum[0], sum[1]), 0xd8);
#endif
}

static inline __attribute__((always_inline)) void finish_parts(
    const __m256 *parts, const float *scale, const target *to, int row, int output) {
    float sums[LANES];
    for (int i = 0; i < LANES / PART; i++) _mm256_storeu_ps(sums + i * PART, parts[i]);
    vector found = load(sums);
    if (scale) found *= load(scale + output);
    finish(to, row, output, found);
}

/* 16 outputs of a few rows. */
static inline __attribute__((always_inline)) void int8_part(
    const int rows, const matrix *m, int output, activations a, int row, const target *to) {
    const int groups = m->inputs / GROUP;
    const int8_t *weights = (const int8_t *)m->data + (long)output * m->inputs;
    const int32_t *shift = m->shift ? m->shift + (long)output * groups : NULL;
    const uint8_t *bytes = a.bytes + (long)row * a.inputs;
    __m256 sum[AT_ONCE][2];
    FOR_EACH(r, rows) sum[r][0] = sum[r][1] = _mm256_setzero_ps();
    for (int group = 0; group < groups; group++, bytes += GROUP) {
        __m256i part[AT_ONCE][2][SPLIT];
        FOR_EACH(r, rows) {
            for (int i = 0; i < SPLIT; i++)
                part[r][0][i] = part[r][1][i] = _mm256_setzero_si256();
        }
        for (int four = 0; four < GROUP; four += 4, weights += 4 * LANES) {
            if (!row) _mm_prefetch((const char *)weights + (long)LANES * m->inputs, _MM_HINT_T1);
            FOR_EACH(r, rows) {
                __m256i quads = quads_of(bytes + (long)r * a.inputs + four);
                add_products(part[r][0], quads, weights);
                add_products(part[r][1], quads, weights + 4 * PART);
            }
        }
        FOR_EACH(r, rows) {
            __m256 scale = _mm256_set1_ps(a.scales[(long)(row + r) * groups + group]);
            for (int i = 0; i < 2; i++) {
                __m256i whole = total_of(part[r][i]);
                if (shift) {
                    const int32_t *from = shift + group * LANES + i * PART;
                    whole = _mm256_add_epi32(whole, _mm256_loadu_si256((const __m256i *)from));
                }
                sum[r][i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole), scale, sum[r][i]);
            }
        }
    }
    for (int r = 0; r < rows; r++) finish_parts(sum[r], m->scale, to, row + r, output);
}

static inline __attribute__((always_inline)) void int8_tile(
    const int rows, const matrix *m, int output, activations a, int row, const target *to) {
    for (int at = output; at < output + BLOCK; at += LANES) {
        int8_part(rows < AT_ONCE ? rows : AT_ONCE, m, at, a, row, to);
        if (rows > AT_ONCE) int8_part(rows - AT_ONCE, m, at, a, row + AT_ONCE, to);
    }
}

static inline __attribute__((always_inline)) void float_tile(
    const int rows, const matrix *m, int output, activations a, int row, const target *to) {
    const float *x = a.floats + (long)row * a.inputs;
    for (int at = output; at < output + BLOCK; at += LANES) {
        const float *weights = (const float *)m->data + (long)at * m->inputs;
        __m256 sum[ROWS][2];
        FOR_EACH(r, rows) sum[r][0] = sum[r][1] = _mm256_setzero_ps();
        for (int k = 0; k < m->inputs; k++, weights += LANES) {
            __m256 low = _mm256_loadu_ps(weights), high = _mm256_loadu_ps(weights + PART);
            FOR_EACH(r, rows) {
                __m256 value = _mm256_broadcast_ss(x + (long)r * a.inputs + k);
                sum[r][0] = _mm256_fmadd_ps(low, value, sum[r][0]);
                sum[r][1] = _mm256_fmadd_ps(high, value, sum[r][1]);
            }
        }
        for (int r = 0; r < rows; r++) finish_parts(sum[r], NULL, to, row + r, at);
    }
}
