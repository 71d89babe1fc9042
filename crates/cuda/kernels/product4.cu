// y (n, out) = x (n, in) Wᵀ for 9 to 64 rows of x in bf16, straight from W's 4-bit codes, by the tensor cores: decoding many sequences
// at once waits for W's way from memory, and W dequantised would take that way nine times as wide.
//
// A block has 128 outputs, 16 a warp, and a share of the columns (blockIdx.y), which it goes through 128 at a time. A product's
// order of columns is free: lane (g, t) of a warp reads 16 bytes of codes of rows g and g + 8, which are columns 32t .. 32t + 31, and
// step s of mma's k takes columns 32t + 4s .. + 3 from every t, of W and of x alike. Weights are level · scale, rounded to bf16 as
// when they are dequantised. Shares are added up in ascending order by a second kernel: a row of y depends neither on n nor on the grid.
#include "scales.cuh"

namespace product4 {
constexpr int THREADS = 256, OUTPUTS = 128, CHUNK = 128;
// A row of x in shared memory: 16 pieces of 16 bytes and room for 4, so that the pieces that 8 lanes read at once meet all banks.
constexpr int ROW = 20;
__device__ __forceinline__ int place(int row, int piece) { return row * ROW + piece % 4 * 4 + piece / 4; }

struct Codes {
    const uint8_t *codes;
    Scales scales;
    int shift;
};

// 32 weights of one row: their codes, and the scale that they share.
struct Run {
    uint4 word;
    float scale;
    __device__ __forceinline__ void read(const Codes &w, uint64_t element) {
        word = __ldg((const uint4 *)(w.codes + element / 2));
        scale = w.scales.at((uint32_t)(element >> w.shift));
    }
    // Weights 2b and 2b + 1: a byte, the first in its high nibble.
    __device__ __forceinline__ uint32_t pair(const float *level, int b) const {
        uint32_t q = (b / 4 == 0 ? word.x : b / 4 == 1 ? word.y : b / 4 == 2 ? word.z : word.w) >> (b % 4 * 8);
        return pack_bf16(__fmul_rn(level[(q >> 4) & 15], scale), __fmul_rn(level[q & 15], scale));
    }
};

// Starts to load a chunk of x's rows; rows and columns that are not there are 0.
template <int N> __device__ __forceinline__ void load(uint4 *xs, const bf16 *x, int n, uint64_t columns, uint64_t from) {
    for (int i = threadIdx.x; i < N * 16; i += THREADS) {
        int row = i / 16, piece = i % 16;
        bool there = row < n && from + piece * 8 < columns;
        copy_start(xs + place(row, piece), there ? x + row * columns + from + piece * 8 : x, there);
    }
    copy_commit();
}

template <int N>
__device__ __forceinline__ void product(const Codes &w, const float *level, const bf16 *x, bf16 *y, float *parts, int n, uint64_t rows,
                                        uint64_t columns, uint32_t share, uint4 *xs) {
    int lane = threadIdx.x & 31, g = lane / 4, t = lane % 4;
    uint64_t first = (uint64_t)blockIdx.x * OUTPUTS + threadIdx.x / 32 * 16;
    uint64_t from = (uint64_t)blockIdx.y * share, end = from + share < columns ? from + share : columns;
    float sum[N / 8][4];
#pragma unroll
    for (int i = 0; i < N / 8; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) sum[i][e] = 0;
    // where there is no such output or column, others are read whose sums are dropped, or meet zeros of x
    uint64_t at[2];
#pragma unroll
    for (int h = 0; h < 2; h++) at[h] = (first + g + 8 * h < rows ? first + g + 8 * h : rows - 1) * columns;
    auto read = [&](Run run[2], uint64_t c) {
        uint64_t column = c + 32 * t < columns ? c + 32 * t : columns - 32;
#pragma unroll
        for (int h = 0; h < 2; h++) run[h].read(w, at[h] + column);
    };
    Run now[2], next[2];
    read(now, from);
    load<N>(xs, x, n, columns, from);
    for (uint64_t c = from; c < end; c += CHUNK) {
        int side = (int)((c - from) / CHUNK) & 1;
        if (c + CHUNK < end) {
            read(next, c + CHUNK);
            load<N>(xs + (side ^ 1) * N * ROW, x, n, columns, c + CHUNK);
            copy_wait<1>();
        } else {
            copy_wait<0>();
        }
        __syncthreads();
        const uint4 *here = xs + side * N * ROW;
#pragma unroll
        for (int j = 0; j < 4; j++) { // two steps of mma each
            uint32_t a[2][4];
#pragma unroll
            for (int s = 0; s < 2; s++)
#pragma unroll
                for (int k = 0; k < 4; k++) a[s][k] = now[k % 2].pair(level, 4 * j + 2 * s + k / 2);
#pragma unroll
            for (int i = 0; i < N / 8; i++) {
                uint4 v = here[place(8 * i + g, 4 * t + j)];
                uint32_t b[2][2] = {{v.x, v.y}, {v.z, v.w}};
                mma_bf16(sum[i], a[0], b[0]);
                mma_bf16(sum[i], a[1], b[1]);
            }
        }
        __syncthreads(); // the next round loads over what was read here
        now[0] = next[0];
        now[1] = next[1];
    }
#pragma unroll
    for (int i = 0; i < N / 8; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int row = 8 * i + 2 * t + e % 2;
            uint64_t output = first + g + e / 2 * 8;
            if (row >= n || output >= rows) continue;
            if (gridDim.y == 1) y[row * rows + output] = narrow<bf16>(sum[i][e]);
            else parts[((uint64_t)blockIdx.y * n + row) * rows + output] = sum[i][e];
        }
}
} // namespace product4

// `share`: columns a block goes through, a multiple of 128. `parts` (gridDim.y, n, out) f32 is written where there is more than one.
#define PRODUCT4(N)                                                                                                                  \
    extern "C" __global__ __launch_bounds__(256, 2) void nf4_product_##N(                                                             \
        const uint8_t *codes, const float *levels, const float *scale, const uint8_t *scale_codes, const float *map, float offset,    \
        uint32_t nested, int shift, const bf16 *x, bf16 *y, float *parts, int n, uint64_t rows, uint64_t columns, uint32_t share) {   \
        DYNAMIC_SHARED(product4_shared);                                                                                              \
        __shared__ float level[16]; /* in 16 banks: lanes that look different ones up do not wait for each other */                  \
        if (threadIdx.x < 16) level[threadIdx.x] = levels[threadIdx.x];                                                               \
        __syncthreads();                                                                                                              \
        product4::Codes w{codes, {scale, scale_codes, map, offset, nested}, shift};                                                     \
        product4::product<N>(w, level, x, y, parts, n, rows, columns, share, (uint4 *)product4_shared);                               \
    }                                                                                                                                 \
    EXPORT(nf4_product_##N)
PRODUCT4(16)
PRODUCT4(32)
PRODUCT4(64)

// y[i] = Σ parts[s][i] in ascending order, for `count` values.
extern "C" __global__ __launch_bounds__(256) void nf4_product_sum(const float *parts, bf16 *y, uint64_t count, int shares) {
    uint64_t i = (uint64_t)blockIdx.x * 256 + threadIdx.x;
    if (i >= count) return;
    float sum = 0;
    for (int s = 0; s < shares; s++) sum += parts[s * count + i];
    y[i] = narrow<bf16>(sum);
}
EXPORT(nf4_product_sum)
