// RMSNorm and layer norm over rows of `width` values, one block a row.
//
// With x̂ = (x - μ) r, μ = 0 for RMS, r = 1 / sqrt(mean((x - μ)²) + eps), and y = x̂ (w + plus) +
// bias, u = dy (w + plus): dx = r (u - x̂ mean(u x̂)), and for layer norm - r mean(u) too.
#include "device.cuh"

namespace norms {
// Values that a thread processes at a time: 16 bytes of them, or one.
template <class T, bool WIDE> constexpr int AT_ONCE = WIDE ? in16<T> : 1;
template <class T, bool WIDE> __device__ __forceinline__ void load(const T *p, float *v) {
    if constexpr (WIDE) load16(p, v);
    else v[0] = widen(*p);
}
template <int N> __device__ __forceinline__ void load_f32(const float *p, float *v) {
    if constexpr (N == 1) v[0] = *p;
    else
#pragma unroll
        for (int k = 0; k < N; k += 4) load16(p + k, v + k);
}
template <class T, bool WIDE> __device__ __forceinline__ void store(T *p, const float *v) {
    if constexpr (WIDE) store16(p, v);
    else *p = narrow<T>(v[0]);
}

template <class T, bool LAYER, bool WIDE>
__device__ __forceinline__ void forward(const T *x, const float *w, const float *bias, T *y, float *means, float *inverse, int width,
                                        float eps, float plus, float *scratch) {
    constexpr int N = AT_ONCE<T, WIDE>;
    size_t row = blockIdx.x;
    x += row * width;
    y += row * width;
    int from = threadIdx.x * N, step = blockDim.x * N;
    float mean = 0, sum = 0, v[N], g[N];
    if (LAYER) {
        for (int i = from; i < width; i += step) {
            load<T, WIDE>(x + i, v);
#pragma unroll
            for (int k = 0; k < N; k++) mean += v[k];
        }
        mean = block_sum(mean, scratch) / width;
    }
    for (int i = from; i < width; i += step) {
        load<T, WIDE>(x + i, v);
#pragma unroll
        for (int k = 0; k < N; k++) sum += (v[k] - mean) * (v[k] - mean);
    }
    float r = rsqrtf(block_sum(sum, scratch) / width + eps);
    for (int i = from; i < width; i += step) {
        load<T, WIDE>(x + i, v);
        load_f32<N>(w + i, g);
#pragma unroll
        for (int k = 0; k < N; k++) v[k] = (v[k] - mean) * r * (g[k] + plus);
        if (LAYER && bias) {
            load_f32<N>(bias + i, g);
#pragma unroll
            for (int k = 0; k < N; k++) v[k] += g[k];
        }
        store<T, WIDE>(y + i, v);
    }
    if (threadIdx.x == 0) {
        inverse[row] = r;
        if (LAYER) means[row] = mean;
    }
}

template <class T, bool LAYER, bool WIDE>
__device__ __forceinline__ void backward(const T *x, const float *w, const float *means, const float *inverse, const T *dy, T *dx,
                                         int width, float plus, float *scratch) {
    constexpr int N = AT_ONCE<T, WIDE>;
    size_t row = blockIdx.x;
    x += row * width;
    dy += row * width;
    dx += row * width;
    int from = threadIdx.x * N, step = blockDim.x * N;
    float r = inverse[row], mean = LAYER ? means[row] : 0.0f, sum = 0, along = 0, v[N], d[N], g[N];
    for (int i = from; i < width; i += step) {
        load<T, WIDE>(x + i, v);
        load<T, WIDE>(dy + i, d);
        load_f32<N>(w + i, g);
#pragma unroll
        for (int k = 0; k < N; k++) {
            float u = d[k] * (g[k] + plus);
            along += u * (v[k] - mean);
            sum += u;
        }
    }
    along = block_sum(along, scratch) / width * r * r;
    sum = LAYER ? block_sum(sum, scratch) / width : 0.0f;
    for (int i = from; i < width; i += step) {
        load<T, WIDE>(x + i, v);
        load<T, WIDE>(dy + i, d);
        load_f32<N>(w + i, g);
#pragma unroll
        for (int k = 0; k < N; k++) v[k] = r * (d[k] * (g[k] + plus) - sum - (v[k] - mean) * along);
        store<T, WIDE>(dx + i, v);
    }
}

template <class T, bool LAYER>
__device__ __forceinline__ void forward(const T *x, const float *w, const float *bias, T *y, float *means, float *inverse, int width,
                                        float eps, float plus) {
    __shared__ float scratch[33];
    if (width % in16<T> == 0 && aligned16(x) && aligned16(w) && aligned16(bias) && aligned16(y))
        forward<T, LAYER, true>(x, w, bias, y, means, inverse, width, eps, plus, scratch);
    else forward<T, LAYER, false>(x, w, bias, y, means, inverse, width, eps, plus, scratch);
}
template <class T, bool LAYER>
__device__ __forceinline__ void backward(const T *x, const float *w, const float *means, const float *inverse, const T *dy, T *dx,
                                         int width, float plus) {
    __shared__ float scratch[33];
    if (width % in16<T> == 0 && aligned16(x) && aligned16(w) && aligned16(dy) && aligned16(dx))
        backward<T, LAYER, true>(x, w, means, inverse, dy, dx, width, plus, scratch);
    else backward<T, LAYER, false>(x, w, means, inverse, dy, dx, width, plus, scratch);
}
} // namespace norms

#define NORM(T, t)                                                                                                          \
    extern "C" __global__ void rms_norm_##t(const T *x, const float *w, T *y, float *inverse, int width, float eps, float plus) { \
        norms::forward<T, false>(x, w, nullptr, y, nullptr, inverse, width, eps, plus);                                      \
    }                                                                                                                       \
    EXPORT(rms_norm_##t)                                                                                                    \
    extern "C" __global__ void rms_norm_backward_##t(const T *x, const float *w, const float *inverse, const T *dy, T *dx, int width, \
                                                     float plus) {                                                          \
        norms::backward<T, false>(x, w, nullptr, inverse, dy, dx, width, plus);                                              \
    }                                                                                                                       \
    EXPORT(rms_norm_backward_##t)                                                                                           \
    extern "C" __global__ void layer_norm_##t(const T *x, const float *w, const float *bias, T *y, float *means, float *inverse, \
                                              int width, float eps) {                                                       \
        norms::forward<T, true>(x, w, bias, y, means, inverse, width, eps, 0.0f);                                            \
    }                                                                                                                       \
    EXPORT(layer_norm_##t)                                                                                                  \
    extern "C" __global__ void layer_norm_backward_##t(const T *x, const float *w, const float *means, const float *inverse, \
                                                       const T *dy, T *dx, int width) {                                     \
        norms::backward<T, true>(x, w, means, inverse, dy, dx, width, 0.0f);                                                 \
    }                                                                                                                       \
    EXPORT(layer_norm_backward_##t)
NORM(float, f32)
NORM(bf16, bf16)
