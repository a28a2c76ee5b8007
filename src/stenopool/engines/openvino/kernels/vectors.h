/* Vectors of 16 float32, in the types of GCC and Clang, which make of them what the CPU has. */
#pragma once
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

enum { LANES = 16 };

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t integers __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint8_t narrow __attribute__((vector_size(LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

static inline vector load(const float *from) { return *(const vector *)from; }
static inline void store(float *to, vector value) { *(vector *)to = value; }
static inline vector all(float value) { return value - (vector){}; }

/* To the nearest integer, for numbers below 2^22: the sum's lowest bits are those of an integer. */
static inline integers rounded(vector v) {
    return (integers)(v + all(12582912.0f)) - (integers)all(12582912.0f);
}

/* bfloat16: the upper halves of float32. */
static inline vector from_halves(const uint16_t *from) {
#ifdef __AVX512F__
    __m256i bits = _mm256_loadu_si256((const __m256i *)from);
    return (vector)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
#else
    return (vector)(__builtin_convertvector(*(const halves *)from, integers) << 16);
#endif
}

/* The same, rounded to the nearest or to even, in the upper halves of integers. */
static inline integers rounded_half(vector v) {
    integers bits = (integers)v;
    return bits + 0x7fff + (bits >> 16 & 1);
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
#ifdef __AVX512F__
    return (vector)_mm512_max_ps((__m512)a, (__m512)b);
#else
    integers first = a > b;
    return (vector)(((integers)a & first) | ((integers)b & ~first));
#endif
}

#define FROM(n) (0 + n) % 16, (1 + n) % 16, (2 + n) % 16, (3 + n) % 16, (4 + n) % 16, (5 + n) % 16, \
    (6 + n) % 16, (7 + n) % 16, (8 + n) % 16, (9 + n) % 16, (10 + n) % 16, (11 + n) % 16, \
    (12 + n) % 16, (13 + n) % 16, (14 + n) % 16, (15 + n) % 16
#if defined(__clang__) || __GNUC__ >= 12
#define TURNED(v, n) __builtin_shufflevector(v, v, FROM(n))
#else
#define TURNED(v, n) __builtin_shuffle(v, (integers){FROM(n)})
#endif

static inline float sum_of(vector v) {
    v += TURNED(v, 8);
    v += TURNED(v, 4);
    v += TURNED(v, 2);
    return v[0] + v[1];
}

static inline float largest_of(vector v) {
    v = larger(v, TURNED(v, 8));
    v = larger(v, TURNED(v, 4));
    v = larger(v, TURNED(v, 2));
    return v[0] > v[1] ? v[0] : v[1];
}

/* The mean of a row, and 1 / its deviation. */
static inline void moments(const float *x, int width, vector *mean, vector *spread) {
    vector sum = {}, squares = {};
    for (int i = 0; i < width; i += LANES) sum += load(x + i);
    *mean = all(sum_of(sum) / (float)width);
    for (int i = 0; i < width; i += LANES) {
        vector apart = load(x + i) - *mean;
        squares += apart * apart;
    }
    *spread = all(1.0f / sqrtf(sum_of(squares) / (float)width + 1e-5f));
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
    return (vector)((integers)p + ((integers)shifted << 23));
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
