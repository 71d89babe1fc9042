// y (n, out) = x (n, in) Wᵀ for 9 to 64 rows of x in bf16 with a quantised W, on the tensor cores.
// Decoding many sequences at once is bound by the bandwidth of reading W, and W dequantised is
// several times as large.
//
// A block computes 128 outputs, 16 a warp, over its share of the columns (blockIdx.y), 128 at a
// time. Columns may be permuted as long as W's and x's are permuted alike: lane (g, t) of a warp
// holds columns 32t .. 32t + 31 of rows g and g + 8, and step s of mma's k takes columns 32t + 4s
// .. + 3 from every t. Weights are rounded to bf16 as in dequantising. A second kernel adds the
// shares in ascending order: a row of y depends neither on n nor on the grid.
#pragma once
#include "device.cuh"

namespace product4 {
constexpr int THREADS = 256, OUTPUTS = 128, CHUNK = 128;
// A row of x in shared memory: 16 pieces of 16 bytes and 4 of padding, so that the pieces that 8
// lanes read at once use all banks.
constexpr int ROW = 20;
__device__ __forceinline__ int place(int row, int piece) { return row * ROW + piece % 4 * 4 + piece / 4; }

// Starts to load a chunk of x's rows; rows and columns out of range are 0.
template <int N> __device__ __forceinline__ void load(uint4 *xs, const bf16 *x, int n, uint64_t columns, uint64_t from) {
    for (int i = threadIdx.x; i < N * 16; i += THREADS) {
        int row = i / 16, piece = i % 16;
        bool there = row < n && from + piece * 8 < columns;
        copy_start(xs + place(row, piece), there ? x + row * columns + from + piece * 8 : x, there);
    }
    copy_commit();
}

// The kernel. W has `start(c)`, which starts to load the weights of the chunk at column c;
// `turn(c)`, called when they have arrived, before they are read; and `four(h, q, out)`, which
// returns weights 4q .. 4q + 3 of the lane's 32 in its row g + 8h as two pairs of bf16. For a row
// or column out of range it returns any finite values: their sums are dropped, or multiplied by
// zeros of x.
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

