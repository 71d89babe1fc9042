// GGUF's block formats -> f32 or bf16, f32 bit for bit as ggml on the CPU. A tile of 4096 values is one block of threads' work: its
// bytes, whose blocks are of odd sizes (18, 34, 210), go to shared memory as they lie, in loads of 16 bytes; from there each
// thread makes runs that are 16 bytes of y. Products whose order of rounding could matter are exact in f32 (a half times 6 bits
// times 5 bits), so it makes no difference whether the compiler fuses the sum behind them.
#include "device.cuh"

namespace gguf {
constexpr int THREADS = 256;
constexpr int TILE = 4096; // values

// The half at p, which is aligned to 2.
__device__ __forceinline__ float half_at(const uint8_t *p) { return widen_half(*(const uint16_t *)p); }

// Every format: `run<R>` writes values j .. j + R of a block, R a divisor of 16 and j a multiple of R.
struct Q4_0 {
    static constexpr int BYTES = 18, SIZE = 32;
    template <int R> static __device__ __forceinline__ void run(const uint8_t *b, int j, float *y) {
        float d = half_at(b);
        int shift = j / 16 * 4;
        for (int i = 0; i < R; i++) y[i] = (float)(((b[2 + j % 16 + i] >> shift) & 15) - 8) * d;
    }
};
struct Q4_1 {
    static constexpr int BYTES = 20, SIZE = 32;
    template <int R> static __device__ __forceinline__ void run(const uint8_t *b, int j, float *y) {
        float d = half_at(b), m = half_at(b + 2);
        int shift = j / 16 * 4;
        for (int i = 0; i < R; i++) y[i] = (float)((b[4 + j % 16 + i] >> shift) & 15) * d + m;
    }
};
// Bit j of the four bytes at `high` is the fifth bit of value j.
struct Q5_0 {
    static constexpr int BYTES = 22, SIZE = 32;
    template <int R> static __device__ __forceinline__ void run(const uint8_t *b, int j, float *y) {
        float d = half_at(b);
        int shift = j / 16 * 4;
        uint32_t high = ((uint32_t)*(const uint16_t *)(b + 2) | (uint32_t)*(const uint16_t *)(b + 4) << 16) >> j;
        for (int i = 0; i < R; i++) y[i] = (float)((int)(((b[6 + j % 16 + i] >> shift) & 15) | ((high >> i) & 1) << 4) - 16) * d;
    }
};
struct Q5_1 {
    static constexpr int BYTES = 24, SIZE = 32;
    template <int R> static __device__ __forceinline__ void run(const uint8_t *b, int j, float *y) {
        float d = half_at(b), m = half_at(b + 2);
        int shift = j / 16 * 4;
        uint32_t high = ((uint32_t)*(const uint16_t *)(b + 4) | (uint32_t)*(const uint16_t *)(b + 6) << 16) >> j;
        for (int i = 0; i < R; i++) y[i] = (float)(((b[8 + j % 16 + i] >> shift) & 15) | ((high >> i) & 1) << 4) * d + m;
    }
};
struct Q8_0 {
    static constexpr int BYTES = 34, SIZE = 32;
    template <int R> static __device__ __forceinline__ void run(const uint8_t *b, int j, float *y) {
        float d = half_at(b);
        for (int i = 0; i < R; i++) y[i] = (float)(int8_t)b[2 + j + i] * d;
    }
};
// Scale and minimum of sub-block s of 8, 6 bits each, packed in 12 bytes.
__device__ __forceinline__ void scale_min(const uint8_t *q, int s, float &scale, float &least) {
    if (s < 4) {
        scale = (float)(q[s] & 63);
        least = (float)(q[s + 4] & 63);
    } else {
        scale = (float)((q[s + 4] & 15) | (q[s - 4] >> 6) << 4);
        least = (float)((q[s + 4] >> 4) | (q[s] >> 6) << 4);
    }
}
struct Q4K {
    static constexpr int BYTES = 144, SIZE = 256;
    template <int R> static __device__ __forceinline__ void run(const uint8_t *b, int j, float *y) {
        int sub = j / 32, shift = sub % 2 * 4;
        float scale, least;
        scale_min(b + 4, sub, scale, least);
        scale *= half_at(b);
        least *= half_at(b + 2);
        const uint8_t *q = b + 16 + sub / 2 * 32 + j % 32;
        for (int i = 0; i < R; i++) y[i] = scale * (float)((q[i] >> shift) & 15) - least;
    }
};
struct Q5K {
    static constexpr int BYTES = 176, SIZE = 256;
    template <int R> static __device__ __forceinline__ void run(const uint8_t *b, int j, float *y) {
        int sub = j / 32, shift = sub % 2 * 4;
        float scale, least;
        scale_min(b + 4, sub, scale, least);
        scale *= half_at(b);
        least *= half_at(b + 2);
        const uint8_t *high = b + 16 + j % 32, *q = b + 48 + sub / 2 * 32 + j % 32;
        for (int i = 0; i < R; i++) y[i] = scale * (float)(((q[i] >> shift) & 15) | ((high[i] >> sub) & 1) << 4) - least;
    }
};
struct Q6K {
    static constexpr int BYTES = 210, SIZE = 256;
    template <int R> static __device__ __forceinline__ void run(const uint8_t *b, int j, float *y) {
        int half = j / 128, k = j % 128 / 32, l = j % 32; // values 32 k + l of each half
        float scale = half_at(b + 208) * (float)(int8_t)b[192 + 8 * half + l / 16 + 2 * k];
        const uint8_t *low = b + 64 * half + k % 2 * 32 + l, *high = b + 128 + 32 * half + l;
        for (int i = 0; i < R; i++)
            y[i] = scale * (float)((int)(((low[i] >> (k / 2 * 4)) & 15) | ((high[i] >> (2 * k)) & 3) << 4) - 32);
    }
};

__device__ __forceinline__ void write(float *y, const float *v) { *(float4 *)y = make_float4(v[0], v[1], v[2], v[3]); }
__device__ __forceinline__ void write(bf16 *y, const float *v) {
    *(uint4 *)y = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
}

// Tile `tile` of the `count` values whose blocks start at `data` (aligned to 2) into y.
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
