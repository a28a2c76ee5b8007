/* What a core can multiply at most: products in registers only, that wait for nothing. Each function
 * returns the operations that it did, 0 where the CPU has no such instructions. */
#include "../src/stenopool/engines/openvino/kernels/tiles.h"

double bfloat16_tiles(long rounds) {
#ifdef __AMX_BF16__
    if (!allowed_tiles()) return 0;
    begin_tiles();
    for (long i = 0; i < rounds; i++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    end_tiles();
    return 4.0 * 16 * 16 * 32 * 2 * (double)rounds;
#else
    (void)rounds;
    return 0;
#endif
}

double int8_vectors(long rounds) {
#ifdef __AVX512VNNI__
    enum { SUMS = 12 };
    __m512i sum[SUMS] = {}, x = _mm512_set1_epi8(1);
    for (long i = 0; i < rounds; i++) {
#pragma GCC unroll 12
        for (int k = 0; k < SUMS; k++) {
            sum[k] = _mm512_dpbusd_epi32(sum[k], x, x);
            __asm__ volatile("" : "+v"(sum[k])); /* lest the compiler sees that it is for nothing */
        }
    }
    return SUMS * 64.0 * 2 * (double)rounds;
#else
    (void)rounds;
    return 0;
#endif
}
