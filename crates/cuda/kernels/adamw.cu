// Optimiser steps on f32 weights, each value read and written once. AdamW (arXiv 1711.05101,
// PyTorch's form), with g the gradient times `scale`:
//   m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g²,
//   w = w - shrink w - size m / (sqrt(v) / root + eps)
// with shrink = rate · decay, size = rate / (1 - beta1^t), root = sqrt(1 - beta2^t). Moments are
// f32, or 8 bits in blocks of 256 (arXiv 2110.02861): map[code] · the block's largest magnitude.
// RMSProp as PyTorch's, without centring. Every product and sum is rounded by itself: the result
// does not depend on what the compiler fuses.
#include "device.cuh"

namespace optimiser {
struct Adam { float scale, beta1, rest1, beta2, rest2, eps, shrink, size, root; };

__device__ __forceinline__ void adam(const Adam &c, float g, float &w, float &m, float &v) {
    g = __fmul_rn(g, c.scale);
    m = __fadd_rn(__fmul_rn(c.beta1, m), __fmul_rn(c.rest1, g));
    v = __fadd_rn(__fmul_rn(c.beta2, v), __fmul_rn(c.rest2, __fmul_rn(g, g)));
    float step = __fdiv_rn(__fmul_rn(c.size, m), __fadd_rn(__fdiv_rn(__fsqrt_rn(v), c.root), c.eps));
    w = __fadd_rn(w, -__fadd_rn(__fmul_rn(c.shrink, w), step));
}

// The index of the map's entry nearest to v, of two equally near the lower: the number of midpoints
// below v.
__device__ __forceinline__ uint32_t nearest(const float *middle, float v) {
    uint32_t code = 0;
#pragma unroll
    for (int step = 128; step; step >>= 1)
        if (v > middle[code + step - 1]) code += step;
    return code;
}
__device__ __forceinline__ float unpack(const float *map, uint2 codes, int i) {
    return map[((i < 4 ? codes.x : codes.y) >> (i % 4 * 8)) & 255];
}
// The codes of 8 values divided by the warp's largest magnitude, which is written to `largest`.
__device__ __forceinline__ uint2 pack(const float *middle, const float x[8], float &largest) {
    float most = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) most = fmaxf(most, fabsf(x[i]));
    largest = warp_max(most);
    uint32_t half[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 8; i++) half[i / 4] |= nearest(middle, largest > 0 ? __fdiv_rn(x[i], largest) : 0.0f) << (i % 4 * 8);
    return make_uint2(half[0], half[1]);
}
} // namespace optimiser

// w, g, m, v (n).
extern "C" __global__ __launch_bounds__(256) void adamw_f32(float *w, const float *g, float *m, float *v, uint64_t n, float scale,
                                                            float beta1, float rest1, float beta2, float rest2, float eps, float shrink,
                                                            float size, float root) {
    optimiser::Adam c{scale, beta1, rest1, beta2, rest2, eps, shrink, size, root};
    uint64_t at = ((uint64_t)blockIdx.x * 256 + threadIdx.x) * 4;
    if (at >= n) return;
    bool aligned = (((size_t)w | (size_t)g | (size_t)m | (size_t)v) & 15) == 0;
    if (aligned && at + 4 <= n) {
        float4 a = *(float4 *)(w + at), b = *(const float4 *)(g + at), p = *(float4 *)(m + at), q = *(float4 *)(v + at);
        optimiser::adam(c, b.x, a.x, p.x, q.x);
        optimiser::adam(c, b.y, a.y, p.y, q.y);
        optimiser::adam(c, b.z, a.z, p.z, q.z);
        optimiser::adam(c, b.w, a.w, p.w, q.w);
        *(float4 *)(w + at) = a;
        *(float4 *)(m + at) = p;
        *(float4 *)(v + at) = q;
    } else {
        for (uint64_t i = at; i < n && i < at + 4; i++) optimiser::adam(c, g[i], w[i], m[i], v[i]);
    }
}
EXPORT(adamw_f32)

// AdamW with 8-bit moments: m, v hold one code a weight, padded to whole blocks of 256; `most` one
// f32 a block. A warp computes one block of weights, 8 a lane. Maps ascend. The step uses the
// moments before they are rounded to codes.
extern "C" __global__ __launch_bounds__(256) void adamw_8bit(float *w, const float *g, uint8_t *m, uint8_t *v, float *m_most, float *v_most,
                                                             const float *signed_map, const float *unsigned_map, uint64_t n, float scale,
                                                             float beta1, float rest1, float beta2, float rest2, float eps, float shrink,
                                                             float size, float root) {
    __shared__ float maps[2][256], middles[2][256];
    for (int i = 0; i < 2; i++) {
        const float *map = i ? unsigned_map : signed_map;
        float here = map[threadIdx.x];
        maps[i][threadIdx.x] = here;
        middles[i][threadIdx.x] = threadIdx.x < 255 ? __fmul_rn(__fadd_rn(here, map[threadIdx.x + 1]), 0.5f) : INFINITE;
    }
    __syncthreads();
    optimiser::Adam c{scale, beta1, rest1, beta2, rest2, eps, shrink, size, root};
    uint64_t block = (uint64_t)blockIdx.x * 8 + threadIdx.x / 32, at = block * 256 + (threadIdx.x & 31) * 8;
    if (block * 256 >= n) return; // the whole warp
    uint2 p = *(const uint2 *)(m + at), q = *(const uint2 *)(v + at);
    float pm = m_most[block], qm = v_most[block], weight[8], grad[8], first[8], second[8];
    bool whole = at + 8 <= n && (((size_t)w | (size_t)g) & 15) == 0;
    if (whole) {
        for (int h = 0; h < 2; h++) {
            float4 a = *(float4 *)(w + at + 4 * h), b = *(const float4 *)(g + at + 4 * h);
            weight[4 * h] = a.x; weight[4 * h + 1] = a.y; weight[4 * h + 2] = a.z; weight[4 * h + 3] = a.w;
            grad[4 * h] = b.x; grad[4 * h + 1] = b.y; grad[4 * h + 2] = b.z; grad[4 * h + 3] = b.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            weight[i] = at + i < n ? w[at + i] : 0.0f;
            grad[i] = at + i < n ? g[at + i] : 0.0f;
        }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
        first[i] = __fmul_rn(optimiser::unpack(maps[0], p, i), pm);
        second[i] = __fmul_rn(optimiser::unpack(maps[1], q, i), qm);
        if (at + i >= n) first[i] = second[i] = 0; // padding has no moments
        optimiser::adam(c, grad[i], weight[i], first[i], second[i]);
    }
    if (whole) {
        for (int h = 0; h < 2; h++)
            *(float4 *)(w + at + 4 * h) = make_float4(weight[4 * h], weight[4 * h + 1], weight[4 * h + 2], weight[4 * h + 3]);
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (at + i < n) w[at + i] = weight[i];
    }
    *(uint2 *)(m + at) = optimiser::pack(middles[0], first, pm);
    *(uint2 *)(v + at) = optimiser::pack(middles[1], second, qm);
    __syncwarp(); // all lanes have read them
    if ((threadIdx.x & 31) == 0) {
        m_most[block] = pm;
        v_most[block] = qm;
    }
}
EXPORT(adamw_8bit)

// s = alpha s + (1 - alpha) g² with g = scale g + decay w; change = g / (sqrt(s) + eps) + momentum
// · buffer; w -= rate · change. `buffer` may be null: no momentum.
extern "C" __global__ void rmsprop_f32(float *w, const float *g, float *buffer, float *s, uint64_t n, float scale, float alpha, float rest,
                                       float eps, float decay, float momentum, float rate) {
    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float weight = w[i];
    float grad = __fadd_rn(__fmul_rn(g[i], scale), __fmul_rn(decay, weight));
    float square = __fadd_rn(__fmul_rn(alpha, s[i]), __fmul_rn(rest, __fmul_rn(grad, grad)));
    float change = __fdiv_rn(grad, __fadd_rn(__fsqrt_rn(square), eps));
    if (buffer) {
        change = __fadd_rn(change, __fmul_rn(momentum, buffer[i]));
        buffer[i] = change;
    }
    w[i] = __fadd_rn(weight, -__fmul_rn(rate, change));
    s[i] = square;
}
EXPORT(rmsprop_f32)

// parts[block] = Σ x² over the block's 16,384 values, in f64 and a fixed order.
extern "C" __global__ __launch_bounds__(256) void square_sums(const float *x, double *parts, uint64_t n) {
    __shared__ double sums[256];
    uint64_t from = (uint64_t)blockIdx.x * 16384, to = from + 16384 < n ? from + 16384 : n;
    double sum = 0;
    for (uint64_t i = from + threadIdx.x; i < to; i += 256) sum += (double)x[i] * x[i];
    sums[threadIdx.x] = sum;
    for (int half = 128; half; half >>= 1) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (threadIdx.x == 0) parts[blockIdx.x] = sums[0];
}
EXPORT(square_sums)
