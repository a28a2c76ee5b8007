/* Vectors of float32, as wide as the CPU's registers, in the types of GCC and Clang. */
#pragma once
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#if defined __AVX512F__
#define LANES 16
#elif defined __AVX2__
#define LANES 8
#else
#define LANES 4
#endif

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t integers __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t patterns __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint8_t narrow __attribute__((vector_size(LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

static inline vector load(const float *from) { return *(const vector *)from; }
static inline void store(float *to, vector value) { *(vector *)to = value; }
static inline vector all(float value) { return value - (vector){}; }

/* To the nearest integer, for numbers below 2^22: the sum's lowest bits are those of an integer. */
static inline integers rounded(vector v) {
    return (integers)(v + all(12582912.0f)) - (integers)all(12582912.0f);
}

/* The lowest bytes. */
static inline void store_bytes(void *to, integers v) {
#if defined __AVX2__ && !defined __AVX512F__
    __m256i low = (__m256i)(v & 255);
    __m128i pairs = _mm_packs_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
    _mm_storel_epi64(to, _mm_packus_epi16(pairs, pairs));
#else
    narrow bytes = __builtin_convertvector(v, narrow);
    memcpy(to, &bytes, sizeof bytes);
#endif
}

/* bfloat16: the upper halves of float32. */
static inline vector from_halves(const uint16_t *from) {
#if defined __AVX512F__
    __m256i bits = _mm256_loadu_si256((const __m256i *)from);
    return (vector)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
#elif defined __AVX2__
    __m128i bits = _mm_loadu_si128((const __m128i *)from);
    return (vector)_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16);
#else
    return (vector)(__builtin_convertvector(*(const halves *)from, integers) << 16);
#endif
}

/* The same, rounded to the nearest or to even, in the upper halves of integers. */
static inline integers rounded_half(vector v) {
    patterns bits = (patterns)v; /* those of NaN may overflow */
    return (integers)(bits + 0x7fff + (bits >> 16 & 1));
}

static inline void store_halves(uint16_t *to, vector v) {
#ifdef __AVX512BF16__
    *(halves *)to = (halves)_mm512_cvtneps_pbh((__m512)v);
#else
    *(halves *)to = __builtin_convertvector(rounded_half(v) >> 16, halves);
#endif
}

static inline long rounded_up(long value, long to) { return (value + to - 1) / to * to; }

/* The second where either is not a number: `larger(bound, x)` keeps that it is none. */
static inline vector larger(vector a, vector b) {
#if defined __AVX512F__
    return (vector)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined __AVX2__
    return (vector)_mm256_max_ps((__m256)a, (__m256)b);
#else
    integers first = a > b;
    return (vector)(((integers)a & first) | ((integers)b & ~first));
#endif
}

/* In each lane the larger; of floats' bits without their signs, NaN is the largest. */
static inline integers larger_whole(integers a, integers b) {
#if defined __AVX512F__
    return (integers)_mm512_max_epi32((__m512i)a, (__m512i)b);
#elif defined __AVX2__
    return (integers)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
    integers first = a > b;
    return (a & first) | (b & ~first);
#endif
}

/* Lanes, turned by n. */
#define FOUR(i, n) (i + n) % LANES, (i + 1 + n) % LANES, (i + 2 + n) % LANES, (i + 3 + n) % LANES
#if LANES == 16
#define FROM(n) FOUR(0, n), FOUR(4, n), FOUR(8, n), FOUR(12, n)
#elif LANES == 8
#define FROM(n) FOUR(0, n), FOUR(4, n)
#else
#define FROM(n) FOUR(0, n)
#endif
#if defined(__clang__) || __GNUC__ >= 12
#define TURNED(v, n) __builtin_shufflevector(v, v, FROM(n))
#else
#define TURNED(v, n) __builtin_shuffle(v, (integers){FROM(n)})
#endif

static inline float sum_of(vector v) {
#if LANES >= 16
    v += TURNED(v, 8);
#endif
#if LANES >= 8
    v += TURNED(v, 4);
#endif
    v += TURNED(v, 2);
    return v[0] + v[1];
}

static inline float largest_of(vector v) {
#if LANES >= 16
    v = larger(v, TURNED(v, 8));
#endif
#if LANES >= 8
    v = larger(v, TURNED(v, 4));
#endif
    v = larger(v, TURNED(v, 2));
    return v[0] > v[1] ? v[0] : v[1];
}

/* The largest without signs of so many numbers; not a number where one is none. */
static inline float size_of(const float *x, int many) {
    integers most = {};
    for (int i = 0; i < many; i += LANES)
        most = larger_whole(most, (integers)load(x + i) & 0x7fffffff);
#if LANES >= 16
    most = larger_whole(most, TURNED(most, 8));
#endif
#if LANES >= 8
    most = larger_whole(most, TURNED(most, 4));
#endif
    most = larger_whole(most, TURNED(most, 2));
    return ((vector)larger_whole(most, TURNED(most, 1)))[0];
}

/* exp(x) for x <= 88, to 2e-7: 2^n by the exponent's bits, the rest by Taylor's series. */
static inline vector exponential(vector x) {
    x = larger(all(-87.0f), x);
    vector turns = x * all(1.44269504f);
    integers whole = __builtin_convertvector(turns + all(127.5f), integers); /* positive: truncated */
    vector n = __builtin_convertvector(whole, vector) - all(127.0f);
    vector r = (x - n * all(0.693359375f)) + n * all(2.12194440e-4f);
    vector p = all(1.9875691500e-4f);
    p = p * r + all(1.3981999507e-3f);
    p = p * r + all(8.3334519073e-3f);
    p = p * r + all(4.1665795894e-2f);
    p = p * r + all(1.6666665459e-1f);
    p = p * r + all(5.0000001201e-1f);
    p = p * r * r + r + all(1.0f);
    return p * (vector)(whole << 23);
}

/* 2^x for x <= 126, to 8e-5, which bfloat16 does not see; no smaller than 2^-100. */
static inline vector power_of_two(vector x) {
    x = larger(x, all(-100.0f));
    vector shifted = x + all(12582912.0f); /* its lowest bits are those of an integer */
    vector rest = x - (shifted - all(12582912.0f));
    vector p = all(5.517166e-2f);
    p = p * rest + all(2.4261114e-1f);
    p = p * rest + all(6.9326099e-1f);
    p = p * rest + all(9.9992807e-1f);
    return (vector)((patterns)p + ((patterns)shifted << 23));
}

/* x times the share of the normal distribution below x; erf as Abramowitz and Stegun 7.1.26. */
static inline vector gelu(vector x) {
    vector scaled = x * all(0.70710678f);
    vector size = larger(scaled, -scaled);
    vector t = all(1.0f) / (all(1.0f) + all(0.3275911f) * size);
    vector p = all(1.061405429f);
    p = p * t - all(1.453152027f);
    p = p * t + all(1.421413741f);
    p = p * t - all(0.284496736f);
    p = p * t + all(0.254829592f);
    /* 1 - erf(size); bounded, as numbers below 1e-38 take the CPU 50 times as long */
    vector tail = p * t * exponential(larger(-size * size, all(-60.0f)));
    integers below = scaled < (vector){};
    vector upper = all(2.0f) - tail;
    vector twice = (vector)(((integers)tail & below) | ((integers)upper & ~below));
    return all(0.5f) * x * twice;
}

/* The same to 1e-4, or 2e-5 of x, for bfloat16: the share by one polynomial, fitted between -4.5 and
 * 4.5. */
static inline vector gelu_for_halves(vector x) {
    x = larger(all(-4.5f), x);
    vector bounded = -larger(all(-4.5f), -x), square = bounded * bounded;
    vector p = all(-1.7256818e-12f);
    p = p * square + all(2.02185e-10f);
    p = p * square + all(-1.0564845e-8f);
    p = p * square + all(3.2784524e-7f);
    p = p * square + all(-6.8131485e-6f);
    p = p * square + all(1.0172978e-4f);
    p = p * square + all(-1.1426966e-3f);
    p = p * square + all(9.8917307e-3f);
    p = p * square + all(-6.6420637e-2f);
    p = p * square + all(3.9892465e-1f);
    return x * (p * bounded + all(0.5f));
}
