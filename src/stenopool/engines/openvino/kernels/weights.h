/* A layer's weights, as Python hands them over. */
#pragma once
#include "vectors.h"

typedef struct { const void *weight; const float *bias; } linear;
typedef struct { const float *weight, *bias; } norm;

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
