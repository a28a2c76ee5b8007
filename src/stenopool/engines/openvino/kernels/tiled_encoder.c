/* The encoder for CPUs with AMX, whose products in bfloat16 are so fast that everything else counts:
 * what leaves a product is finished (bias, GELU, the sum with what it is added to) while it is in the
 * cache, and laid down as the next product reads it. Sums, norms and softmax are float32.
 */
#ifdef __AMX_BF16__
#include "encoder.h"
#include "tiles.h"

enum {
    ATTENDED = 4,          /* squares of scores whose exponentials are kept */
    STRIP_BYTES = 1 << 19, /* of weights, which stay in a core's cache while all rows pass by */
};

typedef struct encoding {
    team *t;
    const encoder *m;
    const float *features; /* (bins, 2 * positions) */
    void *const *to;       /* of each of the decoder's layers keys (heads, positions, 64) and values
                              (heads, 64, positions) */
    int positions, rows;   /* rows: positions padded to SQUARE */
    float *x;              /* (rows, width): the residual stream */
    half *narrow, *wide;   /* rows that a product reads */
    half *queries;         /* (heads, rows, 64) as rows */
    half *keys, *values;   /* the same as weights: of outputs (positions), of inputs (positions) */
    half *frames;          /* (2 * rows + 1, width): the first convolution's, after a row of zeros */
    const norm *norm;
    const half *input;
    linear linear;
    int inputs, outputs, blocks;
    void (*take)(const struct encoding *, const float *found, int row, int output);
} encoding;

/* ---- products, and where they go ------------------------------------------------------------- */

/* Outputs whose weights stay in a core's cache. */
static inline int strip_of(int inputs) {
    int strip = STRIP_BYTES / (2 * inputs) / SQUARE * SQUARE;
    return strip < SQUARE ? SQUARE : strip;
}

static void product_task(void *what, int task, int thread) {
    (void)thread;
    const encoding *e = what;
    float found[2][SQUARE * SQUARE] __attribute__((aligned(64)));
    int strip = strip_of(e->inputs);
    int first = task / e->blocks * strip, row = task % e->blocks * SQUARE;
    int last = first + strip < e->outputs ? first + strip : e->outputs;
    long next = (long)e->inputs * TILE;
    begin_tiles();
    /* One square is multiplied while the one before is taken. */
    for (int output = first; output < last + SQUARE; output += SQUARE) {
        const half *weight = (const half *)e->linear.weight + output / TILE * next;
        if (output < last)
            product(e->input + row / TILE * next, next, weight, next, e->inputs / DEPTH,
                    found[output / SQUARE % 2], false);
        if (output > first) e->take(e, found[(output / SQUARE + 1) % 2], row, output - SQUARE);
    }
    end_tiles();
}

/* Rows through a linear layer. */
static void apply(encoding *e, const half *input, int rows, int inputs, linear l, int outputs,
                  void (*take)(const encoding *, const float *, int, int)) {
    int strip = strip_of(inputs);
    e->input = input, e->inputs = inputs, e->linear = l, e->outputs = outputs, e->take = take;
    e->blocks = rows / SQUARE;
    share(e->t, (outputs + strip - 1) / strip * e->blocks, product_task, e);
}

static inline vector biased(const encoding *e, const float *found, int row, int output, int right) {
    return load(found + row * SQUARE + right * LANES) +
           load(e->linear.bias + output + right * LANES);
}

static void take_sum(const encoding *e, const float *found, int row, int output) {
    for (int r = 0; r < SQUARE; r++)
        for (int right = 0; right < 2; right++) {
            float *x = e->x + (long)(row + r) * e->m->width + output + right * LANES;
            store(x, load(x) + biased(e, found, r, output, right));
        }
}

static void take_gelu(const encoding *e, const float *found, int row, int output) {
    for (int r = 0; r < SQUARE; r++)
        for (int right = 0; right < 2; right++)
            store_halves(at_row(e->wide, e->outputs, row + r, output) + right * LANES,
                         gelu_for_halves(biased(e, found, r, output, right)));
}

static void take_frames(const encoding *e, const float *found, int row, int output) {
    for (int r = 0; r < SQUARE; r++)
        for (int right = 0; right < 2; right++)
            store_halves(e->frames + (long)(row + r + 1) * e->m->width + output + right * LANES,
                         gelu_for_halves(biased(e, found, r, output, right)));
}

static void take_start(const encoding *e, const float *found, int row, int output) {
    for (int r = 0; r < SQUARE; r++)
        for (int right = 0; right < 2; right++) {
            long at = (long)(row + r) * e->m->width + output + right * LANES;
            vector place = row + r < e->positions ? load(e->m->places + at) : (vector){};
            store(e->x + at, gelu_for_halves(biased(e, found, r, output, right)) + place);
        }
}

/* Of 16 outputs of two rows: a pair of bfloat16 each. */
static inline vector paired(const encoding *e, const float *found, int row, int output, int right) {
    integers first = rounded_half(biased(e, found, row, output, right));
    integers second = rounded_half(biased(e, found, row + 1, output, right));
    return (vector)((first >> 16 & 0xffff) | (second & ~0xffff));
}

static void take_qkv(const encoding *e, const float *found, int row, int output) {
    int width = e->m->width, kind = output / width, within = output % HEAD;
    long head = (long)(output % width / HEAD) * e->rows * HEAD;
    for (int r = 0; kind == 0 && r < SQUARE; r++)
        for (int right = 0; right < 2; right++) /* so that scores are exponents of 2 */
            store_halves(at_row(e->queries + head, HEAD, row + r, within) + right * LANES,
                         biased(e, found, r, output, right) * all(0.125f * 1.44269504f));
    for (int first = 0; kind == 1 && first < SQUARE; first += TILE) {
        uint32_t pairs[TILE][TILE];
        for (int r = 0; r < TILE; r++)
            for (int right = 0; right < 2; right++)
                store_halves((half *)pairs[r] + right * LANES,
                             biased(e, found, first + r, output, right));
        long tile = (row + first) / TILE * (HEAD / DEPTH) + within / DEPTH;
        turn(pairs, (uint32_t(*)[TILE])(e->keys + head + tile * TILE_SIZE));
    }
    for (int r = 0; kind == 2 && r < SQUARE; r += 2)
        for (int right = 0; right < 2; right++) {
            long tile = (within / TILE + right) * (e->rows / DEPTH) + row / DEPTH;
            half *to = e->values + head + tile * TILE_SIZE + r * TILE;
            store((float *)to, paired(e, found, r, output, right));
        }
}

static void take_heard(const encoding *e, const float *found, int row, int output) {
    int width = e->m->width, within = output % HEAD, positions = e->positions;
    half *to = (half *)e->to[output / width] + (long)(output % width / HEAD) * positions * HEAD;
    int rows = positions - row < SQUARE ? positions - row : SQUARE;
    bool is_keys = output / width % 2 == 0;
    for (int r = 0; is_keys && r < rows; r++)
        for (int right = 0; right < 2; right++)
            store_halves(to + (long)(row + r) * HEAD + within + right * LANES,
                         biased(e, found, r, output, right));
    for (int right = 0; !is_keys && right < 2; right++) {
        uint32_t pairs[TILE][TILE], turned[TILE][TILE];
        for (int r = 0; r < TILE; r++)
            store((float *)pairs[r], paired(e, found, 2 * r, output, right));
        turn(pairs, turned);
        half *first = to + (long)(within + right * TILE) * positions + row;
        for (int i = 0; i < TILE; i++)
            memcpy(first + (long)i * positions, turned[i], 2 * (size_t)rows);
    }
}

/* ---- what is between them ------------------------------------------------------------------- */

/* The features at three times, as rows of the first convolution. */
static void features_task(void *what, int task, int thread) {
    (void)thread;
    const encoding *e = what;
    int frames = 2 * e->positions, first = task * SQUARE, inputs = e->inputs;
    for (int r = 0; r < SQUARE; r++)
        for (int i = 0; i < inputs; i += DEPTH)
            memset(at_row(e->wide, inputs, first + r, i), 0, 2 * DEPTH);
    for (int i = 0; i < TAPS * e->m->bins; i++) {
        const float *from = e->features + (long)(i % e->m->bins) * frames;
        for (int r = 0; r < SQUARE; r++) {
            int frame = first + r + i / e->m->bins - 1;
            half *to = at_row(e->wide, inputs, first + r, i / DEPTH * DEPTH) + i % DEPTH;
            if (frame >= 0 && frame < frames) *to = half_of(from[frame]);
        }
    }
}

/* Three frames, two further for each row, as rows of the second convolution. */
static void frames_task(void *what, int task, int thread) {
    (void)thread;
    const encoding *e = what;
    int width = e->m->width;
    for (int row = task * SQUARE; row < (task + 1) * SQUARE; row++)
        for (int i = 0; i < TAPS * width; i += DEPTH)
            memcpy(at_row(e->wide, TAPS * width, row, i), e->frames + 2L * row * width + i,
                   2 * DEPTH);
}

static void norm_task(void *what, int task, int thread) {
    (void)thread;
    const encoding *e = what;
    int width = e->m->width;
    for (int row = task * SQUARE; row < (task + 1) * SQUARE; row++) {
        const float *x = e->x + (long)row * width;
        vector mean, spread;
        moments(x, width, &mean, &spread);
        for (int i = 0; i < width; i += LANES) {
            vector apart = (load(x + i) - mean) * spread;
            half *to = at_row(e->narrow, width, row, i / DEPTH * DEPTH) + i % DEPTH;
            store_halves(to, apart * load(e->norm->weight + i) + load(e->norm->bias + i));
        }
    }
}

static void normalise(encoding *e, const norm *n) {
    e->norm = n;
    share(e->t, e->rows / SQUARE, norm_task, e);
}

/* Of a square of scores those of positions that only fill its tiles become the smallest. */
static void leave_out(const encoding *e, int square, float *scores) {
    int after = e->positions - square * SQUARE;
    if (after >= SQUARE) return;
    for (int r = 0; r < SQUARE; r++)
        for (int i = after; i < SQUARE; i++) scores[r * SQUARE + i] = -INFINITY;
}

/* What 32 rows of a head hear of all positions. Their scores are computed twice, for the largest and
 * for their exponentials: to keep them takes longer, as they do not fit into the nearest cache. One
 * square is multiplied while the one before is worked on. */
static void attention_task(void *what, int task, int thread) {
    (void)thread;
    const encoding *e = what;
    int squares = e->rows / SQUARE, head = task / squares, row = task % squares * SQUARE;
    long begin = (long)head * e->rows * HEAD, length = (long)squares * TILE_SIZE;
    const half *queries = e->queries + begin + (long)row * HEAD, *keys = e->keys + begin;
    const half *values = e->values + begin;
    const long next = TILE * HEAD; /* to the next 16 rows */
    float scores[2][SQUARE * SQUARE] __attribute__((aligned(64)));
    float heard[HEAD / SQUARE][SQUARE * SQUARE] __attribute__((aligned(64))) = {};
    half shares[ATTENDED * 2 * TILE_SIZE] __attribute__((aligned(64)));
    vector most[SQUARE], sums[SQUARE] = {};
    for (int r = 0; r < SQUARE; r++) most[r] = all(-INFINITY);
    begin_tiles();
    for (int i = 0; i <= squares; i++) {
        if (i < squares)
            product(queries, next, keys + 2 * next * i, next, HEAD / DEPTH, scores[i % 2], false);
        if (!i) continue;
        float *from = scores[(i + 1) % 2];
        leave_out(e, i - 1, from);
        for (int r = 0; r < SQUARE; r++, from += SQUARE)
            most[r] = larger(most[r], larger(load(from), load(from + LANES)));
    }
    for (int r = 0; r < SQUARE; r++) most[r] = all(largest_of(most[r]));
    for (int i = 0; i <= squares; i++) {
        if (i < squares)
            product(queries, next, keys + 2 * next * i, next, HEAD / DEPTH, scores[i % 2], false);
        if (!i) continue;
        int before = (i - 1) % ATTENDED;
        float *from = scores[(i + 1) % 2];
        leave_out(e, i - 1, from);
        for (int r = 0; r < SQUARE; r++, from += SQUARE) {
            half *to = at_row(shares, ATTENDED * DEPTH, r, before * DEPTH);
            vector left = power_of_two(load(from) - most[r]);
            vector right = power_of_two(load(from + LANES) - most[r]);
            sums[r] += left + right;
            store_halves(to, left);
            store_halves(to + LANES, right);
        }
        const half *value = values + (long)(i - 1 - before) * TILE_SIZE;
        for (int k = 0; (before == ATTENDED - 1 || i == squares) && k < HEAD / SQUARE; k++)
            product(shares, ATTENDED * TILE_SIZE, value + 2 * k * length, length, before + 1, heard[k],
                    true);
    }
    end_tiles();
    for (int r = 0; r < SQUARE; r++) {
        vector share = all(1.0f / sum_of(sums[r]));
        for (int i = 0; i < HEAD; i += LANES) {
            half *to = at_row(e->narrow, e->m->width, row + r, head * HEAD + i / DEPTH * DEPTH);
            store_halves(to + i % DEPTH, load(heard[i / SQUARE] + r * SQUARE + i % SQUARE) * share);
        }
    }
}

/* ---- packing -------------------------------------------------------------------------------- */

typedef struct { const float *from; int inputs; half *to; } packing;

static void pack_task(void *what, int task, int thread) {
    (void)thread;
    const packing *p = what;
    for (int input = 0; input < p->inputs; input += DEPTH) {
        uint32_t pairs[TILE][TILE];
        for (int i = 0; i < TILE; i++) {
            const float *from = p->from + (long)(task * TILE + i) * p->inputs + input;
            for (int right = 0; right < 2; right++)
                store_halves((half *)pairs[i] + right * LANES, load(from + right * LANES));
        }
        long tile = (long)task * (p->inputs / DEPTH) + input / DEPTH;
        turn(pairs, (uint32_t(*)[TILE])(p->to + tile * TILE_SIZE));
    }
}

void tiled_pack(team *t, const float *from, int outputs, int inputs, void *to) {
    packing p = {from, inputs, to};
    share(t, outputs / TILE, pack_task, &p);
}

/* ---- a window ------------------------------------------------------------------------------- */

/* Encodes a window. Returns false where there is no memory for it. */
bool tiled_run(team *t, const encoder *m, const float *features, int positions, void *const *to) {
    encoding e = {.t = t, .m = m, .features = features, .positions = positions, .to = to};
    int width = m->width, rows = e.rows = (int)rounded_up(positions, SQUARE);
    int inputs = first_inputs(m);
    long wide = TAPS * width > m->inner ? TAPS * width : m->inner;
    if (2 * inputs > wide) wide = 2 * inputs;
    long line = (long)rows * width;
    e.x = scratch(t, 4 * line + 2 * (4 * line + width + rows * wide));
    if (!e.x) return false;
    e.narrow = (half *)(e.x + line), e.wide = e.narrow + line, e.queries = e.wide + rows * wide;
    e.keys = e.queries + line, e.values = e.keys + line, e.frames = e.queries;

    e.inputs = inputs;
    share(t, 2 * rows / SQUARE, features_task, &e);
    memset(e.frames, 0, 2 * (size_t)width);
    apply(&e, e.wide, 2 * rows, inputs, m->first, width, take_frames);
    share(t, rows / SQUARE, frames_task, &e);
    apply(&e, e.wide, rows, TAPS * width, m->second, width, take_start);
    for (const encoder_layer *l = m->layer; l < m->layer + m->layers; l++) {
        normalise(&e, &l->attention_norm);
        apply(&e, e.narrow, rows, width, l->qkv, 3 * width, take_qkv);
        share(t, width / HEAD * (rows / SQUARE), attention_task, &e);
        apply(&e, e.narrow, rows, width, l->out, width, take_sum);
        normalise(&e, &l->last_norm);
        apply(&e, e.narrow, rows, width, l->up, m->inner, take_gelu);
        apply(&e, e.wide, rows, m->inner, l->down, width, take_sum);
    }
    normalise(&e, &m->last_norm);
    for (int layer = 0; layer < m->heard_layers; layer++, e.to += 2)
        apply(&e, e.narrow, rows, width, m->heard[layer], 2 * width, take_heard);
    return true;
}
#endif
