// Products of 9 to 64 rows with 4-bit codes: see product4.cuh. A lane reads 16 bytes of codes of
// each of its rows at once, a chunk ahead.
#include "product4.cuh"
#include "scales.cuh"

namespace product4 {
// 32 weights of one row: their codes, and the scale that they share.
struct Run {
    uint4 word;
    float scale;
};
struct Codes {
    const uint8_t *codes;
    Scales scales;
    int shift;
    const float *level;
    uint64_t rows, columns, at[2];
    Run now[2], next[2];

    __device__ __forceinline__ void begin() {
        uint64_t first = (uint64_t)blockIdx.x * OUTPUTS + threadIdx.x / 32 * 16 + (threadIdx.x & 31) / 4;
#pragma unroll
        for (int h = 0; h < 2; h++) at[h] = (first + 8 * h < rows ? first + 8 * h : rows - 1) * columns;
    }
    __device__ __forceinline__ void start(uint64_t c) {
        uint64_t column = c + 32 * (threadIdx.x & 3);
        if (column >= columns) column = columns - 32;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            next[h].word = __ldg((const uint4 *)(codes + (at[h] + column) / 2));
            next[h].scale = scales.at((uint32_t)((at[h] + column) >> shift));
        }
    }
    __device__ __forceinline__ void turn(uint64_t) {
        now[0] = next[0];
        now[1] = next[1];
    }
    // A byte has two weights, the first in its high nibble.
    __device__ __forceinline__ void four(int h, int q, uint32_t pair[2]) const {
        uint4 w = now[h].word;
        uint32_t bits = (q / 2 == 0 ? w.x : q / 2 == 1 ? w.y : q / 2 == 2 ? w.z : w.w) >> (q % 2 * 16);
#pragma unroll
        for (int i = 0; i < 2; i++, bits >>= 8)
            pair[i] = pack_bf16(__fmul_rn(level[(bits >> 4) & 15], now[h].scale), __fmul_rn(level[bits & 15], now[h].scale));
    }
};
} // namespace product4

// `share`: columns of a block, a multiple of 128. If gridDim.y > 1, the sums go to `parts`
// (gridDim.y, n, out) f32.
#define PRODUCT4(N)                                                                                                                  \
    extern "C" __global__ __launch_bounds__(256, 2) void nf4_product_##N(                                                             \
        const uint8_t *codes, const float *levels, const float *scale, const uint8_t *scale_codes, const float *map, float offset,    \
        uint32_t nested, int shift, const bf16 *x, bf16 *y, float *parts, int n, uint64_t rows, uint64_t columns, uint32_t share) {   \
        DYNAMIC_SHARED(product4_shared);                                                                                              \
        __shared__ float level[16]; /* in 16 banks: lanes that look different ones up do not wait for each other */                  \
        if (threadIdx.x < 16) level[threadIdx.x] = levels[threadIdx.x];                                                               \
        __syncthreads();                                                                                                              \
        product4::Codes w{codes, {scale, scale_codes, map, offset, nested}, shift, level, rows, columns};                               \
        w.begin();                                                                                                                    \
        product4::product<N>(w, x, y, parts, n, rows, columns, share, (uint4 *)product4_shared);                                      \
    }                                                                                                                                 \
    EXPORT(nf4_product_##N)
PRODUCT4(16)
PRODUCT4(32)
PRODUCT4(64)

// y[i] = Σ parts[s][i] in ascending order, for `count` values.
extern "C" __global__ __launch_bounds__(256) void product_sum(const float *parts, bf16 *y, uint64_t count, int shares) {
    uint64_t i = (uint64_t)blockIdx.x * 256 + threadIdx.x;
    if (i >= count) return;
    float sum = 0;
    for (int s = 0; s < shares; s++) sum += parts[s * count + i];
    y[i] = narrow<bf16>(sum);
}
EXPORT(product_sum)
