// Dequantises GGUF's block formats to f32 or bf16. A thread block expands a tile of 4096 values: it
// copies the tile's bytes, whose blocks are no multiples of 16 bytes (18, 34, 210), to shared
// memory in loads of 16 bytes; from there each thread writes runs of 16 bytes of y.
#include "gguf.cuh"

namespace gguf {
constexpr int THREADS = 256;
constexpr int TILE = 4096; // values

__device__ __forceinline__ void write(float *y, const float *v) { *(float4 *)y = make_float4(v[0], v[1], v[2], v[3]); }
__device__ __forceinline__ void write(bf16 *y, const float *v) {
    *(uint4 *)y = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
}

// Writes tile `tile` of the `count` values whose blocks start at `data` (aligned to 2 bytes) to y.
template <class F, class T> __device__ void expand(const uint8_t *data, uint64_t count, T *y, uint64_t tile) {
    constexpr int BYTES = TILE / F::SIZE * F::BYTES, RUN = 16 / sizeof(T);
    static_assert(BYTES % 16 == 0, "tiles are whole vectors");
    __shared__ uint4 staged[BYTES / 16];
    uint64_t first = tile * TILE;
    int values = count - first < TILE ? (int)(count - first) : TILE, bytes = values / F::SIZE * F::BYTES;
    data += tile * BYTES;
    y += first;
    int vectors = ((size_t)data & 15) == 0 ? bytes / 16 : 0;
    for (int i = threadIdx.x; i < vectors; i += THREADS) staged[i] = __ldg((const uint4 *)data + i);
    for (int i = vectors * 8 + threadIdx.x; i < bytes / 2; i += THREADS) ((uint16_t *)staged)[i] = ((const uint16_t *)data)[i];
    __syncthreads();
    bool aligned = ((size_t)y & 15) == 0;
    for (int j = threadIdx.x * RUN; j < values; j += THREADS * RUN) {
        float v[RUN];
        F::template run<RUN>((const uint8_t *)staged + j / F::SIZE * F::BYTES, j % F::SIZE, v);
        if (aligned)
            write(y + j, v);
        else
            for (int i = 0; i < RUN; i++) y[j + i] = narrow<T>(v[i]);
    }
}
template <class F, class T>
__device__ __forceinline__ void expand_rows(const uint8_t *data, const uint32_t *ids, uint64_t rows, uint64_t columns, T *y) {
    uint64_t row = ids[blockIdx.x];
    y += blockIdx.x * columns;
    if (row < rows) {
        expand<F>(data + row * (columns / F::SIZE * F::BYTES), columns, y, blockIdx.y);
    } else {
        for (uint64_t i = (uint64_t)blockIdx.y * TILE + threadIdx.x; i < columns && i < (uint64_t)(blockIdx.y + 1) * TILE; i += THREADS)
            y[i] = narrow<T>(__uint_as_float(0x7fc00000u));
    }
}
} // namespace gguf

#define GGUF(F, format, T, name)                                                                                            \
    extern "C" __global__ __launch_bounds__(256) void gguf_##format##_##name(const uint8_t *data, uint64_t count, T *y) {     \
        gguf::expand<gguf::F>(data, count, y, blockIdx.x);                                                                   \
    }                                                                                                                        \
    EXPORT(gguf_##format##_##name)                                                                                           \
    /* Row ids[blockIdx.x] of the matrix; NaN where there is no such row. */                                                 \
    extern "C" __global__ __launch_bounds__(256) void gguf_rows_##format##_##name(const uint8_t *data, const uint32_t *ids,  \
                                                                                  uint64_t rows, uint64_t columns, T *y) {   \
        gguf::expand_rows<gguf::F>(data, ids, rows, columns, y);                                                             \
    }                                                                                                                        \
    EXPORT(gguf_rows_##format##_##name)
#define GGUF_BOTH(F, format) GGUF(F, format, float, f32) GGUF(F, format, bf16, bf16)
GGUF_BOTH(Q4_0, q4_0)
GGUF_BOTH(Q4_1, q4_1)
GGUF_BOTH(Q5_0, q5_0)
GGUF_BOTH(Q5_1, q5_1)
GGUF_BOTH(Q8_0, q8_0)
GGUF_BOTH(Q4K, q4k)
GGUF_BOTH(Q5K, q5k)
GGUF_BOTH(Q6K, q6k)
