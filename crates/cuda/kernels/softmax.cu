// Soft-max over rows, forward and backward. One block a row.
#include "device.cuh"

namespace softmax {
// Calls f(value, column) for this thread's values of a row.
template <class T, class F> __device__ __forceinline__ void each(const T *x, size_t width, F f) {
    constexpr int N = in16<T>;
    // up to the first aligned value, then 16 bytes at a time, then the rest
    size_t ahead = ((16 - ((size_t)x & 15)) & 15) / sizeof(T);
    if (ahead > width) ahead = width;
    size_t whole = (width - ahead) / N;
    if (threadIdx.x < ahead) f(widen(x[threadIdx.x]), (size_t)threadIdx.x);
    for (size_t i = threadIdx.x; i < whole; i += blockDim.x) {
        float v[N];
        load16(x + ahead + i * N, v);
#pragma unroll
        for (int k = 0; k < N; k++) f(v[k], ahead + i * N + k);
    }
    for (size_t i = ahead + whole * N + threadIdx.x; i < width; i += blockDim.x) f(widen(x[i]), i);
}

// A row's largest value and Σ e^(x - largest), in one pass that rescales the sum at each new
// maximum (arXiv 1805.02867).
struct Total { float most, sum; };
template <class T> __device__ __forceinline__ Total total(const T *x, size_t width, float *scratch) {
    // not -∞, from which -∞ cannot be subtracted
    float most = -3.402823466e38f, sum = 0;
    each(x, width, [&](float v, size_t) {
        if (v > most) {
            sum = sum * expf(most - v) + 1.0f;
            most = v;
        } else {
            sum += expf(v - most);
        }
    });
    float all = block_max(most, scratch);
    return {all, block_sum(sum * expf(most - all), scratch)};
}

template <class T> __device__ __forceinline__ void forward(const T *x, T *y, size_t width) {
    __shared__ float scratch[33];
    x += blockIdx.x * width;
    y += blockIdx.x * width;
    Total t = total(x, width, scratch);
    float r = 1.0f / t.sum;
    // each thread writes what it alone reads, so y may be x
    each(x, width, [&](float v, size_t c) { y[c] = narrow<T>(expf(v - t.most) * r); });
}

// dx = y (dy - Σ dy y)
template <class T> __device__ __forceinline__ void backward(const T *y, const T *dy, T *dx, size_t width) {
    __shared__ float scratch[33];
    y += blockIdx.x * width;
    dy += blockIdx.x * width;
    dx += blockIdx.x * width;
    float sum = 0;
    each(y, width, [&](float v, size_t c) { sum += v * widen(dy[c]); });
    sum = block_sum(sum, scratch);
    each(y, width, [&](float v, size_t c) { dx[c] = narrow<T>(v * (widen(dy[c]) - sum)); });
}
} // namespace softmax

#define SOFTMAX(T, t)                                                                                                       \
    extern "C" __global__ void softmax_##t(const T *x, T *y, uint64_t width) { softmax::forward(x, y, width); }             \
    EXPORT(softmax_##t)                                                                                                     \
    extern "C" __global__ void softmax_backward_##t(const T *y, const T *dy, T *dx, uint64_t width) {                       \
        softmax::backward(y, dy, dx, width);                                                                                \
    }                                                                                                                       \
    EXPORT(softmax_backward_##t)
SOFTMAX(float, f32)
SOFTMAX(bf16, bf16)
