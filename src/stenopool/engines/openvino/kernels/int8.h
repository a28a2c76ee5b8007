/* Products of int8, whose sums are exact, as the CPU has them. Part of product.h.
 *
 * Without VNNI they are computed in 16 bits, in which no sum of two overflows: no faster than products
 * of float32, but the weights are a quarter of the bytes, which is what a decoder's step waits for. */
#pragma once
#include "vectors.h"

#if defined __AVX512VNNI__ || defined __AVXVNNI__
#define HAS_VNNI
#endif

enum {
#ifdef HAS_VNNI
    SPLIT = 1,
#else
    SPLIT = 2, /* registers for the sums of LANES outputs: each output has two */
#endif
};

/* Four activations as often as a register holds them. */
static inline integers quads_of(const uint8_t *bytes) {
    int32_t quad;
    memcpy(&quad, bytes, 4);
#if defined __AVX512VNNI__
    return (integers)_mm512_set1_epi32(quad);
#elif defined __AVXVNNI__
    return (integers)_mm256_set1_epi32(quad);
#else
    return (integers)_mm256_broadcastq_epi64(_mm_cvtepu8_epi16(_mm_cvtsi32_si128(quad)));
#endif
}

/* Adds their products with four weights of each of LANES outputs. */
static inline void add_products(integers *sum, integers quads, const int8_t *weights) {
#if defined __AVX512VNNI__
    __m512i w = _mm512_loadu_si512(weights);
    *sum = (integers)_mm512_dpbusd_epi32((__m512i)*sum, (__m512i)quads, w);
#elif defined __AVXVNNI__
    __m256i w = _mm256_loadu_si256((const __m256i *)weights);
    *sum = (integers)_mm256_dpbusd_avx_epi32((__m256i)*sum, (__m256i)quads, w);
#else
    for (int i = 0; i < SPLIT; i++) {
        __m256i w = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)weights + i));
        sum[i] += (integers)_mm256_madd_epi16((__m256i)quads, w);
    }
#endif
}

/* The sums of LANES outputs. */
static inline integers total_of(const integers *sum) {
#ifdef HAS_VNNI
    return *sum;
#else
    __m256i pairs = _mm256_hadd_epi32((__m256i)sum[0], (__m256i)sum[1]);
    return (integers)_mm256_permute4x64_epi64(pairs, 0xd8);
#endif
}
