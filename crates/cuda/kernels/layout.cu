// Gathers and scatters rows, copies ranges of columns.
#include "device.cuh"

namespace layout {
// Row i of y = row ids[i] of x; an id out of range gives NaN. One block a row.
template <class T> __device__ void gather(const T *x, const uint32_t *ids, T *y, uint64_t rows, uint64_t width) {
    uint64_t id = ids[blockIdx.x];
    T *to = y + blockIdx.x * width;
    if (id >= rows) {
        for (uint64_t i = threadIdx.x; i < width; i += blockDim.x) to[i] = narrow<T>(__uint_as_float(0x7fc00000u));
        return;
    }
    const T *from = x + id * width;
    const int N = 16 / sizeof(T);
    if (width % N == 0 && (uint64_t)x % 16 == 0 && (uint64_t)y % 16 == 0) {
        for (uint64_t i = threadIdx.x; i < width / N; i += blockDim.x) ((uint4 *)to)[i] = ((const uint4 *)from)[i];
    } else {
        for (uint64_t i = threadIdx.x; i < width; i += blockDim.x) to[i] = from[i];
    }
}
// Row places[k] of onto += Σ factor · row of x, over sources starts[k]..starts[k + 1] in their
// order. One block a destination; destinations differ. `factors` may be null, for 1.
template <class T>
__device__ void scatter(const T *x, const uint32_t *places, const uint32_t *starts, const uint32_t *sources, const float *factors, T *onto, uint64_t width) {
    T *to = onto + places[blockIdx.x] * width;
    uint32_t first = starts[blockIdx.x], end = starts[blockIdx.x + 1];
    for (uint64_t i = threadIdx.x; i < width; i += blockDim.x) {
        float sum = widen(to[i]);
        for (uint32_t s = first; s < end; s++) {
            float f = factors ? factors[s] : 1.0f;
            sum += f * widen(x[sources[s] * width + i]);
        }
        to[i] = narrow<T>(sum);
    }
}
// to[row][i] = from[row][i] for i < len, in units U; rows lie steps apart. The threads of a block
// lie as (columns, rows), so that no division is needed and narrow rows waste no threads; blocks
// along y share wide rows.
template <class U>
__device__ void columns(const U *from, uint64_t from_step, U *to, uint64_t to_step, uint64_t len, uint64_t rows) {
    uint64_t row = (uint64_t)blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    from += row * from_step;
    to += row * to_step;
    for (uint64_t i = (uint64_t)blockIdx.y * blockDim.x + threadIdx.x; i < len; i += (uint64_t)gridDim.y * blockDim.x) to[i] = from[i];
}
} // namespace layout

#define LAYOUT(T, name)                                                                                                        \
    extern "C" __global__ void layout_gather_##name(const T *x, const uint32_t *ids, T *y, uint64_t rows, uint64_t width) {     \
        layout::gather(x, ids, y, rows, width);                                                                                \
    }                                                                                                                          \
    EXPORT(layout_gather_##name)                                                                                               \
    extern "C" __global__ void layout_scatter_##name(const T *x, const uint32_t *places, const uint32_t *starts, const uint32_t *sources, \
                                                     const float *factors, T *onto, uint64_t width) {                          \
        layout::scatter(x, places, starts, sources, factors, onto, width);                                                     \
    }                                                                                                                          \
    EXPORT(layout_scatter_##name)
LAYOUT(float, f32)
LAYOUT(bf16, bf16)

#define LAYOUT_COLUMNS(U, bytes)                                                                                               \
    extern "C" __global__ void layout_columns_##bytes(const U *from, uint64_t from_step, U *to, uint64_t to_step, uint64_t len, \
                                                      uint64_t rows) {                                                         \
        layout::columns(from, from_step, to, to_step, len, rows);                                                              \
    }                                                                                                                          \
    EXPORT(layout_columns_##bytes)
LAYOUT_COLUMNS(uint16_t, 2)
LAYOUT_COLUMNS(uint32_t, 4)
LAYOUT_COLUMNS(uint4, 16)
