/* Whisper's audio encoder, and the keys and values of the decoder's cross-attention. Two kernels read
 * the same model: encoder.c, and tiled_encoder.c where the CPU has AMX. */
#pragma once
#include "team.h"
#include "weights.h"

enum { HEAD = 64, TAPS = 3 /* of a convolution */ };

/* How weights are packed, and what they are multiplied with. */
enum { FLOATS, INT8, TILES };

typedef struct { norm attention_norm, last_norm; linear qkv, out, up, down; } encoder_layer;

typedef struct {
    int32_t layers, width, inner, bins, heard_layers, kind;
    bool exact; /* else exponentials and GELU to 1e-4 */
    linear first, second; /* convolutions: inputs are (taps, bins), padded, and (taps, width) */
    const float *places;  /* (positions, width) */
    const encoder_layer *layer;
    norm last_norm;
    const linear *heard; /* of each of the decoder's layers: outputs are (keys or values, width) */
} encoder;

/* Inputs of the first convolution. */
static inline int first_inputs(const encoder *m) { return (int)rounded_up(TAPS * m->bins, HEAD); }

#pragma GCC visibility push(hidden)

void tiled_pack(team *t, const float *from, int outputs, int inputs, void *to);
bool tiled_run(team *t, const encoder *m, const float *features, int positions, void *const *to);

#pragma GCC visibility pop
