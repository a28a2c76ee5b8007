/* Products of few rows with packed matrices, in int8 or float32, and the packing. */
#pragma once
#include "team.h"
#include "tiles.h"
#include "vectors.h"

enum {
    BLOCK = 2 * LANES, /* outputs that are computed together for some rows */
    TOGETHER = 128, /* outputs of a task, so that what is read next is next in memory */
    GROUP = 64,     /* numbers that share a scale; also the width of a head */
    ROWS = 6,       /* rows that are computed together: as many as registers hold */
    FEWEST_ROWS = 8, /* for which tile registers are faster */
};

/* A matrix (outputs, inputs), packed: `data` is [outputs / LANES][inputs / 4][LANES][4] int8 or
 * [outputs / LANES][inputs][LANES] float32. Outputs are padded to BLOCK, inputs to GROUP. */
typedef struct {
    int32_t outputs, inputs; /* padded */
    void *data;
    float *scale;   /* (outputs,) of int8, else NULL */
    int32_t *shift; /* [outputs / LANES][inputs / 64][LANES]: what the activations' +128 adds */
} matrix;

/* Rows to multiply, padded to GROUP: int8 + 128 with a scale for each group, or float32. */
typedef struct {
    const uint8_t *bytes;
    const float *scales;
    const float *floats;
    int inputs;
    bool tiled; /* int8, with memory for a multiple of TILE rows; the tile registers are set */
} activations;

enum { SET, SET_GELU, SET_ROUGH_GELU, ADD };

typedef struct {
    const float *bias; /* or NULL */
    float *out;
    long stride; /* of out */
    int how;
} target;

static inline __attribute__((always_inline)) void finish(
    const target *to, int row, int output, vector sum) {
    if (to->bias) sum += load(to->bias + output);
    if (to->how == SET_GELU) sum = gelu(sum);
    if (to->how == SET_ROUGH_GELU) sum = gelu_for_halves(sum);
    float *out = to->out + row * to->stride + output;
    if (to->how == ADD) sum += load(out);
    store(out, sum);
}

#define FOR_EACH(r, rows) _Pragma("GCC unroll 6") for (int r = 0; r < (rows); r++)

#ifdef __AVX2__
#define HAS_INT8
#include "int8.h"

enum { AT_ONCE = ROWS / SPLIT }; /* rows for whose sums there are registers */

static inline __attribute__((always_inline)) void int8_part(
    const int rows, const matrix *m, int output, activations a, int row, const target *to) {
    const int groups = m->inputs / GROUP;
    const long next = (long)LANES * m->inputs; /* to the next LANES outputs */
    const int8_t *weights = (const int8_t *)m->data + (long)output * m->inputs;
    const int32_t *shift = m->shift ? m->shift + (long)output * groups : NULL;
    const char *ahead = row == 0 ? (const char *)weights + 2 * next : NULL;
    const uint8_t *bytes = a.bytes + (long)row * a.inputs;
    vector sum[AT_ONCE][2];
    FOR_EACH(r, rows) sum[r][0] = sum[r][1] = (vector){};
    for (int group = 0; group < groups; group++, bytes += GROUP) {
        integers part[AT_ONCE][2][SPLIT], begin[2] = {};
        for (int i = 0; shift && i < 2; i++)
            memcpy(&begin[i], shift + (i * groups + group) * LANES, sizeof begin[i]);
        FOR_EACH(r, rows) {
            for (int i = 0; i < 2; i++)
                for (int k = 0; k < SPLIT; k++)
                    part[r][i][k] = SPLIT == 1 ? begin[i] : (integers){};
        }
#pragma GCC unroll 16
        for (int four = 0; four < GROUP; four += 4, weights += 4 * LANES) {
            for (int i = 0; ahead && i < 8 * LANES; i += 64)
                __builtin_prefetch(ahead + (group * GROUP + four) * 2L * LANES + i, 0, 2);
            FOR_EACH(r, rows) {
                integers quads = quads_of(bytes + (long)r * a.inputs + four);
                add_products(part[r][0], quads, weights);
                add_products(part[r][1], quads, weights + next);
            }
        }
        FOR_EACH(r, rows) {
            vector scale = all(a.scales[(long)(row + r) * groups + group]);
            for (int i = 0; i < 2; i++) {
                integers whole = total_of(part[r][i]);
                if (SPLIT > 1) whole += begin[i];
                sum[r][i] += __builtin_convertvector(whole, vector) * scale;
            }
        }
    }
    FOR_EACH(r, rows) {
        for (int i = 0; i < 2; i++) {
            int at = output + i * LANES;
            finish(to, row + r, at, sum[r][i] * load(m->scale + at));
        }
    }
}

static inline __attribute__((always_inline)) void int8_tile(
    const int rows, const matrix *m, int output, activations a, int row, const target *to) {
    int8_part(rows < AT_ONCE ? rows : AT_ONCE, m, output, a, row, to);
    if (rows > AT_ONCE) int8_part(rows - AT_ONCE, m, output, a, row + AT_ONCE, to);
}
#endif

static inline __attribute__((always_inline)) void float_tile(
    const int rows, const matrix *m, int output, activations a, int row, const target *to) {
    const float *first = (const float *)m->data + (long)output * m->inputs;
    const float *second = first + (long)LANES * m->inputs;
    const float *x = a.floats + (long)row * a.inputs;
    vector sum[ROWS][2];
    FOR_EACH(r, rows) sum[r][0] = sum[r][1] = (vector){};
    for (int k = 0; k < m->inputs; k++) {
        vector w0 = load(first + k * LANES), w1 = load(second + k * LANES);
        FOR_EACH(r, rows) {
            vector value = all(x[(long)r * a.inputs + k]);
            sum[r][0] += w0 * value;
            sum[r][1] += w1 * value;
        }
    }
    FOR_EACH(r, rows) {
        for (int i = 0; i < 2; i++) finish(to, row + r, output + i * LANES, sum[r][i]);
    }
}

#ifdef __AMX_INT8__
/* The same for up to 16 rows with the tile registers, to the same numbers. Of rows that are not there
 * memory is read, and nothing is written. */
static void wide_tile(int rows, const matrix *m, int output, activations a, int row, const target *to) {
    const int groups = m->inputs / GROUP;
    const uint8_t *bytes = a.bytes + (long)row * a.inputs;
    const float *scales = a.scales + (long)row * groups;
    int32_t part[2][TILE][LANES] __attribute__((aligned(64)));
    for (int at = output; at < output + BLOCK; at += LANES) {
        const int8_t *data = (const int8_t *)m->data + (long)at * m->inputs;
        const int32_t *shift = m->shift + (long)at * groups;
        const char *ahead = (const char *)data + (long)BLOCK * m->inputs;
        __m512 sum[TILE] = {};
        for (int group = 0; group <= groups; group++) {
            if (group < groups) {
                _tile_loadd(0, shift + group * LANES, 0); /* in each row */
                _tile_loadd(1, bytes + group * GROUP, a.inputs);
                _tile_loadd(2, data + (long)group * GROUP * LANES, 64);
                _tile_dpbusd(0, 1, 2);
                _tile_stored(0, part[group % 2], 64);
                for (int i = 0; row == 0 && i < TILE; i++)
                    _mm_prefetch(ahead + (group * TILE + i) * 64L, _MM_HINT_T1);
            }
            if (!group) continue; /* the sums of one group are scaled while the next is multiplied */
#pragma GCC unroll 16
            for (int r = 0; r < TILE; r++) {
                __m512 whole = _mm512_cvtepi32_ps(_mm512_load_si512(part[(group - 1) % 2][r]));
                __m512 scale = _mm512_set1_ps(scales[r * groups + group - 1]);
                sum[r] = _mm512_fmadd_ps(whole, scale, sum[r]);
            }
        }
        for (int r = 0; r < rows; r++) finish(to, row + r, at, (vector)sum[r] * load(m->scale + at));
    }
}
#endif

static inline __attribute__((always_inline)) void tile(
    const int rows, const matrix *m, int output, activations a, int row, const target *to) {
#ifdef HAS_INT8
    if (m->scale) { int8_tile(rows, m, output, a, row, to); return; }
#endif
    float_tile(rows, m, output, a, row, to);
}

/* BLOCK outputs of some rows: to->out[row][output] for rows from 0 on. */
static void multiply(const matrix *m, int output, activations a, int rows, const target *to) {
    int row = 0;
#ifdef __AMX_INT8__
    for (; a.tiled && rows - row >= FEWEST_ROWS; row += TILE)
        wide_tile(rows - row < TILE ? rows - row : TILE, m, output, a, row, to);
#endif
    for (; row + ROWS <= rows; row += ROWS) tile(ROWS, m, output, a, row, to);
    switch (rows - row) { /* so that the compiler knows the number */
    case 1: tile(1, m, output, a, row, to); break;
    case 2: tile(2, m, output, a, row, to); break;
    case 3: tile(3, m, output, a, row, to); break;
    case 4: tile(4, m, output, a, row, to); break;
    case 5: tile(5, m, output, a, row, to); break;
    }
}

/* One group as int8 + `zero` (128, or 0 for numbers that are never negative), and its scale. */
static inline float quantise_group(const float *x, uint8_t *to, int zero) {
    float size = size_of(x, GROUP), scale = size <= 1e-30f ? 1.0f : size / (zero ? 127.0f : 255.0f);
    for (int i = 0; i < GROUP; i += LANES) {
        store_bytes(to + i, rounded(load(x + i) * all(1.0f / scale)) + zero);
    }
    return scale;
}

static void quantise(const float *x, long inputs, uint8_t *bytes, float *scales, int zero) {
    for (long i = 0; i < inputs; i += GROUP)
        scales[i / GROUP] = quantise_group(x + i, bytes + i, zero);
}

/* ---- packing ------------------------------------------------------------------------------- */

/* Where the parts of a packed matrix lie in one block of memory. Returns the bytes it takes. */
static long laid(matrix *m, int outputs, int inputs, bool int8, char *at) {
    m->outputs = (int32_t)rounded_up(outputs, BLOCK), m->inputs = (int32_t)rounded_up(inputs, GROUP);
    long numbers = (long)m->outputs * m->inputs;
    m->data = at;
    m->scale = NULL, m->shift = NULL;
    if (!int8) return numbers * 4;
    m->scale = (float *)(at + numbers);
    m->shift = (int32_t *)(at + numbers + 4L * m->outputs);
    return rounded_up(numbers + 4L * m->outputs + 4 * numbers / GROUP, 64);
}

/* What is packed: (outputs, inputs), float32 or the upper halves of float32 (bfloat16). */
typedef struct {
    const void *numbers;
    bool half;
    int outputs, inputs;
    long stride; /* numbers to the next output */
} source;

/* A group of a row, 0 where there is nothing. */
static inline void group_of(const source *from, int output, int first, float *group) {
    int many = output < from->outputs ? from->inputs - first : 0;
    long at = output * from->stride + first;
    const float *numbers = from->numbers;
    if (many >= GROUP && from->half) {
        for (int i = 0; i < GROUP; i += LANES)
            store(group + i, from_halves((const uint16_t *)from->numbers + at + i));
    } else if (many >= GROUP) {
        memcpy(group, numbers + at, 4 * GROUP);
    } else {
        for (int i = 0; i < GROUP; i++) {
            uint32_t bits = 0;
            if (i < many && from->half)
                bits = (uint32_t)((const uint16_t *)from->numbers)[at + i] << 16;
            else if (i < many) memcpy(&bits, numbers + at + i, 4);
            memcpy(group + i, &bits, 4);
        }
    }
}

/* The larger of two sizes; not a number where one is none. */
static inline float larger_size(float a, float b) { return b > a || b != b ? b : a; }

/* The scale of int8 numbers that are not larger. */
static inline float scale_of(float size) { return size <= 1e-30f ? 1.0f : size / 127.0f; }

/* Packs BLOCK outputs. */
static void pack_block(const matrix *m, const source *from, int first) {
    float group[GROUP];
    for (int output = first; output < first + BLOCK; output++) {
        long begin = (long)output / LANES * LANES * m->inputs;
        int lane = output % LANES;
        float size = 0;
        for (int k = 0; k < m->inputs; k += GROUP) {
            group_of(from, output, k, group);
            size = larger_size(size, size_of(group, GROUP));
            for (int i = 0; !m->scale && i < GROUP; i++)
                ((float *)m->data)[begin + (long)(k + i) * LANES + lane] = group[i];
        }
        if (!m->scale) continue;
        float scale = m->scale[output] = scale_of(size);
        int32_t *shift = m->shift + begin / GROUP + lane;
        for (int k = 0; k < m->inputs; k += GROUP) {
            int32_t *quads = (int32_t *)((int8_t *)m->data + begin + (long)k * LANES) + lane;
            integers sum = {};
            group_of(from, output, k, group);
            for (int i = 0; i < GROUP; i += LANES) {
                integers whole = rounded(load(group + i) * all(1.0f / scale));
                int32_t packed[LANES / 4];
                store_bytes(packed, whole);
                for (int four = 0; four < LANES / 4; four++)
                    quads[(i / 4 + four) * LANES] = packed[four];
                sum += whole;
            }
            shift[k / GROUP * LANES] = -128 * (int32_t)sum_of(__builtin_convertvector(sum, vector));
        }
    }
}

typedef struct { matrix m; source from; } packing;

static void pack_task(void *what, int task, int thread) {
    (void)thread;
    packing *p = what;
    pack_block(&p->m, &p->from, task * BLOCK);
}

static inline void pack_matrix(team *t, const float *from, int outputs, int inputs, bool int8,
                               void *to) {
    packing p = {.from = {from, false, outputs, inputs, inputs}};
    laid(&p.m, outputs, inputs, int8, to);
    share(t, p.m.outputs / BLOCK, pack_task, &p);
}
