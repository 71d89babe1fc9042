// y (n, out) = x (n, in) Wᵀ for 9 to 64 rows of x in bf16, straight from a quantised W, by the tensor cores: decoding many sequences
// at once waits for W's way from memory, and W dequantised would take that way several times as wide.
//
// A block has 128 outputs, 16 a warp, and a share of the columns (blockIdx.y), which it goes through 128 at a time. A product's
// order of columns is free: lane (g, t) of a warp has columns 32t .. 32t + 31 of rows g and g + 8, and step s of mma's k takes
// columns 32t + 4s .. + 3 from every t, of W and of x alike. Weights are rounded to bf16 as when they are dequantised. Shares are added
// up in ascending order by a second kernel: a row of y depends neither on n nor on the grid.
#pragma once
#include "device.cuh"

namespace product4 {
constexpr int THREADS = 256, OUTPUTS = 128, CHUNK = 128;
// A row of x in shared memory: 16 pieces of 16 bytes and room for 4, so that the pieces that 8 lanes read at once meet all banks.
constexpr int ROW = 20;
__device__ __forceinline__ int place(int row, int piece) { return row * ROW + piece % 4 * 4 + piece / 4; }

// Starts to load a chunk of x's rows; rows and columns that are not there are 0.
template <int N> __device__ __forceinline__ void load(uint4 *xs, const bf16 *x, int n, uint64_t columns, uint64_t from) {
    for (int i = threadIdx.x; i < N * 16; i += THREADS) {
        int row = i / 16, piece = i % 16;
        bool there = row < n && from + piece * 8 < columns;
        copy_start(xs + place(row, piece), there ? x + row * columns + from + piece * 8 : x, there);
    }
    copy_commit();
}

// W has `start(c)`, which starts to bring the weights of the chunk at column c; `turn(c)`, when they are there, before they are
// asked for; and `four(h, q, out)`: weights 4q .. 4q + 3 of the lane's 32 in its row g + 8h, as two pairs of bf16. Where there is no such
// row or column it gives others, finite ones: their sums are dropped, or they meet zeros of x.
template <int N, class W>
__device__ __forceinline__ void product(W &w, const bf16 *x, bf16 *y, float *parts, int n, uint64_t rows, uint64_t columns, uint32_t share,
                                        uint4 *xs) {
    int lane = threadIdx.x & 31, g = lane / 4, t = lane % 4;
    uint64_t first = (uint64_t)blockIdx.x * OUTPUTS + threadIdx.x / 32 * 16;
    uint64_t from = (uint64_t)blockIdx.y * share, end = from + share < columns ? from + share : columns;
    float sum[N / 8][4];
#pragma unroll
    for (int i = 0; i < N / 8; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) sum[i][e] = 0;
    w.start(from);
    load<N>(xs, x, n, columns, from);
    for (uint64_t c = from; c < end; c += CHUNK) {
        int side = (int)((c - from) / CHUNK) & 1;
        w.turn(c);
        if (c + CHUNK < end) {
            w.start(c + CHUNK);
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
                for (int h = 0; h < 2; h++) {
                    uint32_t pair[2];
                    w.four(h, 2 * j + s, pair);
                    a[s][h] = pair[0];
                    a[s][h + 2] = pair[1];
                }
#pragma unroll
            for (int i = 0; i < N / 8; i++) {
                uint4 v = here[place(8 * i + g, 4 * t + j)];
                uint32_t b[2][2] = {{v.x, v.y}, {v.z, v.w}};
                mma_bf16(sum[i], a[0], b[0]);
                mma_bf16(sum[i], a[1], b[1]);
            }
        }
        __syncthreads(); // the next round loads over what was read here
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

