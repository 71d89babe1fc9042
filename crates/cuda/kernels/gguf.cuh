// Reads GGUF's block formats to f32, bit for bit as ggml on the CPU. The products are exact in f32
// (a half times 6 bits times 5 bits), so that it makes no difference whether the compiler fuses the
// sum that follows.
#pragma once
#include "device.cuh"

namespace gguf {
// Reads the half at p, which is aligned to 2 bytes.
__device__ __forceinline__ float half_at(const uint8_t *p) { return widen_half(*(const uint16_t *)p); }

// Each format has `run<R>`, which writes values j .. j + R of a block; R divides 16 and j.
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
} // namespace gguf
