// y (n, out) = x (n, in) Wᵀ for a few rows of x, reading W as it is stored. Decoding is bound by
// the bandwidth of reading W, so W is read once and never written out dequantised. A warp computes
// R outputs for N rows of x; pieces of 1024 columns of x lie in shared memory in f32. Lane l sums
// its columns of every piece in ascending order, then the lanes are added as a tree: no sum depends
// on N, R or the grid.
#pragma once
#include "device.cuh"

namespace matvec {
constexpr int THREADS = 128;
constexpr int PIECE = 1024;
// 4 floats of padding behind each 32: lanes that read 4 floats at 32 apart then use different
// banks.
constexpr int PADDED = PIECE / 32 * 36;
__device__ __forceinline__ int place(int column) { return column + column / 32 * 4; }

// Loads columns from .. from + width of N rows of x, of which those from n on do not exist and
// count as 0.
template <int N, class T> __device__ void stage(float *xs, const T *x, int n, uint64_t columns, uint64_t from, int width, int padded) {
    for (int r = 0; r < N; r++)
        for (int c = threadIdx.x; c < width; c += THREADS) xs[r * padded + place(c)] = r < n ? widen(x[r * columns + from + c]) : 0.0f;
}

// Adds 4 columns' products to the sums of R outputs for N rows: w[o] are the weights of output o.
template <int N, int R> __device__ __forceinline__ void add4(float sum[R][N], const float w[R][4], const float *xs, int padded) {
#pragma unroll
    for (int r = 0; r < N; r++) {
        float4 v = *(const float4 *)(xs + r * padded);
#pragma unroll
        for (int o = 0; o < R; o++) {
            sum[o][r] = fmaf(w[o][0], v.x, sum[o][r]);
            sum[o][r] = fmaf(w[o][1], v.y, sum[o][r]);
            sum[o][r] = fmaf(w[o][2], v.z, sum[o][r]);
            sum[o][r] = fmaf(w[o][3], v.w, sum[o][r]);
        }
    }
}

// The kernel. `span` columns of x, a multiple of a piece, are in shared memory at once.
template <int N, int R, class W, class T>
__device__ __forceinline__ void product(const W &weights, const T *x, T *y, int n, uint64_t rows, uint64_t columns, int span, float *xs) {
    float sum[R][N];
#pragma unroll
    for (int o = 0; o < R; o++)
#pragma unroll
        for (int r = 0; r < N; r++) sum[o][r] = 0;
    uint64_t row = ((uint64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32) * R;
    int padded = span / PIECE * PADDED;
    for (uint64_t from = 0; from < columns; from += span) {
        int width = columns - from < span ? (int)(columns - from) : span;
        __syncthreads();
        stage<N>(xs, x, n, columns, from, width, padded);
        __syncthreads();
        if (row < rows)
            for (int p = 0; p < width; p += PIECE)
                weights.template piece<N, R>(sum, row, rows, columns, from + p, min(width - p, PIECE), xs + place(p), padded);
    }
    if (row >= rows) return;
#pragma unroll
    for (int o = 0; o < R; o++)
#pragma unroll
        for (int r = 0; r < N; r++) {
            float v = warp_sum(sum[o][r]);
            if ((threadIdx.x & 31) == 0 && r < n && row + o < rows) y[r * rows + row + o] = narrow<T>(v);
        }
}
} // namespace matvec
