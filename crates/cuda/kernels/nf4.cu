// Dequantises bitsandbytes' 4-bit weights to f32 or bf16: levels[code] · scale of the code's block,
// rounded in that order, so that f32 equals the CPU's bit for bit. Codes run over the flattened
// matrix, the first of two in the high nibble; a block's size is a power of two, at least 32
// weights. A scale is plain, or offset + map[code] · (scale of its block of scales).
#include "scales.cuh"

namespace nf4 {
constexpr int THREADS = 256;
constexpr int RUNS = 4; // 16-byte stores a thread

// Reads a run's codes, the first in the lowest byte. `codes` + `byte` is aligned to the run.
__device__ __forceinline__ uint32_t read(const uint8_t *codes, uint64_t byte, float *) { return *(const uint16_t *)(codes + byte); }
__device__ __forceinline__ uint32_t read(const uint8_t *codes, uint64_t byte, bf16 *) { return *(const uint32_t *)(codes + byte); }
__device__ __forceinline__ void write(float *y, const float *v) { *(float4 *)y = make_float4(v[0], v[1], v[2], v[3]); }
__device__ __forceinline__ void write(bf16 *y, const float *v) {
    *(uint4 *)y = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
}

// Dequantises elements first .. first + count of the flattened matrix to y. `part` is the index of
// this thread block's runs of 16 bytes of y. Runs start at multiples of their length in the matrix,
// so that none straddles a byte or a block of weights.
template <class T>
__device__ __forceinline__ void expand(const uint8_t *codes, const float *level, const Scales &scales, int shift, uint64_t first,
                                       uint64_t count, T *y, uint64_t part) {
    constexpr int RUN = 16 / sizeof(T);
    uint64_t end = first + count, start = first / RUN * RUN;
    // y + (at - first) is aligned for all runs or for none
    bool aligned = (((size_t)y + (start - first) * sizeof(T)) & 15) == 0 && ((size_t)codes & 3) == 0;
#pragma unroll
    for (int i = 0; i < RUNS; i++) {
        uint64_t at = start + ((part * RUNS + i) * THREADS + threadIdx.x) * RUN;
        if (at >= end) return;
        float scale = scales.at((uint32_t)(at >> shift));
        if (aligned && at >= first && at + RUN <= end) {
            uint32_t word = read(codes, at / 2, y);
            float v[RUN];
#pragma unroll
            for (int j = 0; j < RUN; j++) v[j] = __fmul_rn(level[(word >> (j / 2 * 8 + (j % 2 ? 0 : 4))) & 15], scale);
            write(y + (at - first), v);
        } else {
            for (int j = 0; j < RUN; j++) {
                uint64_t e = at + j;
                if (e < first || e >= end) continue;
                y[e - first] = narrow<T>(__fmul_rn(level[(codes[e / 2] >> (e % 2 ? 0 : 4)) & 15], scale));
            }
        }
    }
}

// Loads the 16 levels into 16 banks of shared memory, so that lanes look up different levels
// without conflicts.
__device__ __forceinline__ void stage(float *level, const float *levels) {
    if (threadIdx.x < 16) level[threadIdx.x] = levels[threadIdx.x];
    __syncthreads();
}
} // namespace nf4

#define NF4(T, name)                                                                                                        \
    extern "C" __global__ __launch_bounds__(256) void nf4_dequantise_##name(                                                 \
        const uint8_t *codes, const float *levels, const float *scale, const uint8_t *scale_codes, const float *map,         \
        float offset, uint32_t nested, int shift, uint64_t first, uint64_t count, T *y) {                                    \
        __shared__ float level[16];                                                                                          \
        nf4::stage(level, levels);                                                                                           \
        Scales scales{scale, scale_codes, map, offset, nested};                                                         \
        nf4::expand(codes, level, scales, shift, first, count, y, blockIdx.x);                                               \
    }                                                                                                                        \
    EXPORT(nf4_dequantise_##name)                                                                                            \
    /* Row ids[blockIdx.x] of the matrix; NaN where there is no such row. */                                                 \
    extern "C" __global__ __launch_bounds__(256) void nf4_rows_##name(                                                       \
        const uint8_t *codes, const float *levels, const float *scale, const uint8_t *scale_codes, const float *map,         \
        float offset, uint32_t nested, int shift, const uint32_t *ids, uint64_t rows, uint64_t columns, T *y) {              \
        __shared__ float level[16];                                                                                          \
        nf4::stage(level, levels);                                                                                           \
        Scales scales{scale, scale_codes, map, offset, nested};                                                         \
        uint64_t row = ids[blockIdx.x];                                                                                      \
        y += blockIdx.x * columns;                                                                                           \
        if (row < rows) {                                                                                                    \
            nf4::expand(codes, level, scales, shift, row * columns, columns, y, blockIdx.y);                                 \
        } else if (blockIdx.y == 0) {                                                                                        \
            for (uint64_t i = threadIdx.x; i < columns; i += nf4::THREADS) y[i] = narrow<T>(__uint_as_float(0x7fc00000u));   \
        }                                                                                                                    \
    }                                                                                                                        \
    EXPORT(nf4_rows_##name)
NF4(float, f32)
NF4(bf16, bf16)
