// Attention's sinks: a logit z of each head in the soft-max of all its queries, whose value is 0. With
// lse = log Σ e^score over the keys: lse' = log (e^lse + e^z), out' = e^(lse - lse') out, and
// dz = -Σ e^(z - lse') dout·out' over the queries.
// out, dout (tokens, heads, d); lse f32 (heads, tokens); sinks, gradient (heads).
#include "device.cuh"

namespace attention_sinks {
// One warp for each (token, head).
template <class T>
__device__ __forceinline__ void add(const T *sinks, T *out, float *lse, int tokens, int heads, int d) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= tokens * heads) return;
    int token = row / heads, head = row % heads;
    size_t at = (size_t)head * tokens + token;
    float keys = lse[at], sink = widen(sinks[head]), most = fmaxf(keys, sink);
    float all = most + logf(expf(keys - most) + expf(sink - most)), kept = expf(keys - all);
    __syncwarp(); // all lanes have read it
    if (lane == 0) lse[at] = all;
    out += (size_t)row * d;
    for (int i = lane; i < d; i += 32) out[i] = narrow<T>(widen(out[i]) * kept);
}

// One block for each head; its threads take queries in turn.
template <class T>
__device__ __forceinline__ void gradient(const T *sinks, const T *out, const float *lse, const T *dout, T *to, int tokens, int heads, int d) {
    __shared__ float scratch[33];
    int head = blockIdx.x;
    float sink = widen(sinks[head]), sum = 0;
    for (int token = threadIdx.x; token < tokens; token += blockDim.x) {
        size_t row = ((size_t)token * heads + head) * d;
        float dot = 0;
        for (int i = 0; i < d; i++) dot += widen(out[row + i]) * widen(dout[row + i]);
        sum += expf(sink - lse[(size_t)head * tokens + token]) * dot;
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) to[head] = narrow<T>(-sum);
}
} // namespace attention_sinks

#define SINKS(T, name)                                                                                                            \
    extern "C" __global__ void attention_sinks_##name(const T *sinks, T *out, float *lse, int tokens, int heads, int d) {         \
        attention_sinks::add(sinks, out, lse, tokens, heads, d);                                                                  \
    }                                                                                                                             \
    EXPORT(attention_sinks_##name)                                                                                                \
    extern "C" __global__ void attention_sinks_gradient_##name(                                                                   \
        const T *sinks, const T *out, const float *lse, const T *dout, T *gradient, int tokens, int heads, int d) {               \
        attention_sinks::gradient(sinks, out, lse, dout, gradient, tokens, heads, d);                                             \
    }                                                                                                                             \
    EXPORT(attention_sinks_gradient_##name)
SINKS(float, f32)
SINKS(bf16, bf16)
