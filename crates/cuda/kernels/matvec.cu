// Products of a few rows with W's 4-bit codes.
#include "matvec.cuh"
#include "scales.cuh"

namespace matvec {
// W in 4-bit codes: the products of 32 columns are summed as levels, and each sum is scaled once.
struct Nf4 {
    const uint8_t *codes;
    Scales scales;
    int shift;
    const float *level; // 16, in shared memory

    // Adds a piece's products to the sums; `width` is a multiple of 32.
    template <int N, int R>
    __device__ __forceinline__ void piece(float sum[R][N], uint64_t row, uint64_t rows, uint64_t columns, uint64_t from, int width,
                                          const float *xs, int padded) const {
        int c = (threadIdx.x & 31) * 32;
        if (c >= width) return;
        uint4 word[R];
        float factor[R], part[R][N];
#pragma unroll
        for (int o = 0; o < R; o++) {
            uint64_t at = min(row + o, rows - 1) * columns + from + c;
            word[o] = __ldg((const uint4 *)(codes + at / 2));
            factor[o] = scales.at((uint32_t)(at >> shift));
#pragma unroll
            for (int r = 0; r < N; r++) part[o][r] = 0;
        }
#pragma unroll
        // 4 columns each: half of a 32-bit word, the first in the high nibble of a byte
        for (int k = 0; k < 8; k++) {
            float w[R][4];
#pragma unroll
            for (int o = 0; o < R; o++) {
                uint32_t q = (k / 2 == 0 ? word[o].x : k / 2 == 1 ? word[o].y : k / 2 == 2 ? word[o].z : word[o].w) >> (k % 2 * 16);
                w[o][0] = level[(q >> 4) & 15];
                w[o][1] = level[q & 15];
                w[o][2] = level[(q >> 12) & 15];
                w[o][3] = level[(q >> 8) & 15];
            }
            add4<N, R>(part, w, xs + place(c) + 4 * k, padded);
        }
#pragma unroll
        for (int o = 0; o < R; o++)
#pragma unroll
            for (int r = 0; r < N; r++) sum[o][r] = fmaf(factor[o], part[o][r], sum[o][r]);
    }
};
} // namespace matvec

#define MATVEC(N, R, T, name)                                                                                               \
    extern "C" __global__ __launch_bounds__(128) void matvec_nf4_##N##x##R##_##name(                                         \
        const uint8_t *codes, const float *levels, const float *scale, const uint8_t *scale_codes, const float *map,         \
        float offset, uint32_t nested, int shift, const T *x, T *y, int n, uint64_t rows, uint64_t columns, int span) {      \
        DYNAMIC_SHARED(matvec_shared);                                                                                       \
        __shared__ float level[16];                                                                                          \
        if (threadIdx.x < 16) level[threadIdx.x] = levels[threadIdx.x];                                                      \
        matvec::Nf4 w{codes, {scale, scale_codes, map, offset, nested}, shift, level};                                         \
        matvec::product<N, R>(w, x, y, n, rows, columns, span, (float *)matvec_shared);                                      \
    }                                                                                                                        \
    EXPORT(matvec_nf4_##N##x##R##_##name)
#define MATVEC_BOTH(N, R) MATVEC(N, R, float, f32) MATVEC(N, R, bf16, bf16)
MATVEC_BOTH(1, 1)
MATVEC_BOTH(1, 4)
MATVEC_BOTH(2, 1)
MATVEC_BOTH(2, 4)
MATVEC_BOTH(4, 1)
MATVEC_BOTH(4, 2)
MATVEC_BOTH(8, 1)
MATVEC_BOTH(8, 2)
