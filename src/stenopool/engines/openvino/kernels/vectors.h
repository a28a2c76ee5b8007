/* Vectors of 16 float32, in the types of GCC and Clang, which make of them what the CPU has. */
#pragma once
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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
    return (vector)(__builtin_convertvector(*(const halves *)from, integers) << 16);
}

static inline long rounded_up(long value, long to) { return (value + to - 1) / to * to; }

static inline vector larger(vector a, vector b) {
    integers first = a > b;
    return (vector)(((integers)a & first) | ((integers)b & ~first));
}

#define HALVES(v, n) __builtin_shufflevector(v, v, (0 + n) % 16, (1 + n) % 16, (2 + n) % 16, \
    (3 + n) % 16, (4 + n) % 16, (5 + n) % 16, (6 + n) % 16, (7 + n) % 16, (8 + n) % 16, \
    (9 + n) % 16, (10 + n) % 16, (11 + n) % 16, (12 + n) % 16, (13 + n) % 16, (14 + n) % 16, \
    (15 + n) % 16)

static inline float sum_of(vector v) {
    v += HALVES(v, 8);
    v += HALVES(v, 4);
    v += HALVES(v, 2);
    return v[0] + v[1];
}

static inline float largest_of(vector v) {
    v = larger(v, HALVES(v, 8));
    v = larger(v, HALVES(v, 4));
    v = larger(v, HALVES(v, 2));
    return v[0] > v[1] ? v[0] : v[1];
}

/* exp(x) for x <= 88, to 2e-7: 2^n by the exponent's bits, the rest by Taylor's series. */
static inline vector exponential(vector x) {
    x = larger(x, all(-87.0f));
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
    vector tail = p * t * exponential(-size * size); /* 1 - erf(size) */
    integers below = scaled < (vector){};
    vector upper = all(2.0f) - tail;
    vector twice = (vector)(((integers)tail & below) | ((integers)upper & ~below));
    return all(0.5f) * x * twice;
}
