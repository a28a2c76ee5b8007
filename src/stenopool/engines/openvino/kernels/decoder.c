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
#include "product.h"

enum { CANDIDATES = 16 }; /* most probable text tokens that are told of each row */

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
    vector mean, spread;
    moments(x, width, &mean, &spread);
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
    if (s->input.tiled) begin_tiles();
    for (int output = task * TOGETHER; output < last; output += BLOCK)
        multiply(&s->matrix, output, s->input, s->rows, &s->target);
    if (s->input.tiled) end_tiles();
}

/* Rows of `from` through a linear layer. */
static void apply(step *s, const float *from, long stride, const norm *n, linear l, int inputs,
                  int outputs, float *out, long out_stride, int how) {
    s->from = (float *)from, s->from_stride = stride, s->norm = n;
    bool tiled = s->m->int8 && s->rows >= FEWEST_ROWS;
    s->input = (activations){s->bytes, s->scales, s->z, inputs, tiled};
    share(s->t, s->rows, prepare_task, s);
    laid(&s->matrix, outputs, inputs, s->m->int8, (char *)l.weight);
    s->target = (target){l.bias, out, out_stride, how};
    share(s->t, (int)(rounded_up(s->matrix.outputs, TOGETHER) / TOGETHER), product_task, s);
}

/* exp(x - largest) in place; returns the sum. */
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
    float *scores = s->scratch + thread * s->scratch_floats;
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
        float total = exponentials(scores, r->length, largest(scores, r->length));
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
        activations input = {bytes, scales, queries, GROUP, false};
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
        input = (activations){bytes, scales, scores, (int)padded, false};
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
    long most = audio > wide ? audio : wide, filled = rounded_up(rows, TILE);
    s.scratch_floats = rounded_up(most > longest ? most : longest, LANES);
    long sizes[] = {(long)rows * wide, (long)rows * wide, (long)asked * outputs,
                    s.scratch_floats * t->threads, filled * (wide / GROUP), filled * wide / 4};
    long total = 0;
    for (int i = 0; i < 6; i++) total += sizes[i] = rounded_up(sizes[i], LANES);
    float *memory = scratch(t, 4 * total);
    if (!memory) return false;
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
