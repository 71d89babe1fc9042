// Rotary position embedding (arXiv 2104.09864): rotates each pair of features of x (tokens, heads,
// d) by its angle: (a, b) -> (a c - b s, a s + b c); backwards the angle is negated. Features
// beyond 2 · pairs are copied.
#include "device.cuh"

namespace rope {
struct Sizes { size_t n; uint32_t heads, d, pairs; float sign; };

// A thread rotates V pairs (a, a + pairs), or copies V of the features behind them. V is 16 bytes
// of values, or 1.
template <class T, int V>
__device__ __forceinline__ void half(const T *x, const float *cos, const float *sin, T *y, const Sizes &z) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= z.n) return;
    uint32_t turned = z.pairs / V, units = turned + (z.d - 2 * z.pairs) / V;
    size_t head = i / units, token = head / z.heads;
    uint32_t unit = (uint32_t)(i - head * units);
    const T *from = x + head * z.d;
    T *to = y + head * z.d;
    float a[V], b[V];
    if (unit >= turned) {
        uint32_t at = 2 * z.pairs + (unit - turned) * V;
        if (V == 1) to[at] = from[at];
        else *(uint4 *)(to + at) = *(const uint4 *)(from + at);
        return;
    }
    uint32_t at = unit * V;
    cos += token * z.pairs + at;
    sin += token * z.pairs + at;
    if constexpr (V == 1) { a[0] = widen(from[at]); b[0] = widen(from[z.pairs + at]); }
    else { load16(from + at, a); load16(from + z.pairs + at, b); }
#pragma unroll
    for (int k = 0; k < V; k++) {
        float c = cos[k], s = z.sign * sin[k], p = a[k], q = b[k];
        a[k] = p * c - q * s;
        b[k] = p * s + q * c;
    }
    if constexpr (V == 1) { to[at] = narrow<T>(a[0]); to[z.pairs + at] = narrow<T>(b[0]); }
    else { store16(to + at, a); store16(to + z.pairs + at, b); }
}

// A thread rotates the pairs (2k, 2k+1) of V consecutive features, or copies them. V is 16 bytes of
// values, or 2; where d is odd, the last thread of a head has one feature alone.
template <class T, int V>
__device__ __forceinline__ void interleaved(const T *x, const float *cos, const float *sin, T *y, const Sizes &z) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= z.n) return;
    uint32_t units = (z.d + V - 1) / V;
    size_t head = i / units, token = head / z.heads;
    uint32_t at = (uint32_t)(i - head * units) * V;
    const T *from = x + head * z.d;
    T *to = y + head * z.d;
    float v[V];
    bool turns = at < 2 * z.pairs, whole = at + V <= z.d;
    if constexpr (V == 2) { v[0] = widen(from[at]); v[1] = whole ? widen(from[at + 1]) : 0.0f; }
    else load16(from + at, v);
    if (turns) {
        cos += token * z.pairs + at / 2;
        sin += token * z.pairs + at / 2;
#pragma unroll
        for (int k = 0; k < V / 2; k++) {
            float c = cos[k], s = z.sign * sin[k], p = v[2 * k], q = v[2 * k + 1];
            v[2 * k] = p * c - q * s;
            v[2 * k + 1] = p * s + q * c;
        }
    }
    if constexpr (V == 2) { to[at] = narrow<T>(v[0]); if (whole) to[at + 1] = narrow<T>(v[1]); }
    else store16(to + at, v);
}
} // namespace rope

#define ROPE(T, t)                                                                                                          \
    extern "C" __global__ void rope_half_##t(const T *x, const float *cos, const float *sin, T *y, uint64_t n, uint32_t heads, \
                                             uint32_t d, uint32_t pairs, float sign, int wide) {                            \
        if (wide) rope::half<T, in16<T>>(x, cos, sin, y, rope::Sizes{n, heads, d, pairs, sign});                            \
        else rope::half<T, 1>(x, cos, sin, y, rope::Sizes{n, heads, d, pairs, sign});                                       \
    }                                                                                                                       \
    EXPORT(rope_half_##t)                                                                                                   \
    extern "C" __global__ void rope_interleaved_##t(const T *x, const float *cos, const float *sin, T *y, uint64_t n,       \
                                                    uint32_t heads, uint32_t d, uint32_t pairs, float sign, int wide) {     \
        if (wide) rope::interleaved<T, in16<T>>(x, cos, sin, y, rope::Sizes{n, heads, d, pairs, sign});                     \
        else rope::interleaved<T, 2>(x, cos, sin, y, rope::Sizes{n, heads, d, pairs, sign});                                \
    }                                                                                                                       \
    EXPORT(rope_interleaved_##t)
ROPE(float, f32)
ROPE(bf16, bf16)
