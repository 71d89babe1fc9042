// Per-column factors and biases, and sums over rows, in two stages of a fixed order.
#include "device.cuh"

namespace columns {
enum { BIAS, SCALE, GAIN };

// Blocks of (32, 8) threads: a thread has 16 bytes of columns and every eighth row of run
// blockIdx.y, and the eight are added in order. parts[run][column] = Σ over the run's rows of
//   BIAS: dy;  SCALE: dy (x - first[row]) second[row];  GAIN: dy (x - first[column]);
//   first null for 0.
template <class T, int MODE>
__device__ __forceinline__ void sums(const T *dy, const T *x, const float *first, const float *second, float *parts, size_t rows,
                                     size_t width, size_t run) {
    constexpr int N = in16<T>;
    __shared__ float scratch[8][32 * N];
    size_t column = ((size_t)blockIdx.x * 32 + threadIdx.x) * N, from = blockIdx.y * run;
    size_t to = from + run < rows ? from + run : rows;
    bool wide = width % N == 0 && aligned16(dy) && (MODE == BIAS || aligned16(x));
    float sum[N], own[N];
#pragma unroll
    for (int k = 0; k < N; k++) {
        sum[k] = 0;
        own[k] = MODE == GAIN && first && column + k < width ? first[column + k] : 0.0f;
    }
    if (column < width)
        for (size_t r = from + threadIdx.y; r < to; r += 8) {
            float d[N], v[N];
            const T *at = dy + r * width + column, *beside = x + r * width + column;
            if (wide) {
                load16(at, d);
                if (MODE != BIAS) load16(beside, v);
            } else {
#pragma unroll
                for (int k = 0; k < N; k++) {
                    bool in = column + k < width;
                    d[k] = in ? widen(at[k]) : 0.0f;
                    if (MODE != BIAS) v[k] = in ? widen(beside[k]) : 0.0f;
                }
            }
            float mean = MODE == SCALE && first ? first[r] : 0.0f, inverse = MODE == SCALE ? second[r] : 0.0f;
#pragma unroll
            for (int k = 0; k < N; k++)
                sum[k] += MODE == BIAS ? d[k] : MODE == SCALE ? d[k] * (v[k] - mean) * inverse : d[k] * (v[k] - own[k]);
        }
#pragma unroll
    for (int k = 0; k < N; k++) scratch[threadIdx.y][threadIdx.x * N + k] = sum[k];
    __syncthreads();
    for (int c = threadIdx.y * 32 + threadIdx.x; c < 32 * N; c += 256) {
        size_t at = (size_t)blockIdx.x * 32 * N + c;
        float all = 0;
        for (int y = 0; y < 8; y++) all += scratch[y][c];
        if (at < width) parts[blockIdx.y * width + at] = all;
    }
}

// y = y · factors + bias; factors and bias may be null. A thread computes 16 bytes of columns of 8
// rows. blockDim is (columns, rows).
template <class T>
__device__ __forceinline__ void scale(T *y, const float *factors, const float *bias, size_t rows, size_t width) {
    constexpr int N = in16<T>;
    size_t column = ((size_t)blockIdx.y * blockDim.x + threadIdx.x) * N;
    size_t from = ((size_t)blockIdx.x * blockDim.y + threadIdx.y) * 8, to = from + 8 < rows ? from + 8 : rows;
    if (column >= width) return;
    float g[N], b[N], v[N];
#pragma unroll
    for (int k = 0; k < N; k++) {
        g[k] = factors && column + k < width ? factors[column + k] : 1.0f;
        b[k] = bias && column + k < width ? bias[column + k] : 0.0f;
    }
    bool wide = width % N == 0 && aligned16(y);
    for (size_t r = from; r < to; r++) {
        T *at = y + r * width + column;
        if (wide) {
            load16(at, v);
#pragma unroll
            for (int k = 0; k < N; k++) v[k] = v[k] * g[k] + b[k];
            store16(at, v);
        } else {
#pragma unroll
            for (int k = 0; k < N; k++)
                if (column + k < width) at[k] = narrow<T>(widen(at[k]) * g[k] + b[k]);
        }
    }
}
} // namespace columns

#define COLUMN_SUMS(T, t, name, MODE)                                                                                       \
    extern "C" __global__ void name##_##t(const T *dy, const T *x, const float *first, const float *second, float *parts,   \
                                          uint64_t rows, uint64_t width, uint64_t run) {                                    \
        columns::sums<T, MODE>(dy, x, first, second, parts, rows, width, run);                                              \
    }                                                                                                                       \
    EXPORT(name##_##t)
#define COLUMNS(T, t)                                                                                                       \
    COLUMN_SUMS(T, t, column_sums, columns::BIAS)                                                                           \
    COLUMN_SUMS(T, t, column_sums_scale, columns::SCALE)                                                                    \
    COLUMN_SUMS(T, t, column_sums_gain, columns::GAIN)                                                                      \
    extern "C" __global__ void columns_scale_##t(T *y, const float *factors, const float *bias, uint64_t rows, uint64_t width) { \
        columns::scale(y, factors, bias, rows, width);                                                                      \
    }                                                                                                                       \
    EXPORT(columns_scale_##t)
COLUMNS(float, f32)
COLUMNS(bf16, bf16)

// onto[c] += Σ parts[p][c], p in ascending order, divided by divisor[c] if there is one; nothing is
// added where that is 0.
extern "C" __global__ void column_parts(const float *parts, const float *divisor, float *onto, uint64_t width, int count) {
    size_t c = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= width) return;
    float sum = 0, by = divisor ? divisor[c] : 1.0f;
    for (int p = 0; p < count; p++) sum += parts[p * (size_t)width + c];
    if (by != 0.0f) onto[c] += sum / by;
}
EXPORT(column_parts)
