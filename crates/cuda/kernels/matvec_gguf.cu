// Products of a few rows with W in GGUF's blocks. Block sizes are no multiples of 16 bytes: a warp
// copies a piece's bytes to shared memory, in the widest loads that their alignment allows, and
// reads values there. Weights are f32, as in ggml.
#include "gguf.cuh"
#include "matvec.cuh"

namespace matvec {
// Copies `bytes` (even) bytes from the device's memory, by one warp.
template <class V> __device__ __forceinline__ void fetch_as(void *to, const uint8_t *from, int bytes) {
    int whole = bytes / (int)sizeof(V), lane = threadIdx.x & 31;
#pragma unroll(sizeof(V) == 16 ? 4 : 1)
    for (int i = lane; i < whole; i += 32) ((V *)to)[i] = __ldg((const V *)from + i);
#pragma unroll 1
    for (int i = whole * (int)sizeof(V) / 2 + lane; i < bytes / 2; i += 32) ((uint16_t *)to)[i] = ((const uint16_t *)from)[i];
}
__device__ __forceinline__ void fetch(void *to, const uint8_t *from, int bytes) {
    size_t at = (size_t)from;
    if (at % 16 == 0) fetch_as<uint4>(to, from, bytes);
    else if (at % 8 == 0) fetch_as<uint2>(to, from, bytes);
    else if (at % 4 == 0) fetch_as<uint32_t>(to, from, bytes);
    else fetch_as<uint16_t>(to, from, bytes);
}

template <class F> struct Blocks {
    static constexpr int VECTORS = (PIECE / F::SIZE * F::BYTES + 15) / 16;
    const uint8_t *data;
    uint4 *raw; // this warp's, VECTORS for each of its outputs

    // Adds a piece's products to the sums; `width` is a multiple of the format's block.
    template <int N, int R>
    __device__ __forceinline__ void piece(float sum[R][N], uint64_t row, uint64_t rows, uint64_t columns, uint64_t from, int width,
                                          const float *xs, int padded) const {
        __syncwarp(); // others may still read the piece before
#pragma unroll
        for (int o = 0; o < R; o++)
            fetch(raw + o * VECTORS, data + (min(row + o, rows - 1) * columns + from) / F::SIZE * F::BYTES, width / F::SIZE * F::BYTES);
        __syncwarp();
        int c = (threadIdx.x & 31) * 32;
        if (c >= width) return;
#pragma unroll 4
        for (int k = 0; k < 8; k++) {
            float w[R][4];
#pragma unroll
            for (int o = 0; o < R; o++)
                F::template run<4>((const uint8_t *)(raw + o * VECTORS) + c / F::SIZE * F::BYTES, c % F::SIZE + 4 * k, w[o]);
            add4<N, R>(sum, w, xs + place(c) + 4 * k, padded);
        }
    }
};
} // namespace matvec

#define MATVEC_GGUF(F, format, N, T, name)                                                                                  \
    extern "C" __global__ __launch_bounds__(128) void matvec_##format##_##N##x2_##name(                                      \
        const uint8_t *data, const T *x, T *y, int n, uint64_t rows, uint64_t columns, int span) {                           \
        DYNAMIC_SHARED(matvec_shared);                                                                                       \
        constexpr int EACH = 2 * matvec::Blocks<gguf::F>::VECTORS;                                                           \
        __shared__ uint4 raw[matvec::THREADS / 32 * EACH];                                                                   \
        matvec::Blocks<gguf::F> w{data, raw + threadIdx.x / 32 * EACH};                                                      \
        matvec::product<N, 2>(w, x, y, n, rows, columns, span, (float *)matvec_shared);                                      \
    }                                                                                                                        \
    EXPORT(matvec_##format##_##N##x2_##name)
#define MATVEC_GGUF_BOTH(F, format, N) MATVEC_GGUF(F, format, N, float, f32) MATVEC_GGUF(F, format, N, bf16, bf16)
#define MATVEC_GGUF_ALL(F, format)                                                                                           \
    MATVEC_GGUF_BOTH(F, format, 1) MATVEC_GGUF_BOTH(F, format, 2) MATVEC_GGUF_BOTH(F, format, 4) MATVEC_GGUF_BOTH(F, format, 8)
MATVEC_GGUF_ALL(Q4_0, q4_0)
MATVEC_GGUF_ALL(Q4_1, q4_1)
MATVEC_GGUF_ALL(Q5_0, q5_0)
MATVEC_GGUF_ALL(Q5_1, q5_1)
MATVEC_GGUF_ALL(Q8_0, q8_0)
MATVEC_GGUF_ALL(Q4K, q4k)
MATVEC_GGUF_ALL(Q5K, q5k)
MATVEC_GGUF_ALL(Q6K, q6k)
