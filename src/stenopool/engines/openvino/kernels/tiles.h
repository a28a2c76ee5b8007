/* Products in bfloat16, 32 rows with 32 outputs at a time, summed in float32.
 *
 * Numbers lie in tiles of 1 KiB, one after the other as they are read: those of rows as
 * [rows / 16][inputs / 32][16][32], those of weights as [outputs / 16][inputs / 32][16][16][2], so
 * that a tile's neighbour in memory is the next in depth. */
#pragma once
#include "vectors.h"
#ifdef __AMX_BF16__
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum {
    TILE = 16,       /* rows or outputs of a tile */
    DEPTH = 32,      /* inputs of a tile */
    TILE_SIZE = 512, /* numbers of a tile */
    SQUARE = 32,     /* rows and outputs of a product */
};

typedef uint16_t half;

/* Where 32 inputs of a row lie, of which `input` is the first. */
static inline half *at_row(half *rows, int inputs, int row, int input) {
    long tile = (long)(row / TILE) * (inputs / DEPTH) + input / DEPTH;
    return rows + tile * TILE_SIZE + row % TILE * DEPTH;
}

static inline float number_of(half bits) {
    uint32_t upper = (uint32_t)bits << 16;
    float number;
    memcpy(&number, &upper, 4);
    return number;
}

static inline half half_of(float number) { return (half)(rounded_half(all(number))[0] >> 16); }

#ifdef __AMX_BF16__
/* Asks the system to let the process use the CPU's tile registers; once, before all else. */
static inline bool allowed_tiles(void) {
    enum { REQUEST = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}

/* The tile registers, for the thread that calls. */
static inline void begin_tiles(void) {
    /* Static: of a variable the compiler knows only that its first bytes are read. */
    static const struct {
        uint8_t palette, start, unused[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {
        .palette = 1,
        .bytes = {64, 64, 64, 64, 64, 64, 64, 64},
        .rows = {TILE, TILE, TILE, TILE, TILE, TILE, TILE, TILE},
    };
    _tile_loadconfig(&shape);
}

static inline void end_tiles(void) { _tile_release(); }

/* Adds 32 rows times 32 outputs to out (32, 32), or sets it to that. So many numbers further
 * (`next`) begin the second 16 of each. */
static inline __attribute__((always_inline)) void product(
    const half *rows, long rows_next, const half *weights, long weights_next, int tiles, float *out,
    const bool add) {
    __asm__ volatile("" ::: "memory"); /* GCC 12 does not know that loading tiles reads memory */
    if (add) {
        _tile_loadd(0, out, 128);
        _tile_loadd(1, out + TILE, 128);
        _tile_loadd(2, out + TILE * SQUARE, 128);
        _tile_loadd(3, out + TILE * SQUARE + TILE, 128);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (long at = 0; at < (long)tiles * TILE_SIZE; at += TILE_SIZE) {
        _tile_loadd(4, rows + at, 64);
        _tile_loadd(6, weights + at, 64);
        _tile_loadd(7, weights + weights_next + at, 64);
        _tile_loadd(5, rows + rows_next + at, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, out, 128);
    _tile_stored(1, out + TILE, 128);
    _tile_stored(2, out + TILE * SQUARE, 128);
    _tile_stored(3, out + TILE * SQUARE + TILE, 128);
}
#else
static inline bool allowed_tiles(void) { return true; }
static inline void begin_tiles(void) {}
static inline void end_tiles(void) {}
#endif

/* Rows become columns. */
static inline void turn(const uint32_t from[TILE][TILE], uint32_t to[TILE][TILE]) {
    for (int i = 0; i < TILE; i++)
        for (int k = 0; k < TILE; k++) to[i][k] = from[k][i];
}
