/* Whisper's text decoder for CPUs: one call feeds some tokens and says what follows each.
 *
 * A step is bound by what it reads: each layer's weights, and each window's keys and values of the
 * cross-attention. So both are int8 where the CPU has AVX2, packed once so that they are read front
 * to back, and shared by all rows (a row is a token of a hypothesis). Activations are quantised
 * in groups of 64 by the group's own largest value. No row's numbers depend on another row, nor on
 * the number of threads.
 *
 * Without AVX2, or where float32 is asked for, everything is float32.
 *
 * Python (decoder.py) owns all memory but the scratch of a call, and checks all sizes.
 */
#include "layers.h"

enum { CANDIDATES = 16 }; /* most probable text tokens that are told of each row */

/* ---- the model ------------------------------------------------------------------------------ */

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
    source key = {from[0] + at, h->half, h->positions, GROUP, GROUP};
    source value = {from[1] + at, h->half, GROUP, h->positions, h->positions};
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

bool decoder_has_int8(void) {
#ifdef HAS_INT8
    return true;
#else
    return false;
#endif
}

long decoder_matrix_bytes(int outputs, int inputs, bool int8) {
    matrix m;
    return laid(&m, outputs, inputs, int8, NULL);
}

void decoder_pack(team *t, const float *from, int outputs, int inputs, bool int8, void *to) {
    pack_matrix(t, from, outputs, inputs, int8, to);
}

/* ---- a step --------------------------------------------------------------------------------- */

/* A window and the rows that hear it, which stand together. `past` has the keys and values of its
 * tokens so far, its nodes: (layers, 2, heads, nodes, 64); in bfloat16 where the weights are int8, as
 * it is read in every step. */
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
    flow f;
    const model *m;
    const call *c;
    int layer;
    float *y, *logits;
} step;

static inline long number_bytes(const model *m) { return m->int8 ? 2 : 4; }

/* The layer's keys (0) or values (1) of a window's nodes, of one head. */
static inline char *plane(const step *s, const window *w, int kind, int head) {
    long before = (2L * s->layer + kind) * s->m->heads + head;
    return w->past + before * w->nodes * GROUP * number_bytes(s->m);
}

static inline vector remembered(const char *node, int at, bool half) {
    return half ? from_halves((const uint16_t *)node + at) : load((const float *)node + at);
}

/* A node of a head: where it lies next in memory the CPU cannot know. */
static inline void read_ahead(const char *node) {
    __builtin_prefetch(node);
    __builtin_prefetch(node + 64);
}

/* Keeps the keys and values of a row. */
static void remember(const step *s, const window *w, int row) {
    const token *r = &s->c->row[row];
    const float *from = s->y + (long)row * 3 * s->m->width + s->m->width;
    for (int kind = 0; kind < 2; kind++)
        for (int head = 0; head < s->m->heads; head++, from += GROUP) {
            char *to = plane(s, w, kind, head) + r->path[r->length - 1] * GROUP * number_bytes(s->m);
            for (int i = 0; i < GROUP; i += LANES) {
                if (s->m->int8) store_halves((uint16_t *)to + i, load(from + i));
                else store((float *)to + i, load(from + i));
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
    float *query = s->y + (long)task * 3 * s->m->width;
    float *scores = s->f.scratch + thread * s->f.scratch_floats;
    bool half = s->m->int8;
    long stride = GROUP * number_bytes(s->m), next = w->nodes * stride; /* to the next head */
    for (int head = 0; head < s->m->heads; head++, query += GROUP) {
        const char *keys = plane(s, w, 0, head), *values = plane(s, w, 1, head);
        vector q[GROUP / LANES], sum[GROUP / LANES];
        for (int i = 0; i < GROUP / LANES; i++) q[i] = load(query + i * LANES), sum[i] = (vector){};
        for (int t = 0; t < r->length; t++) {
            const char *key = keys + r->path[t] * stride;
            read_ahead(values + r->path[t] * stride);
            vector dot = {};
            for (int i = 0; i < GROUP / LANES; i++) dot += q[i] * remembered(key, i * LANES, half);
            scores[t] = sum_of(dot) * 0.125f;
        }
        float total = exponentials(scores, r->length, largest(scores, r->length), false);
        for (int t = 0; t < r->length; t++) {
            const char *value = values + r->path[t] * stride;
            read_ahead(keys + next + r->path[t] * stride);
            vector share = all(scores[t]);
            for (int i = 0; i < GROUP / LANES; i++)
                sum[i] += share * remembered(value, i * LANES, half);
        }
        for (int i = 0; i < GROUP / LANES; i++) store(query + i * LANES, sum[i] * all(1.0f / total));
    }
}

/* Tells to which positions rows attend with a head, of the first ones only. */
static void note(const notes *n, const attention *a, float *out, int rows) {
    for (int r = 0; r < rows; r++, out += n->positions) {
        const float *x = a->scores + r * a->padded;
        float sum = 0;
        for (int i = 0; i < n->positions; i++) sum += x[i];
        for (int i = 0; i < n->positions; i++) out[i] = x[i] / (sum > 0 ? sum : 1.0f);
    }
}

/* Cross-attention of a window's rows with one head: y is the queries and then the result. */
static void audio_task(void *what, int task, int thread) {
    step *s = what;
    const call *c = s->c;
    const window *w = &c->window[task / s->m->heads];
    int head = task % s->m->heads, width = s->m->width;
    attention a = {.positions = w->positions, .int8 = s->m->int8};
    heard(s->m, w->positions, s->layer, head, (char *)w->heard, &a.keys, &a.values);
    a.values.shift = NULL; /* shares are never negative */
    attention_memory(&a, s->f.scratch + thread * s->f.scratch_floats);
    long number = c->notes ? c->notes->number[s->layer * s->m->heads + head] : -1;
    for (int first = 0; first < w->rows; first += HEARING) {
        int rows = w->rows - first < HEARING ? w->rows - first : HEARING, row = w->first_row + first;
        float *y = s->y + (long)row * width + head * GROUP;
        score(&a, y, width, rows);
        if (number >= 0)
            note(c->notes, &a, c->notes->out + (number * c->rows + row) * c->notes->positions, rows);
        hear(&a, y, width, rows);
    }
}

/* Of a row's logits: the best text tokens, the mass of the others, and the special tokens. */
static void choose_task(void *what, int task, int thread) {
    (void)thread;
    step *s = what;
    const call *c = s->c;
    int text = s->m->text_tokens, specials = s->m->vocabulary - text;
    float *logits = s->logits + task * rounded_up(s->m->vocabulary, BLOCK);
    int32_t *ids = c->ids + (long)task * CANDIDATES;
    float *best = c->logits + (long)task * CANDIDATES;
    memcpy(c->specials + (long)task * specials, logits + text, 4 * (size_t)specials);
    for (int i = 0; i < CANDIDATES; i++) ids[i] = i, best[i] = -INFINITY;
    for (int first = 0; first < text; first += GROUP) {
        int many = text - first < GROUP ? text - first : GROUP;
        if (largest(logits + first, many) <= best[CANDIDATES - 1]) continue;
        for (int i = first; i < first + many; i++) {
            float value = logits[i];
            if (!(value > best[CANDIDATES - 1])) continue;
            int at = CANDIDATES - 1;
            for (; at > 0 && value > best[at - 1]; at--) best[at] = best[at - 1], ids[at] = ids[at - 1];
            best[at] = value, ids[at] = i;
        }
    }
    for (int i = 0; i < CANDIDATES; i++) logits[ids[i]] = -INFINITY;
    c->mass[task] = exponentials(logits, text, best[0], false);
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
    long audio = attention_floats(positions), most = audio > wide ? audio : wide;
    step s = {.f = {.t = t, .int8 = m->int8, .rows = rows}, .m = m, .c = c};
    flow *f = &s.f;
    f->scratch_floats = rounded_up(most > longest ? most : longest, LANES);
    long filled = rounded_up(rows, TILE);
    long sizes[] = {(long)rows * wide, (long)rows * wide, (long)asked * outputs,
                    f->scratch_floats * t->threads, filled * (wide / GROUP), filled * wide / 4};
    long total = 0;
    for (int i = 0; i < 6; i++) total += sizes[i] = rounded_up(sizes[i], LINE);
    float *memory = scratch(t, 4 * total);
    if (!memory) return false;
    s.y = memory, f->floats = s.y + sizes[0], s.logits = f->floats + sizes[1];
    f->scratch = s.logits + sizes[2], f->scales = f->scratch + sizes[3];
    f->bytes = (uint8_t *)(f->scales + sizes[4]);

    for (s.layer = 0; s.layer < m->layers; s.layer++) {
        const layer *l = &m->layer[s.layer];
        apply(f, c->x, width, &l->text_norm, l->qkv, width, 3 * width, s.y, 3 * width, SET);
        for (const window *w = c->window; w < c->window + c->windows; w++)
            for (int r = w->first_row; r < w->first_row + w->rows; r++) remember(&s, w, r);
        share(t, rows, text_task, &s);
        apply(f, s.y, 3 * width, NULL, l->text_out, width, width, c->x, width, ADD);
        apply(f, c->x, width, &l->audio_norm, l->audio_query, width, width, s.y, width, SET);
        share(t, c->windows * m->heads, audio_task, &s);
        apply(f, s.y, width, NULL, l->audio_out, width, width, c->x, width, ADD);
        apply(f, c->x, width, &l->last_norm, l->up, width, inner, s.y, inner, SET_GELU);
        apply(f, s.y, inner, NULL, l->down, inner, width, c->x, width, ADD);
    }
    for (int i = 0; i < asked; i++) {
        normalise(c->x + (long)c->asked_row[i] * width, &m->last_norm, width, s.y);
        memcpy(c->x + (long)i * width, s.y, 4 * (size_t)width);
    }
    if (asked) {
        f->rows = asked;
        apply(f, c->x, width, NULL, m->head, width, m->vocabulary, s.logits, outputs, SET);
        share(t, asked, choose_task, &s);
    }
    return true;
}
