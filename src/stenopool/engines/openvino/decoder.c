/* Whisper's text decoder for CPUs: one call feeds some tokens and says what follows each.
 *
 * A step is bound by what it reads: each layer's weights, and each window's keys and values of the
 * cross-attention. So both are int8 where the CPU has VNNI, packed once so that they are read front
 * to back, and shared by all rows (a row is a token of a hypothesis). Activations are quantised
 * in groups of 64 by the group's own largest value. No row's numbers depend on another row, nor on
 * the number of threads.
 *
 * Without VNNI, or where float32 is asked for, everything is float32.
 *
 * Python (decoder.py) owns all memory but the scratch of a call, and checks all sizes.
 */
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512VNNI__
#include <immintrin.h>
#endif

enum {
    LANES = 16,      /* float32 in a vector: outputs that are computed together */
    BLOCK = 32,      /* outputs that a task computes for some rows: two vectors */
    GROUP = 64,      /* numbers that share a scale; also the width of a head */
    ROWS = 6,        /* rows that a task computes at a time: as many as registers hold */
    TOGETHER = 128,  /* outputs of a task, so that what is read next is next in memory */
    CANDIDATES = 16, /* most probable text tokens that are told of each row */
};

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

/* ---- threads ------------------------------------------------------------------------------- */

/* Tasks are claimed one by one, so that a thread whose core was taken away holds up nobody. */
typedef struct {
    void (*run)(void *what, int task, int thread);
    void *what;
    atomic_ulong ticket; /* number of the job << 32 | tasks that nobody has claimed */
    atomic_int done;
    int tasks, threads;
    pthread_mutex_t lock;
    pthread_cond_t work;
    atomic_int asleep;
    atomic_bool end;
    char *scratch; /* of a step; kept, as fresh pages take a tenth of its time */
    size_t scratch_bytes;
    struct worker { void *team; int number; pthread_t id; } *workers;
} team;

enum { SPINS = 1000 }; /* some 50 us, then a thread sleeps or lets others run */

static inline void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static bool work_on(team *t, int thread) {
    unsigned long seen = atomic_load(&t->ticket);
    while (seen & 0xffffffff) {
        if (!atomic_compare_exchange_weak(&t->ticket, &seen, seen - 1)) continue;
        t->run(t->what, t->tasks - (int)(seen & 0xffffffff), thread);
        atomic_fetch_add(&t->done, 1);
        return true;
    }
    return false;
}

static void *worker(void *arg) {
    struct worker *me = arg;
    team *t = me->team;
    int spins = 0;
    while (!atomic_load(&t->end)) {
        if (work_on(t, me->number)) {
            spins = 0;
        } else if (++spins < SPINS) {
            pause_briefly();
        } else {
            pthread_mutex_lock(&t->lock);
            atomic_fetch_add(&t->asleep, 1);
            while (!(atomic_load(&t->ticket) & 0xffffffff) && !atomic_load(&t->end))
                pthread_cond_wait(&t->work, &t->lock);
            atomic_fetch_sub(&t->asleep, 1);
            pthread_mutex_unlock(&t->lock);
            spins = 0;
        }
    }
    return NULL;
}

static void share(team *t, int tasks, void (*run)(void *, int, int), void *what) {
    if (tasks <= 0) return;
    t->run = run, t->what = what, t->tasks = tasks;
    atomic_store(&t->done, 0);
    unsigned long number = (atomic_load(&t->ticket) >> 32) + 1;
    atomic_store(&t->ticket, number << 32 | (unsigned long)tasks);
    if (atomic_load(&t->asleep)) {
        pthread_mutex_lock(&t->lock);
        pthread_cond_broadcast(&t->work);
        pthread_mutex_unlock(&t->lock);
    }
    while (work_on(t, 0)) {}
    for (int spins = 0; atomic_load(&t->done) < tasks; spins++) {
        if (spins < SPINS) pause_briefly();
        else sched_yield();
    }
}

void decoder_team_end(team *t) {
    pthread_mutex_lock(&t->lock);
    atomic_store(&t->end, true);
    pthread_cond_broadcast(&t->work);
    pthread_mutex_unlock(&t->lock);
    for (int i = 1; i < t->threads; i++) pthread_join(t->workers[i].id, NULL);
    pthread_cond_destroy(&t->work);
    pthread_mutex_destroy(&t->lock);
    free(t->workers);
    free(t->scratch);
    free(t);
}

/* A team of the calling thread and others. NULL where the system has no memory or no threads. */
team *decoder_team(int threads) {
    team *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    t->workers = calloc((size_t)threads, sizeof *t->workers);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->work, NULL);
    t->threads = 1;
    for (int i = 1; t->workers && i < threads; i++, t->threads++) {
        t->workers[i] = (struct worker){.team = t, .number = i};
        if (pthread_create(&t->workers[i].id, NULL, worker, &t->workers[i])) break;
    }
    if (t->threads == threads) return t;
    decoder_team_end(t);
    return NULL;
}

/* ---- products ------------------------------------------------------------------------------ */

/* A matrix (outputs, inputs), packed: `data` is [outputs / 16][inputs / 4][16][4] int8 or
 * [outputs / 16][inputs][16] float32. Outputs are padded to BLOCK, inputs to GROUP. */
typedef struct {
    int32_t outputs, inputs; /* padded */
    void *data;
    float *scale;   /* (outputs,) of int8, else NULL */
    int32_t *shift; /* [outputs / 16][inputs / 64][16]: what the activations' +128 adds, negative */
} matrix;

/* Rows to multiply, padded to GROUP: int8 + 128 with a scale for each group, or float32. */
typedef struct {
    const uint8_t *bytes;
    const float *scales;
    const float *floats;
    int inputs;
} activations;

enum { SET, SET_GELU, ADD };

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
    float *out = to->out + row * to->stride + output;
    if (to->how == ADD) sum += load(out);
    store(out, sum);
}

#ifdef __AVX512VNNI__
static inline __attribute__((always_inline)) void int8_tile(
    const int rows, const matrix *m, int output, activations a, int row, const target *to) {
    const int groups = m->inputs / GROUP;
    const int8_t *first = (const int8_t *)m->data + (long)output * m->inputs;
    const int8_t *second = first + (long)LANES * m->inputs;
    const int32_t *shift = m->shift ? m->shift + (long)output * groups : NULL;
    const int8_t *ahead = row == 0 ? second + (long)LANES * m->inputs : NULL;
    __m512 sum[ROWS][2];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = _mm512_setzero_ps();
    for (int group = 0; group < groups; group++) {
        __m512i low = _mm512_setzero_si512(), high = low, part[ROWS][2];
        if (shift) {
            low = _mm512_loadu_si512(shift + group * LANES);
            high = _mm512_loadu_si512(shift + (groups + group) * LANES);
        }
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) part[r][0] = low, part[r][1] = high;
        const uint8_t *bytes = a.bytes + (long)row * a.inputs + group * GROUP;
#pragma GCC unroll 16
        for (int four = 0; four < GROUP; four += 4) {
            __m512i w0 = _mm512_loadu_si512(first + (group * GROUP + four) * LANES);
            __m512i w1 = _mm512_loadu_si512(second + (group * GROUP + four) * LANES);
            if (ahead) {
                const char *next = (const char *)ahead + (long)(group * GROUP + four) * 2 * LANES;
                _mm_prefetch(next, _MM_HINT_T1);
                _mm_prefetch(next + 64, _MM_HINT_T1);
            }
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++) {
                int32_t quad;
                memcpy(&quad, bytes + (long)r * a.inputs + four, 4);
                __m512i x = _mm512_set1_epi32(quad);
                part[r][0] = _mm512_dpbusd_epi32(part[r][0], x, w0);
                part[r][1] = _mm512_dpbusd_epi32(part[r][1], x, w1);
            }
        }
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            __m512 scale = _mm512_set1_ps(a.scales[(long)(row + r) * groups + group]);
            sum[r][0] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(part[r][0]), scale, sum[r][0]);
            sum[r][1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(part[r][1]), scale, sum[r][1]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int half = 0; half < 2; half++) {
            int at = output + half * LANES;
            finish(to, row + r, at, (vector)sum[r][half] * load(m->scale + at));
        }
}
#endif

static inline __attribute__((always_inline)) void float_tile(
    const int rows, const matrix *m, int output, activations a, int row, const target *to) {
    const float *first = (const float *)m->data + (long)output * m->inputs;
    const float *second = first + (long)LANES * m->inputs;
    const float *x = a.floats + (long)row * a.inputs;
    vector sum[ROWS][2];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = (vector){};
    for (int k = 0; k < m->inputs; k++) {
        vector w0 = load(first + k * LANES), w1 = load(second + k * LANES);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            vector value = all(x[(long)r * a.inputs + k]);
            sum[r][0] += w0 * value;
            sum[r][1] += w1 * value;
        }
    }
    for (int r = 0; r < rows; r++)
        for (int half = 0; half < 2; half++)
            finish(to, row + r, output + half * LANES, sum[r][half]);
}

static inline __attribute__((always_inline)) void tile(
    const int rows, const matrix *m, int output, activations a, int row, const target *to) {
#ifdef __AVX512VNNI__
    if (m->scale) { int8_tile(rows, m, output, a, row, to); return; }
#endif
    float_tile(rows, m, output, a, row, to);
}

/* BLOCK outputs of some rows: to->out[row][output] for rows from 0 on. */
static void multiply(const matrix *m, int output, activations a, int rows, const target *to) {
    int row = 0;
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
    vector largest = {};
    for (int i = 0; i < GROUP; i += LANES) {
        vector v = load(x + i);
        largest = larger(largest, larger(v, -v));
    }
    float size = largest_of(largest), most = zero ? 127.0f : 255.0f;
    float scale = size > 1e-30f ? size / most : 1.0f;
    for (int i = 0; i < GROUP; i += LANES) {
        integers whole = rounded(load(x + i) * all(1.0f / scale)) + zero;
        narrow bytes = __builtin_convertvector(whole, narrow);
        memcpy(to + i, &bytes, LANES);
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
} source;

/* A group of a row, 0 where there is nothing. */
static inline void group_of(const source *from, int output, int first, float *group) {
    int many = output < from->outputs ? from->inputs - first : 0;
    long at = (long)output * from->inputs + first;
    const float *numbers = from->numbers;
    if (many >= GROUP && from->half) {
        for (int i = 0; i < GROUP; i += LANES)
            store(group + i, from_halves((const uint16_t *)from->numbers + at + i));
    } else if (many >= GROUP) {
        memcpy(group, numbers + at, 4 * GROUP);
    } else {
        for (int i = 0; i < GROUP; i++) {
            uint32_t bits = 0;
            if (i < many && from->half) bits = (uint32_t)((const uint16_t *)from->numbers)[at + i] << 16;
            else if (i < many) memcpy(&bits, numbers + at + i, 4);
            memcpy(group + i, &bits, 4);
        }
    }
}

/* Packs BLOCK outputs. */
static void pack_block(const matrix *m, const source *from, int first) {
    float group[GROUP];
    for (int output = first; output < first + BLOCK; output++) {
        long begin = (long)output / LANES * LANES * m->inputs;
        int lane = output % LANES;
        vector size = {};
        for (int k = 0; k < m->inputs; k += GROUP) {
            group_of(from, output, k, group);
            for (int i = 0; i < GROUP; i += LANES) {
                vector v = load(group + i);
                size = larger(size, larger(v, -v));
            }
            if (m->scale) continue;
            for (int i = 0; i < GROUP; i++)
                ((float *)m->data)[begin + (long)(k + i) * LANES + lane] = group[i];
        }
        if (!m->scale) continue;
        float most = largest_of(size), scale = most > 1e-30f ? most / 127.0f : 1.0f;
        m->scale[output] = scale;
        int32_t *shift = m->shift + begin / GROUP + lane;
        for (int k = 0; k < m->inputs; k += GROUP) {
            int32_t *quads = (int32_t *)((int8_t *)m->data + begin + (long)k * LANES) + lane;
            integers sum = {};
            group_of(from, output, k, group);
            for (int i = 0; i < GROUP; i += LANES) {
                integers whole = rounded(load(group + i) * all(1.0f / scale));
                int32_t packed[LANES / 4];
                narrow bytes = __builtin_convertvector(whole, narrow);
                memcpy(packed, &bytes, sizeof packed);
                for (int four = 0; four < LANES / 4; four++)
                    quads[(i / 4 + four) * LANES] = packed[four];
                sum += whole;
            }
            shift[k / GROUP * LANES] = -128 * (int32_t)sum_of(__builtin_convertvector(sum, vector));
        }
    }
}

bool decoder_has_int8(void) {
#ifdef __AVX512VNNI__
    return true;
#else
    return false;
#endif
}

long decoder_matrix_bytes(int outputs, int inputs, bool int8) {
    matrix m;
    return laid(&m, outputs, inputs, int8, NULL);
}

typedef struct { matrix m; source from; } packing;

static void pack_task(void *what, int task, int thread) {
    (void)thread;
    packing *p = what;
    pack_block(&p->m, &p->from, task * BLOCK);
}

void decoder_pack(team *t, const float *from, int outputs, int inputs, bool int8, void *to) {
    packing p = {.from = {from, false, outputs, inputs}};
    laid(&p.m, outputs, inputs, int8, to);
    share(t, p.m.outputs / BLOCK, pack_task, &p);
}

/* ---- the model ------------------------------------------------------------------------------ */

typedef struct { const void *weight; const float *bias; } linear;
typedef struct { const float *weight, *bias; } norm;

typedef struct {
    norm text_norm, audio_norm, last_norm;
    linear qkv, text_out, audio_query, audio_out, up, down;
} layer;

typedef struct {
    int32_t layers, width, heads, inner, vocabulary, text_tokens;
    bool int8;
    const layer *layer;
    norm last_norm;
    linear head; /* its bias: added to the logits, such as -inf for what is never written */
} model;

/* The keys and values of a window lie in one block: for each layer and head the matrix of the keys
 * (positions, 64) and that of the values (64, positions). */
static long heard(const model *m, int positions, int layer, int head, char *at, matrix *keys,
                  matrix *values) {
    matrix unused;
    long first = laid(&unused, positions, GROUP, m->int8, NULL);
    long both = first + laid(&unused, GROUP, positions, m->int8, NULL);
    at += both * ((long)layer * m->heads + head);
    laid(keys, positions, GROUP, m->int8, at);
    laid(values, GROUP, positions, m->int8, at + first);
    return both * m->layers * m->heads;
}

long decoder_window_bytes(const model *m, int positions) {
    matrix keys, values;
    return heard(m, positions, 0, 0, NULL, &keys, &values);
}

typedef struct {
    const model *m;
    const void *const *from;
    bool half;
    int positions;
    char *to;
} hearing;

static void hear_task(void *what, int task, int thread) {
    (void)thread;
    hearing *h = what;
    matrix keys, values;
    int layer = task / h->m->heads, head = task % h->m->heads;
    heard(h->m, h->positions, layer, head, h->to, &keys, &values);
    long at = (long)head * h->positions * GROUP * (h->half ? 2 : 4);
    const char *const *from = (const char *const *)h->from + 2 * layer;
    source key = {from[0] + at, h->half, h->positions, GROUP};
    source value = {from[1] + at, h->half, GROUP, h->positions};
    for (int first = 0; first < keys.outputs; first += BLOCK) pack_block(&keys, &key, first);
    for (int first = 0; first < values.outputs; first += BLOCK) pack_block(&values, &value, first);
}

/* Packs a window: `from` has each layer's keys (heads, positions, 64) and values (heads, 64,
 * positions), in float32 or bfloat16. */
void decoder_hear(team *t, const model *m, const void *const *from, bool half, int positions,
                  void *to) {
    hearing h = {m, from, half, positions, to};
    share(t, m->layers * m->heads, hear_task, &h);
}

/* ---- a step --------------------------------------------------------------------------------- */

/* A window and the rows that hear it, which stand together. `past` has the keys and values of its
 * tokens so far, its nodes: (layers, 2, nodes, width); in bfloat16 where the weights are int8, as it
 * is read in every step. */
typedef struct {
    const char *heard;
    char *past;
    int32_t nodes, positions, first_row, rows; /* nodes: for which `past` has room */
} window;

/* A token of a hypothesis. It attends to the nodes of its path, of which the last is its own. */
typedef struct {
    const int32_t *path;
    int32_t length;
} token;

/* Told of attention to the audio: (heads, rows, positions) of each chosen head of each layer,
 * over the first positions only. */
typedef struct {
    const int32_t *number; /* [layer][head]: where in `out`, or -1 */
    int32_t positions;
    float *out;
} notes;

typedef struct {
    int32_t rows, windows, asked; /* of `asked` rows it is told what follows */
    float *x; /* (rows, width): embeddings; then the last layer's output, of asked rows first */
    const token *row;
    const window *window;
    const int32_t *asked_row; /* ascending */
    const notes *notes; /* or NULL */
    int32_t *ids;    /* (asked, CANDIDATES): the most probable text tokens, the best first */
    float *logits;   /* (asked, CANDIDATES) */
    float *mass;     /* (asked,): sum of exp(logit - the largest) over all other text tokens */
    float *specials; /* (asked, vocabulary - text tokens) */
} call;

typedef struct {
    team *t;
    const model *m;
    const call *c;
    int layer, rows, outputs;
    const norm *norm;
    matrix matrix;
    target target;
    activations input;
    float *from, *y, *z, *logits, *scratch;
    long from_stride, scratch_floats;
    uint8_t *bytes;
    float *scales;
} step;

static void normalise(const float *x, const norm *n, int width, float *out) {
    vector sum = {}, squares = {};
    for (int i = 0; i < width; i += LANES) sum += load(x + i);
    vector mean = all(sum_of(sum) / (float)width);
    for (int i = 0; i < width; i += LANES) {
        vector apart = load(x + i) - mean;
        squares += apart * apart;
    }
    vector spread = all(1.0f / sqrtf(sum_of(squares) / (float)width + 1e-5f));
    for (int i = 0; i < width; i += LANES)
        store(out + i, (load(x + i) - mean) * spread * load(n->weight + i) + load(n->bias + i));
}

/* A row of `from`, normalised if there is a norm, as what the next product takes. */
static void prepare_task(void *what, int task, int thread) {
    step *s = what;
    const float *from = s->from + task * s->from_stride;
    long inputs = s->input.inputs;
    float *to = s->m->int8 ? s->scratch + thread * s->scratch_floats : s->z + task * inputs;
    if (s->norm) normalise(from, s->norm, (int)inputs, to);
    else if (!s->m->int8) memcpy(to, from, 4 * (size_t)inputs);
    if (s->m->int8)
        quantise(s->norm ? to : from, inputs, s->bytes + task * inputs,
                 s->scales + task * (inputs / GROUP), 128);
}

static void product_task(void *what, int task, int thread) {
    (void)thread;
    step *s = what;
    int last = (task + 1) * TOGETHER < s->matrix.outputs ? (task + 1) * TOGETHER : s->matrix.outputs;
    for (int output = task * TOGETHER; output < last; output += BLOCK)
        multiply(&s->matrix, output, s->input, s->rows, &s->target);
}

/* Rows of `from` through a linear layer. */
static void apply(step *s, const float *from, long stride, const norm *n, linear l, int inputs,
                  int outputs, float *out, long out_stride, int how) {
    s->from = (float *)from, s->from_stride = stride, s->norm = n;
    s->input = (activations){s->bytes, s->scales, s->z, inputs};
    share(s->t, s->rows, prepare_task, s);
    laid(&s->matrix, outputs, inputs, s->m->int8, (char *)l.weight);
    s->target = (target){l.bias, out, out_stride, how};
    share(s->t, (int)(rounded_up(s->matrix.outputs, TOGETHER) / TOGETHER), product_task, s);
}

/* exp(x - largest) in place; returns the sum. Numbers from `length` to its padding become 0. */
static float exponentials(float *x, int length, float largest) {
    vector sum = {};
    int i = 0;
    for (; i + LANES <= length; i += LANES) {
        vector e = exponential(load(x + i) - all(largest));
        store(x + i, e);
        sum += e;
    }
    float rest = 0;
    for (; i < length; i++) {
        x[i] = exponential(all(x[i] - largest))[0];
        rest += x[i];
    }
    return sum_of(sum) + rest;
}

static float largest(const float *x, int length) {
    vector most = all(x[0]);
    int i = 0;
    for (; i + LANES <= length; i += LANES) most = larger(most, load(x + i));
    float found = largest_of(most);
    for (; i < length; i++) found = x[i] > found ? x[i] : found;
    return found;
}

static inline long node_bytes(const model *m) { return (m->int8 ? 2L : 4L) * m->width; }

/* The layer's keys (0) or values (1) of a window's nodes. */
static inline char *plane(const step *s, const window *w, int kind) {
    return w->past + (2L * s->layer + kind) * w->nodes * node_bytes(s->m);
}

static inline vector remembered(const char *node, int at, bool half) {
    return half ? from_halves((const uint16_t *)node + at) : load((const float *)node + at);
}

/* Keeps the keys and values of a row. */
static void remember(const step *s, const window *w, int row) {
    const token *r = &s->c->row[row];
    int width = s->m->width;
    const float *from = s->y + (long)row * 3 * width + width;
    for (int kind = 0; kind < 2; kind++, from += width) {
        char *to = plane(s, w, kind) + r->path[r->length - 1] * node_bytes(s->m);
        if (!s->m->int8) memcpy(to, from, 4 * (size_t)width);
        for (int i = 0; s->m->int8 && i < width; i++) {
            uint32_t bits;
            memcpy(&bits, from + i, 4);
            bits += 0x7fff + (bits >> 16 & 1); /* to the nearest, or to even */
            ((uint16_t *)to)[i] = (uint16_t)(bits >> 16);
        }
    }
}

/* Self-attention of a row: y is (queries, keys, values) and then, in the queries' place, the result. */
static void text_task(void *what, int task, int thread) {
    step *s = what;
    const call *c = s->c;
    const window *w = c->window;
    while (task >= w->first_row + w->rows) w++;
    const token *r = &c->row[task];
    int width = s->m->width;
    float *query = s->y + (long)task * 3 * width;
    float *scores = s->scratch + thread * s->scratch_floats;
    bool half = s->m->int8;
    long stride = node_bytes(s->m), head_bytes = stride / s->m->heads;
    const char *keys = plane(s, w, 0), *values = plane(s, w, 1);
    for (int head = 0; head < s->m->heads; head++, query += GROUP) {
        vector q[GROUP / LANES], sum[GROUP / LANES];
        for (int i = 0; i < GROUP / LANES; i++) q[i] = load(query + i * LANES), sum[i] = (vector){};
        for (int t = 0; t < r->length; t++) {
            const char *key = keys + r->path[t] * stride + head * head_bytes;
            vector dot = {};
            for (int i = 0; i < GROUP / LANES; i++) dot += q[i] * remembered(key, i * LANES, half);
            scores[t] = sum_of(dot) * 0.125f;
        }
        float total = exponentials(scores, r->length, largest(scores, r->length));
        for (int t = 0; t < r->length; t++) {
            const char *value = values + r->path[t] * stride + head * head_bytes;
            vector share = all(scores[t]);
            for (int i = 0; i < GROUP / LANES; i++)
                sum[i] += share * remembered(value, i * LANES, half);
        }
        for (int i = 0; i < GROUP / LANES; i++) store(query + i * LANES, sum[i] * all(1.0f / total));
    }
}

/* Cross-attention of a window's rows with one head: y is the queries and then the result. */
static void audio_task(void *what, int task, int thread) {
    step *s = what;
    const call *c = s->c;
    const window *w = &c->window[task / s->m->heads];
    int head = task % s->m->heads, width = s->m->width;
    matrix keys, values;
    heard(s->m, w->positions, s->layer, head, (char *)w->heard, &keys, &values);
    values.shift = NULL; /* shares are never negative */
    long padded = rounded_up(w->positions, GROUP), groups = padded / GROUP;
    float *scores = s->scratch + thread * s->scratch_floats;
    float *queries = scores + ROWS * padded, *scales = queries + ROWS * GROUP;
    uint8_t *bytes = (uint8_t *)(scales + ROWS * groups);
    int note = c->notes ? c->notes->number[s->layer * s->m->heads + head] : -1;
    for (int first = 0; first < w->rows; first += ROWS) {
        int rows = w->rows - first < ROWS ? w->rows - first : ROWS;
        float *y = s->y + (long)(w->first_row + first) * width + head * GROUP;
        activations input = {bytes, scales, queries, GROUP};
        for (int r = 0; r < rows; r++) {
            for (int i = 0; i < GROUP; i += LANES)
                store(queries + r * GROUP + i, load(y + (long)r * width + i) * all(0.125f));
            if (s->m->int8)
                scales[r] = quantise_group(queries + r * GROUP, bytes + r * GROUP, 128);
        }
        target to = {NULL, scores, padded, SET};
        for (int output = 0; output < keys.outputs; output += BLOCK)
            multiply(&keys, output, input, rows, &to);
        float total[ROWS];
        for (int r = 0; r < rows; r++) {
            float *x = scores + r * padded;
            total[r] = exponentials(x, w->positions, largest(x, w->positions));
            for (long i = w->positions; i < padded; i++) x[i] = 0;
            if (note >= 0) {
                float *out = c->notes->out, sum = 0;
                int kept = c->notes->positions;
                out += ((long)note * c->rows + w->first_row + first + r) * kept;
                for (int i = 0; i < kept; i++) sum += x[i];
                for (int i = 0; i < kept; i++) out[i] = x[i] / (sum > 0 ? sum : 1.0f);
            }
            if (s->m->int8) quantise(x, padded, bytes + r * padded, scales + r * groups, 0);
        }
        input = (activations){bytes, scales, scores, (int)padded};
        float *found = queries; /* not needed any more */
        to = (target){NULL, found, GROUP, SET};
        for (int output = 0; output < GROUP; output += BLOCK)
            multiply(&values, output, input, rows, &to);
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < GROUP; i += LANES)
                store(y + (long)r * width + i, load(found + r * GROUP + i) * all(1.0f / total[r]));
    }
}

/* Of a row's logits: the best text tokens, the mass of the others, and the special tokens. */
static void choose_task(void *what, int task, int thread) {
    (void)thread;
    step *s = what;
    const call *c = s->c;
    int text = s->m->text_tokens, specials = s->m->vocabulary - text;
    float *logits = s->logits + (long)task * s->outputs;
    int32_t *ids = c->ids + (long)task * CANDIDATES;
    float *best = c->logits + (long)task * CANDIDATES;
    memcpy(c->specials + (long)task * specials, logits + text, 4 * (size_t)specials);
    for (int i = 0; i < CANDIDATES; i++) ids[i] = i, best[i] = -INFINITY;
    for (int first = 0; first < text; first += LANES) {
        int many = text - first < LANES ? text - first : LANES;
        float most = many < LANES ? INFINITY : largest_of(load(logits + first));
        if (most <= best[CANDIDATES - 1]) continue;
        for (int i = first; i < first + many; i++) {
            float value = logits[i];
            if (!(value > best[CANDIDATES - 1])) continue;
            int at = CANDIDATES - 1;
            for (; at > 0 && value > best[at - 1]; at--) best[at] = best[at - 1], ids[at] = ids[at - 1];
            best[at] = value, ids[at] = i;
        }
    }
    for (int i = 0; i < CANDIDATES; i++) logits[ids[i]] = -INFINITY;
    c->mass[task] = exponentials(logits, text, best[0]);
}

/* One step. Returns false where there is no memory for it. */
bool decoder_step(team *t, const model *m, const call *c) {
    int width = m->width, inner = m->inner, rows = c->rows, asked = c->asked;
    int wide = inner > 3 * width ? inner : 3 * width, longest = 0, positions = 0;
    int outputs = (int)rounded_up(m->vocabulary, BLOCK);
    for (int r = 0; r < rows; r++)
        if (c->row[r].length > longest) longest = c->row[r].length;
    for (int i = 0; i < c->windows; i++)
        if (c->window[i].positions > positions) positions = c->window[i].positions;
    long padded = rounded_up(positions, GROUP);
    long audio = ROWS * (padded + GROUP + padded / GROUP + padded / 4 + GROUP);
    step s = {.t = t, .m = m, .c = c, .rows = rows, .outputs = outputs};
    s.scratch_floats = rounded_up(audio, LANES);
    if (longest > s.scratch_floats) s.scratch_floats = rounded_up(longest, LANES);
    if (inner > s.scratch_floats) s.scratch_floats = inner;
    long sizes[] = {(long)rows * wide, (long)rows * wide, (long)asked * outputs,
                    s.scratch_floats * t->threads, (long)rows * (wide / GROUP), (long)rows * wide / 4};
    long total = 0;
    for (int i = 0; i < 6; i++) total += sizes[i] = rounded_up(sizes[i], LANES);
    if (4 * (size_t)total > t->scratch_bytes) {
        free(t->scratch);
        t->scratch = aligned_alloc(64, 4 * (size_t)total);
        t->scratch_bytes = t->scratch ? 4 * (size_t)total : 0;
        if (!t->scratch) return false;
    }
    float *memory = (float *)t->scratch;
    s.y = memory, s.z = s.y + sizes[0], s.logits = s.z + sizes[1], s.scratch = s.logits + sizes[2];
    s.scales = s.scratch + sizes[3], s.bytes = (uint8_t *)(s.scales + sizes[4]);

    for (s.layer = 0; s.layer < m->layers; s.layer++) {
        const layer *l = &m->layer[s.layer];
        apply(&s, c->x, width, &l->text_norm, l->qkv, width, 3 * width, s.y, 3 * width, SET);
        for (const window *w = c->window; w < c->window + c->windows; w++)
            for (int r = w->first_row; r < w->first_row + w->rows; r++) remember(&s, w, r);
        share(t, rows, text_task, &s);
        apply(&s, s.y, 3 * width, NULL, l->text_out, width, width, c->x, width, ADD);
        apply(&s, c->x, width, &l->audio_norm, l->audio_query, width, width, s.y, width, SET);
        share(t, c->windows * m->heads, audio_task, &s);
        apply(&s, s.y, width, NULL, l->audio_out, width, width, c->x, width, ADD);
        apply(&s, c->x, width, &l->last_norm, l->up, width, inner, s.y, inner, SET_GELU);
        apply(&s, s.y, inner, NULL, l->down, inner, width, c->x, width, ADD);
    }
    for (int i = 0; i < asked; i++) {
        normalise(c->x + (long)c->asked_row[i] * width, &m->last_norm, width, s.y);
        memcpy(c->x + (long)i * width, s.y, 4 * (size_t)width);
    }
    if (asked) {
        s.rows = asked;
        apply(&s, c->x, width, NULL, m->head, width, m->vocabulary, s.logits, outputs, SET);
        share(t, asked, choose_task, &s);
    }
    return true;
}
