// What runs along columns: a bias or factor for each, and sums over rows in a fixed order, in two stages.
#include "common.cuh"

namespace columns {
// y = y · factor + bias, either of which may be missing.
template <class T> __device__ void scale(T *y, const float *factors, const float *bias, uint64_t count, uint64_t width) {
    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    uint64_t c = i % width;
    float v = widen(y[i]);
    if (factors) v *= factors[c];
    if (bias) v += bias[c];
    y[i] = narrow<T>(v);
}
// parts[blockIdx.y][column] = Σ dy, or with x Σ dy · x · inverse[row], over `each` rows.
template <class T>
__device__ void part(const T *dy, const T *x, const float *inverse, float *parts, uint64_t rows, uint64_t width, int each) {
    uint64_t column = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= width) return;
    uint64_t first = (uint64_t)blockIdx.y * each, end = first + each < rows ? first + each : rows;
    float sum = 0;
    for (uint64_t r = first; r < end; r++) {
        float v = widen(dy[r * width + column]);
        sum += x ? v * widen(x[r * width + column]) * inverse[r] : v;
    }
    parts[blockIdx.y * width + column] = sum;
}
} // namespace columns

// onto[column] += Σ parts[part][column], in order.
extern "C" __global__ void columns_join(const float *parts, float *onto, int count, uint64_t width) {
    uint64_t column = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= width) return;
    float sum = 0;
    for (int p = 0; p < count; p++) sum += parts[p * width + column];
    onto[column] += sum;
}
EXPORT(columns_join)

#define COLUMNS(T, name)                                                                                                       \
    extern "C" __global__ void columns_scale_##name(T *y, const float *factors, const float *bias, uint64_t count, uint64_t width) { \
        columns::scale(y, factors, bias, count, width);                                                                        \
    }                                                                                                                          \
    EXPORT(columns_scale_##name)                                                                                               \
    extern "C" __global__ void columns_part_##name(const T *dy, const T *x, const float *inverse, float *parts, uint64_t rows, \
                                                   uint64_t width, int each) {                                                 \
        columns::part(dy, x, inverse, parts, rows, width, each);                                                               \
    }                                                                                                                          \
    EXPORT(columns_part_##name)
COLUMNS(float, f32)
COLUMNS(bf16, bf16)
