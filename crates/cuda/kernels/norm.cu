// RMSNorm, forward and backward: y = x / sqrt(mean(x²) + eps) · (w + plus). One block a row. Rows of x are `width` values.
#include "common.cuh"

// `inverse` (rows) keeps 1 / sqrt(mean(x²) + eps) for the backward pass.
template <class T>
__device__ void rms_norm(const T *x, const float *w, T *y, float *inverse, int width, float eps, float plus) {
    __shared__ float scratch[33];
    size_t row = blockIdx.x;
    x += row * width;
    y += row * width;
    float sum = 0;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        float v = widen(x[i]);
        sum += v * v;
    }
    float r = rsqrtf(block_sum(sum, scratch) / width + eps);
    for (int i = threadIdx.x; i < width; i += blockDim.x) y[i] = narrow<T>(widen(x[i]) * r * (w[i] + plus));
    if (threadIdx.x == 0) inverse[row] = r;
}

// dx = r (g - x r² mean(x g)) with g = dy (w + plus).
template <class T>
__device__ void rms_norm_backward(const T *x, const float *w, const float *inverse, const T *dy, T *dx, int width, float plus) {
    __shared__ float scratch[33];
    size_t row = blockIdx.x;
    x += row * width;
    dy += row * width;
    dx += row * width;
    float r = inverse[row], sum = 0;
    for (int i = threadIdx.x; i < width; i += blockDim.x) sum += widen(x[i]) * widen(dy[i]) * (w[i] + plus);
    float mean = block_sum(sum, scratch) / width * r * r;
    for (int i = threadIdx.x; i < width; i += blockDim.x)
        dx[i] = narrow<T>(r * (widen(dy[i]) * (w[i] + plus) - widen(x[i]) * mean));
}

#define NORM(T, name)                                                                                                       \
    extern "C" __global__ void rms_norm_##name(const T *x, const float *w, T *y, float *inverse, int width, float eps, float plus) { \
        rms_norm(x, w, y, inverse, width, eps, plus);                                                                        \
    }                                                                                                                        \
    EXPORT(rms_norm_##name)                                                                                                  \
    extern "C" __global__ void rms_norm_backward_##name(const T *x, const float *w, const float *inverse, const T *dy, T *dx, int width, \
                                                        float plus) {                                                        \
        rms_norm_backward(x, w, inverse, dy, dx, width, plus);                                                               \
    }                                                                                                                        \
    EXPORT(rms_norm_backward_##name)
NORM(float, f32)
NORM(bf16, bf16)
