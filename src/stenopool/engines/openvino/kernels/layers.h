/* What the encoder and the decoder are made of: rows that go through norms, linear layers and
 * attention. No row's numbers depend on other rows, nor on threads. */
#pragma once
#include "product.h"
#include "weights.h"

enum {
    STRIP = 96,         /* rows of a task, which stay in a core's cache while all weights pass by */
    HEARING = 2 * ROWS, /* rows that attend together */
    LINE = 16,          /* floats of a line of the cache */
};

static inline void normalise(const float *x, const norm *n, int width, float *out) {
    vector mean, spread;
    moments(x, width, &mean, &spread);
    for (int i = 0; i < width; i += LANES)
        store(out + i, (load(x + i) - mean) * spread * load(n->weight + i) + load(n->bias + i));
}

/* ---- linear layers --------------------------------------------------------------------------- */

typedef struct {
    team *t;
    bool int8;
    int rows;
    uint8_t *bytes; /* of rows as a product takes them: int8 with scales, or floats */
    float *scales, *floats;
    float *scratch; /* of each thread so many floats, as many as a row has */
    long scratch_floats;
    /* of what runs: */
    const float *from;
    long from_stride;
    const norm *norm;
    activations input;
    matrix matrix;
    target target;
} flow;

/* A row, normalised if there is a norm, as the next product takes it. */
static void prepare_task(void *what, int task, int thread) {
    const flow *f = what;
    const float *from = f->from + task * f->from_stride;
    long inputs = f->input.inputs;
    float *to = f->int8 ? f->scratch + thread * f->scratch_floats : f->floats + task * inputs;
    if (f->norm) normalise(from, f->norm, (int)inputs, to);
    else if (!f->int8) memcpy(to, from, 4 * (size_t)inputs);
    if (f->int8)
        quantise(f->norm ? to : from, inputs, f->bytes + task * inputs,
                 f->scales + task * (inputs / GROUP), 128);
}

static void prepare(flow *f, const float *from, long stride, const norm *n, int inputs) {
    f->from = from, f->from_stride = stride, f->norm = n;
    bool tiled = f->int8 && f->rows >= FEWEST_ROWS;
    f->input = (activations){f->bytes, f->scales, f->floats, inputs, tiled};
    share(f->t, f->rows, prepare_task, f);
}

static void product_task(void *what, int task, int thread) {
    (void)thread;
    const flow *f = what;
    int blocks = (int)(rounded_up(f->matrix.outputs, TOGETHER) / TOGETHER);
    int first = task % blocks * TOGETHER, row = task / blocks * STRIP;
    int last = first + TOGETHER < f->matrix.outputs ? first + TOGETHER : f->matrix.outputs;
    int rows = f->rows - row < STRIP ? f->rows - row : STRIP;
    long before = (long)row * f->input.inputs;
    activations input = f->input;
    target to = f->target;
    input.bytes += before, input.scales += before / GROUP, input.floats += before;
    to.out += row * to.stride;
    if (input.tiled) begin_tiles();
    for (int output = first; output < last; output += BLOCK)
        multiply(&f->matrix, output, input, rows, &to);
    if (input.tiled) end_tiles();
}

/* Prepared rows through a linear layer. */
static void through(flow *f, linear l, int outputs, float *out, long stride, int how) {
    laid(&f->matrix, outputs, f->input.inputs, f->int8, (char *)l.weight);
    f->target = (target){l.bias, out, stride, how};
    int blocks = (int)(rounded_up(f->matrix.outputs, TOGETHER) / TOGETHER);
    share(f->t, blocks * (int)(rounded_up(f->rows, STRIP) / STRIP), product_task, f);
}

static inline void apply(flow *f, const float *from, long from_stride, const norm *n, linear l,
                         int inputs, int outputs, float *out, long stride, int how) {
    prepare(f, from, from_stride, n, inputs);
    through(f, l, outputs, out, stride, how);
}

/* ---- attention ------------------------------------------------------------------------------- */

/* exp(x - largest) in place; returns the sum. `rough`: of 2, to 8e-5. */
static inline __attribute__((always_inline)) float exponentials(
    float *x, int length, float largest, const bool rough) {
    vector sum = {};
    int i = 0;
    for (; i + LANES <= length; i += LANES) {
        vector apart = load(x + i) - all(largest);
        vector e = rough ? power_of_two(apart) : exponential(apart);
        store(x + i, e);
        sum += e;
    }
    float rest = 0;
    for (; i < length; i++) {
        vector apart = all(x[i] - largest);
        x[i] = (rough ? power_of_two(apart) : exponential(apart))[0];
        rest += x[i];
    }
    return sum_of(sum) + rest;
}

static inline float largest(const float *x, int length) {
    if (length < LANES) {
        float found = x[0];
        for (int i = 1; i < length; i++) found = x[i] > found ? x[i] : found;
        return found;
    }
    vector most = load(x + length - LANES);
    for (int i = 0; i + LANES <= length; i += LANES) most = larger(most, load(x + i));
    return largest_of(most);
}

/* What a few rows hear with a head. */
typedef struct {
    matrix keys, values; /* (positions, 64) and (64, positions) */
    int positions;
    bool int8, rough;   /* rough: exponentials to 8e-5 */
    long padded;        /* positions */
    float *scores;      /* (HEARING, padded) */
    float *queries;     /* (HEARING, 64) */
    float *scales;      /* (HEARING, padded / 64) */
    uint8_t *bytes;     /* (HEARING, padded) */
    float sum[HEARING]; /* of a row's exponentials */
} attention;

/* Floats of memory for it. */
static inline long attention_floats(int positions) {
    long padded = rounded_up(positions, GROUP);
    return HEARING * (padded + GROUP + padded / GROUP + padded / 4);
}

static inline void attention_memory(attention *a, float *memory) {
    a->padded = rounded_up(a->positions, GROUP);
    a->scores = memory;
    a->queries = a->scores + HEARING * a->padded;
    a->scales = a->queries + HEARING * GROUP;
    a->bytes = (uint8_t *)(a->scales + HEARING * (a->padded / GROUP));
}

/* Exponentials of the scores of up to HEARING queries, and their sums. */
static void score(attention *a, const float *from, long stride, int rows) {
    float scale = a->rough ? 0.125f * 1.44269504f : 0.125f; /* scores are exponents of 2, or of e */
    for (int r = 0; r < rows; r++) {
        float *query = a->queries + r * GROUP;
        for (int i = 0; i < GROUP; i += LANES)
            store(query + i, load(from + r * stride + i) * all(scale));
        if (a->int8) a->scales[r] = quantise_group(query, a->bytes + r * GROUP, 128);
    }
    activations input = {a->bytes, a->scales, a->queries, GROUP, false};
    target to = {NULL, a->scores, a->padded, SET};
    for (int output = 0; output < a->keys.outputs; output += BLOCK)
        multiply(&a->keys, output, input, rows, &to);
    for (int r = 0; r < rows; r++) {
        float *x = a->scores + r * a->padded;
        float most = largest(x, a->positions);
        a->sum[r] = a->rough ? exponentials(x, a->positions, most, true)
                             : exponentials(x, a->positions, most, false);
        for (long i = a->positions; i < a->padded; i++) x[i] = 0;
    }
}

/* What they hear. */
static void hear(attention *a, float *out, long stride, int rows) {
    long groups = a->padded / GROUP;
    for (int r = 0; a->int8 && r < rows; r++)
        quantise(a->scores + r * a->padded, a->padded, a->bytes + r * a->padded,
                 a->scales + r * groups, 0);
    activations input = {a->bytes, a->scales, a->scores, (int)a->padded, false};
    target to = {NULL, a->queries, GROUP, SET}; /* which are not needed any more */
    for (int output = 0; output < GROUP; output += BLOCK)
        multiply(&a->values, output, input, rows, &to);
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < GROUP; i += LANES)
            store(out + r * stride + i, load(a->queries + r * GROUP + i) * all(1.0f / a->sum[r]));
}
