/* The encoder in int8, where the CPU has exact products of it (VNNI), or in float32: the layers that
 * the decoder has too, for 1500 rows.
 *
 * Python (encoder.py) owns all memory but the scratch, and checks all sizes.
 */
#include "encoder.h"
#include "layers.h"

enum { FEATURE_ROWS = 32, QUERY_ROWS = 4 * HEARING, TURNED_ROWS = 16 }; /* of a task */

typedef struct {
    flow f;
    const encoder *m;
    const float *features; /* (bins, 2 * positions) */
    int positions, layer;
    float *x; /* (positions, width): the residual stream */
    float *y; /* what layers give */
    char *packed; /* each head's keys and values */
    void *const *to;
} encoding;

/* The features at three times, as rows of the first convolution. */
static void features_task(void *what, int task, int thread) {
    (void)thread;
    const encoding *e = what;
    int frames = 2 * e->positions, inputs = first_inputs(e->m), first = task * FEATURE_ROWS;
    int rows = frames - first < FEATURE_ROWS ? frames - first : FEATURE_ROWS;
    float *to = (float *)e->packed + (long)first * inputs;
    memset(to, 0, 4 * (size_t)rows * inputs);
    for (int i = 0; i < TAPS * e->m->bins; i++) {
        const float *from = e->features + (long)(i % e->m->bins) * frames;
        for (int r = 0; r < rows; r++) {
            int frame = first + r + i / e->m->bins - 1;
            if (frame >= 0 && frame < frames) to[(long)r * inputs + i] = from[frame];
        }
    }
}

/* Where a head's keys and values lie; returns the bytes that all take. */
static long head_of(const encoding *e, int head, attention *a) {
    bool int8 = e->f.int8;
    long first = laid(&a->keys, e->positions, HEAD, int8, NULL);
    long both = first + laid(&a->values, HEAD, e->positions, int8, NULL);
    char *at = e->packed + both * head;
    laid(&a->keys, e->positions, HEAD, int8, at);
    laid(&a->values, HEAD, e->positions, int8, at + first);
    a->values.shift = NULL; /* shares are never negative */
    return both * (e->m->width / HEAD);
}

/* Packs BLOCK outputs that stand in columns, for products with numbers that are never
 * negative. Inputs are rows. */
static void pack_columns(const matrix *m, const float *from, long stride, int inputs, int first) {
    for (int output = first; output < first + BLOCK; output += LANES) {
        char *data = (char *)m->data + (m->scale ? 1L : 4L) * output * m->inputs;
        integers size = {};
        for (int k = 0; k < m->inputs; k++) {
            vector v = k < inputs ? load(from + k * stride + output) : (vector){};
            if (m->scale) size = larger_whole(size, (integers)v & 0x7fffffff);
            else store((float *)data + (long)k * LANES, v);
        }
        if (!m->scale) continue;
        float inverse[LANES];
        for (int i = 0; i < LANES; i++) {
            m->scale[output + i] = scale_of(((vector)size)[i]);
            inverse[i] = 1.0f / m->scale[output + i];
        }
        for (int k = 0; k < m->inputs; k += 4) {
            integers quads = {};
            for (int i = 0; i < 4 && k + i < inputs; i++) {
                vector v = load(from + (k + i) * stride + output);
                quads |= (rounded(v * load(inverse)) & 255) << 8 * i;
            }
            store((float *)data + (long)k * (LANES / 4), (vector)quads);
        }
    }
}

static void pack_head_task(void *what, int task, int thread) {
    (void)thread;
    const encoding *e = what;
    int width = e->m->width, head = task / 2;
    const float *keys = e->y + width + head * HEAD;
    attention a;
    head_of(e, head, &a);
    source key = {keys, false, e->positions, HEAD, 3L * width};
    for (int first = 0; task % 2 == 0 && first < a.keys.outputs; first += BLOCK)
        pack_block(&a.keys, &key, first);
    for (int first = 0; task % 2 == 1 && first < HEAD; first += BLOCK)
        pack_columns(&a.values, keys + width, 3L * width, e->positions, first);
}

/* What some rows hear with a head, in their queries' place. */
static void attention_task(void *what, int task, int thread) {
    const encoding *e = what;
    int parts = (e->positions + QUERY_ROWS - 1) / QUERY_ROWS, head = task / parts;
    int first = task % parts * QUERY_ROWS, last = first + QUERY_ROWS;
    long stride = 3L * e->m->width;
    attention a = {.positions = e->positions, .int8 = e->f.int8, .rough = !e->m->exact};
    head_of(e, head, &a);
    attention_memory(&a, e->f.scratch + thread * e->f.scratch_floats);
    if (last > e->positions) last = e->positions;
    for (int row = first; row < last; row += HEARING) {
        int rows = last - row < HEARING ? last - row : HEARING;
        float *y = e->y + row * stride + head * HEAD;
        score(&a, y, stride, rows);
        hear(&a, y, stride, rows);
    }
}

static inline void put(const encoding *e, void *to, long at, vector v) {
    if (e->m->kind == FLOATS) store((float *)to + at, v);
    else store_halves((uint16_t *)to + at, v);
}

/* Of some positions the keys and values of a decoder's layer: as a head has them, values turned. */
static void heard_task(void *what, int task, int thread) {
    (void)thread;
    const encoding *e = what;
    int width = e->m->width, parts = (e->positions + TURNED_ROWS - 1) / TURNED_ROWS;
    int head = task / parts, first = task % parts * TURNED_ROWS;
    int rows = e->positions - first < TURNED_ROWS ? e->positions - first : TURNED_ROWS;
    const float *from = e->y + 2L * first * width + head * HEAD;
    long begin = (long)head * e->positions * HEAD;
    void *const *to = e->to + 2 * e->layer;
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < HEAD; i += LANES)
            put(e, to[0], begin + (long)(first + r) * HEAD + i, load(from + 2L * r * width + i));
    for (int i = 0; i < HEAD; i++) {
        float turned[TURNED_ROWS];
        uint16_t halves[TURNED_ROWS];
        for (int r = 0; r < rows; r++) turned[r] = from[2L * r * width + width + i];
        long at = begin + (long)i * e->positions + first;
        if (e->m->kind == FLOATS) {
            memcpy((float *)to[1] + at, turned, 4 * (size_t)rows);
        } else {
            for (int r = rows; r < TURNED_ROWS; r++) turned[r] = 0;
            for (int r = 0; r < TURNED_ROWS; r += LANES) store_halves(halves + r, load(turned + r));
            memcpy((uint16_t *)to[1] + at, halves, 2 * (size_t)rows);
        }
    }
}

static inline long longest(long a, long b) { return a > b ? a : b; }

/* Encodes a window. Returns false where there is no memory for it. */
static bool plain_run(team *t, const encoder *m, const float *features, int positions,
                      void *const *to) {
    encoding e = {.f = {.t = t, .int8 = m->kind == INT8}, .m = m, .features = features,
                  .positions = positions, .to = to};
    flow *f = &e.f;
    attention a;
    int width = m->width, inner = m->inner, inputs = first_inputs(m), frames = 2 * positions;
    int wide = (int)longest(longest(3 * width, inner), inputs);
    long prepared = longest(rounded_up(frames, TILE) * inputs, rounded_up(positions, TILE) * wide);
    f->scratch_floats = rounded_up(longest(wide, attention_floats(positions)), LINE);
    long sizes[] = {(long)positions * width,
                    longest((frames + 1L) * width, (long)positions * wide),
                    longest(head_of(&e, 0, &a) / 4, (long)frames * inputs),
                    f->scratch_floats * t->threads,
                    f->int8 ? prepared / GROUP : prepared,
                    f->int8 ? prepared / 4 : 0};
    long total = 0;
    for (int i = 0; i < 6; i++) total += sizes[i] = rounded_up(sizes[i], LINE);
    e.x = scratch(t, 4 * total);
    if (!e.x) return false;
    e.y = e.x + sizes[0], e.packed = (char *)(e.y + sizes[1]);
    f->scratch = (float *)e.packed + sizes[2];
    f->floats = f->scales = f->scratch + sizes[3], f->bytes = (uint8_t *)(f->scales + sizes[4]);

    int after = m->exact ? SET_GELU : SET_ROUGH_GELU;
    share(t, (frames + FEATURE_ROWS - 1) / FEATURE_ROWS, features_task, &e);
    memset(e.y, 0, 4 * (size_t)width);
    f->rows = frames;
    apply(f, (float *)e.packed, inputs, NULL, m->first, inputs, width, e.y + width, width, after);
    f->rows = positions;
    apply(f, e.y, 2 * width, NULL, m->second, TAPS * width, width, e.x, width, after);
    for (long i = 0; i < (long)positions * width; i += LANES)
        store(e.x + i, load(e.x + i) + load(m->places + i));
    for (const encoder_layer *l = m->layer; l < m->layer + m->layers; l++) {
        apply(f, e.x, width, &l->attention_norm, l->qkv, width, 3 * width, e.y, 3 * width, SET);
        share(t, width / HEAD * 2, pack_head_task, &e);
        share(t, width / HEAD * ((positions + QUERY_ROWS - 1) / QUERY_ROWS), attention_task, &e);
        apply(f, e.y, 3 * width, NULL, l->out, width, width, e.x, width, ADD);
        apply(f, e.x, width, &l->last_norm, l->up, width, inner, e.y, inner, after);
        apply(f, e.y, inner, NULL, l->down, inner, width, e.x, width, ADD);
    }
    prepare(f, e.x, width, &m->last_norm, width);
    for (e.layer = 0; e.layer < m->heard_layers; e.layer++) {
        through(f, m->heard[e.layer], 2 * width, e.y, 2 * width, SET);
        share(t, width / HEAD * ((positions + TURNED_ROWS - 1) / TURNED_ROWS), heard_task, &e);
    }
    return true;
}

/* ---- what Python calls ----------------------------------------------------------------------- */

/* To be called first: false where the system does not let the process run this variant. */
bool kernels_begin(void) { return allowed_tiles(); }

/* What this variant multiplies fastest. */
int encoder_kind(void) {
#if defined __AMX_BF16__
    return TILES;
#elif defined HAS_VNNI
    return INT8;
#else
    return FLOATS;
#endif
}

long encoder_matrix_bytes(int kind, int outputs, int inputs) {
    matrix m;
    return kind == TILES ? 2L * outputs * inputs : laid(&m, outputs, inputs, kind == INT8, NULL);
}

/* Packs weights (outputs, inputs): multiples of 64. */
void encoder_pack(team *t, int kind, const float *from, int outputs, int inputs, void *to) {
#ifdef __AMX_BF16__
    if (kind == TILES) { tiled_pack(t, from, outputs, inputs, to); return; }
#endif
    pack_matrix(t, from, outputs, inputs, kind == INT8, to);
}

/* Encodes a window: each of the decoder's layers' keys (heads, positions, 64) and values (heads, 64,
 * positions); in float32, or in bfloat16 where the weights are less. Returns false where there is no
 * memory for it. */
bool encoder_run(team *t, const encoder *m, const float *features, int positions, void *const *to) {
#ifdef __AMX_BF16__
    if (m->kind == TILES) return tiled_run(t, m, features, positions, to);
#endif
    return plain_run(t, m, features, positions, to);
}
