// Log-probs of given tokens from rows of logits, and the gradient to the logits, in place: log p(y)
// = z_y - log Σ e^z;  d loss / d z = Σ_targets slope · (onehot(y) - softmax(z)). One block a row.
#include "device.cuh"

namespace logprob {
// sums[row] = (max z, log Σ e^(z - max)): two floats, which the host adds in f64.
template <class T> __device__ void sums(const T *z, float2 *out, uint64_t vocab) {
    __shared__ float scratch[33];
    z += blockIdx.x * vocab;
    float most = -INFINITE, sum = 0; // of this thread's values so far, Σ e^(z - most)
    bool nan = false;
    for (uint64_t i = threadIdx.x; i < vocab; i += blockDim.x) {
        float v = widen(z[i]);
        nan |= v != v;
        if (v > most) {
            sum = sum * expf(most - v) + 1.0f;
            most = v;
        } else if (v > -INFINITE) {
            sum += expf(v - most);
        }
    }
    float all = block_max(most, scratch);
    float total = block_sum(most > -INFINITE ? sum * expf(most - all) : 0.0f, scratch);
    float bad = block_sum(nan ? 1.0f : 0.0f, scratch);
    if (threadIdx.x == 0) out[blockIdx.x] = make_float2(all, bad > 0 ? __uint_as_float(0x7fc00000u) : logf(total));
}
// out[i] = z[rows[i]][tokens[i]]
template <class T> __device__ void pick(const T *z, const uint32_t *rows, const uint32_t *tokens, float *out, int count, uint64_t vocab) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) out[i] = widen(z[rows[i] * vocab + tokens[i]]);
}
// Replaces z by -total · softmax(z), plus slopes[e] at tokens[e] for the row's targets
// starts[row]..starts[row + 1]: at most one for each thread, no token twice. If total is 0, the
// soft-max is not computed and counts as zeros.
template <class T>
__device__ void gradient(T *z, const float2 *lse, const float *totals, const uint32_t *starts, const uint32_t *tokens, const float *slopes, uint64_t vocab) {
    uint64_t row = blockIdx.x;
    z += row * vocab;
    float2 l = lse[row];
    float total = totals[row];
    uint32_t entry = starts[row] + threadIdx.x;
    bool has = entry < starts[row + 1];
    float mine = 0;
    if (has) {
        float p = total == 0 ? 0.0f : expf(widen(z[tokens[entry]]) - l.x - l.y);
        mine = slopes[entry] - total * p;
    }
    __syncthreads(); // the targets' logits have been read
    for (uint64_t i = threadIdx.x; i < vocab; i += blockDim.x)
        z[i] = narrow<T>(total == 0 ? 0.0f : -total * expf(widen(z[i]) - l.x - l.y));
    __syncthreads();
    if (has) z[tokens[entry]] = narrow<T>(mine);
}
} // namespace logprob

#define LOGPROB(T, name)                                                                                                       \
    extern "C" __global__ void logprob_sums_##name(const T *z, float2 *out, uint64_t vocab) { logprob::sums(z, out, vocab); }    \
    EXPORT(logprob_sums_##name)                                                                                                \
    extern "C" __global__ void logprob_pick_##name(const T *z, const uint32_t *rows, const uint32_t *tokens, float *out, int count, \
                                                   uint64_t vocab) {                                                           \
        logprob::pick(z, rows, tokens, out, count, vocab);                                                                     \
    }                                                                                                                          \
    EXPORT(logprob_pick_##name)                                                                                                \
    extern "C" __global__ void logprob_gradient_##name(T *z, const float2 *lse, const float *totals, const uint32_t *starts,   \
                                                       const uint32_t *tokens, const float *slopes, uint64_t vocab) {          \
        logprob::gradient(z, lse, totals, starts, tokens, slopes, vocab);                                                      \
    }                                                                                                                          \
    EXPORT(logprob_gradient_##name)
LOGPROB(float, f32)
LOGPROB(bf16, bf16)
