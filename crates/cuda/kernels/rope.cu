// Rotary position embedding (arXiv 2104.09864): each pair of features (a, b) of a head becomes (a cos - b sin, a sin + b cos) by its
// row's angle. `sign` -1 turns back, which is the gradient.
#include "device.cuh"

namespace rope {
// A thread a pair: i counts (row, head, pair). Half-split pairs of a head of `dim` values are (p, p + pairs), interleaved ones (2p, 2p + 1).
template <class T>
__device__ void turn(const T *x, const float *cosine, const float *sine, T *y, uint64_t count, int heads, int dim, int pairs, int interleaved, float sign) {
    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    uint64_t head = i / pairs;
    int p = (int)(i % pairs);
    uint64_t row = head / heads, angle = row * pairs + p;
    uint64_t a = head * dim + (interleaved ? 2 * p : p), b = interleaved ? a + 1 : a + pairs;
    float c = cosine[angle], s = sign * sine[angle];
    float u = widen(x[a]), v = widen(x[b]);
    y[a] = narrow<T>(u * c - v * s);
    y[b] = narrow<T>(u * s + v * c);
}
} // namespace rope

#define ROPE(T, name)                                                                                                          \
    extern "C" __global__ void rope_##name(const T *x, const float *cosine, const float *sine, T *y, uint64_t count, int heads, int dim, int pairs, \
                                           int interleaved, float sign) {                                                      \
        rope::turn(x, cosine, sine, y, count, heads, dim, pairs, interleaved, sign);                                                \
    }                                                                                                                          \
    EXPORT(rope_##name)
ROPE(float, f32)
ROPE(bf16, bf16)
