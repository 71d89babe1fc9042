// Functions of every element, forward and backward; binary functions with broadcasting; SwiGLU;
// LoRA's dropout. A thread has 16 bytes of consecutive values. Results may lie where an argument
// lies.
#include "device.cuh"

namespace elem {
// sqrt(2/π) and the cubic coefficient of the tanh approximation of GELU, sqrt(1/2), 1/sqrt(2π).
constexpr float GELU0 = 0.7978845608f, GELU1 = 0.044715f, HALF_ROOT = 0.7071067812f, DENSITY = 0.3989422804f;

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
// σ(2u) = (1 + tanh u) / 2 of the tanh approximation, without the sum's cancellation where x is far
// below 0.
__device__ __forceinline__ float gelu_gate(float x) { return sigmoid(2.0f * GELU0 * (x + GELU1 * x * x * x)); }

// Each function has f(x), and its derivative from what is saved for the backward pass: x for silu,
// the GELUs and softplus, f(x) for the others.
struct Silu {
    static __device__ __forceinline__ float f(float x) { return x * sigmoid(x); }
    static __device__ __forceinline__ float slope(float x) { float s = sigmoid(x); return s * (1.0f + x * (1.0f - s)); }
};
struct Gelu { // x Φ(x)
    static __device__ __forceinline__ float f(float x) { return 0.5f * x * erfcf(-x * HALF_ROOT); }
    static __device__ __forceinline__ float slope(float x) {
        return 0.5f * erfcf(-x * HALF_ROOT) + x * expf(-0.5f * x * x) * DENSITY;
    }
};
struct GeluTanh {
    static __device__ __forceinline__ float f(float x) { return x * gelu_gate(x); }
    static __device__ __forceinline__ float slope(float x) {
        float s = gelu_gate(x);
        return s + 2.0f * x * s * (1.0f - s) * GELU0 * (1.0f + 3.0f * GELU1 * x * x);
    }
};
struct Tanh {
    static __device__ __forceinline__ float f(float x) { return tanhf(x); }
    static __device__ __forceinline__ float slope(float y) { return 1.0f - y * y; }
};
struct Sigmoid {
    static __device__ __forceinline__ float f(float x) { return sigmoid(x); }
    static __device__ __forceinline__ float slope(float y) { return y * (1.0f - y); }
};
struct Relu { // NaN stays NaN
    static __device__ __forceinline__ float f(float x) { return x <= 0.0f ? 0.0f : x; }
    static __device__ __forceinline__ float slope(float y) { return y > 0.0f ? 1.0f : 0.0f; }
};
struct Exp {
    static __device__ __forceinline__ float f(float x) { return expf(x); }
    static __device__ __forceinline__ float slope(float y) { return y; }
};
struct Softplus { // ln (1 + e^x)
    static __device__ __forceinline__ float f(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }
    static __device__ __forceinline__ float slope(float x) { return sigmoid(x); }
};

// Index of this thread's first value.
template <class T> __device__ __forceinline__ size_t first() {
    return ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * in16<T>;
}

// y[i] = f(x[i], i)
template <class T, class F> __device__ __forceinline__ void map1(const T *x, T *y, size_t n, F f) {
    constexpr int N = in16<T>;
    size_t i = first<T>();
    if (i + N <= n && aligned16(x) && aligned16(y)) {
        float v[N];
        load16(x + i, v);
#pragma unroll
        for (int k = 0; k < N; k++) v[k] = f(v[k], i + k);
        store16(y + i, v);
    } else {
        for (int k = 0; k < N && i + k < n; k++) y[i + k] = narrow<T>(f(widen(x[i + k]), i + k));
    }
}

// y[i] = f(a[i], b[i])
template <class T, class F> __device__ __forceinline__ void map2(const T *a, const T *b, T *y, size_t n, F f) {
    constexpr int N = in16<T>;
    size_t i = first<T>();
    if (i + N <= n && aligned16(a) && aligned16(b) && aligned16(y)) {
        float v[N], w[N];
        load16(a + i, v);
        load16(b + i, w);
#pragma unroll
        for (int k = 0; k < N; k++) v[k] = f(v[k], w[k]);
        store16(y + i, v);
    } else {
        for (int k = 0; k < N && i + k < n; k++) y[i + k] = narrow<T>(f(widen(a[i + k]), widen(b[i + k])));
    }
}

// With y = silu(g) u: dg = dy u silu'(g), du = dy silu(g).
__device__ __forceinline__ void swiglu_slopes(float g, float u, float dy, float &dg, float &du) {
    float s = sigmoid(g);
    dg = dy * u * s * (1.0f + g * (1.0f - s));
    du = dy * g * s;
}
template <class T>
__device__ __forceinline__ void swiglu_backward(const T *g, const T *u, const T *dy, T *dg, T *du, size_t n) {
    constexpr int N = in16<T>;
    size_t i = first<T>();
    if (i + N <= n && aligned16(g) && aligned16(u) && aligned16(dy) && aligned16(dg) && aligned16(du)) {
        float a[N], b[N], d[N];
        load16(g + i, a);
        load16(u + i, b);
        load16(dy + i, d);
#pragma unroll
        for (int k = 0; k < N; k++) swiglu_slopes(a[k], b[k], d[k], a[k], b[k]);
        store16(dg + i, a);
        store16(du + i, b);
    } else {
        for (int k = 0; k < N && i + k < n; k++) {
            float p, q;
            swiglu_slopes(widen(g[i + k]), widen(u[i + k]), widen(dy[i + k]), p, q);
            dg[i + k] = narrow<T>(p);
            du[i + k] = narrow<T>(q);
        }
    }
}

// splitmix64's word `i` of the stream `seed`, as randori_lora draws it.
__device__ __forceinline__ uint64_t word(uint64_t seed, uint64_t i) {
    uint64_t z = seed + (i + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

enum { ADD = 1, SUB = 2, MUL = 3, DIV = 4 }; // the sdk's numbers
__device__ __forceinline__ float apply(int op, float a, float b) {
    return op == ADD ? a + b : op == SUB ? a - b : op == MUL ? a * b : a / b;
}
// dy times the derivative of op(a, b) to b.
__device__ __forceinline__ float slope_b(int op, float dy, float a, float b) {
    return op == ADD ? dy : op == SUB ? -dy : op == MUL ? dy * a : -dy * a / (b * b);
}

// Strides over up to 5 axes, the last the fastest: turns an element's index into an offset.
struct Axes {
    uint32_t d1, d2, d3, d4; // the first axis' size is not needed
    uint64_t s0, s1, s2, s3, s4;
    // Divides i by d: in 32 bits where i fits, which is several times faster.
    static __device__ __forceinline__ uint32_t split(size_t &i, uint32_t d) {
        if (d == 1) return 0;
        uint32_t r;
        if (i >> 32) { r = (uint32_t)(i % d); i /= d; }
        else { uint32_t low = (uint32_t)i; r = low % d; i = low / d; }
        return r;
    }
    __device__ __forceinline__ size_t at(size_t i) const {
        size_t r = split(i, d4) * s4;
        r += split(i, d3) * s3;
        r += split(i, d2) * s2;
        r += split(i, d1) * s1;
        return r + i * s0;
    }
};

// y[i] = a[i] ∘ b[axes.at(i)]
template <class T>
__device__ __forceinline__ void broadcast(int op, const T *a, const T *b, T *y, size_t n, const Axes &axes) {
    constexpr int N = in16<T>;
    size_t i = first<T>();
    if (i >= n) return;
    float w[N];
    uint32_t width = axes.d4;
    size_t rest = i;
    uint32_t column = width == 1 ? 0 : Axes::split(rest, width);
    size_t j = axes.at(i);
#pragma unroll
    for (int k = 0; k < N; k++) {
        w[k] = 0;
        if (i + k >= n) continue;
        if (k > 0) {
            if (++column >= width) { column = 0; j = axes.at(i + k); }
            else j += axes.s4;
        }
        w[k] = widen(b[j]);
    }
    if (i + N <= n && aligned16(a) && aligned16(y)) {
        float v[N];
        load16(a + i, v);
#pragma unroll
        for (int k = 0; k < N; k++) v[k] = apply(op, v[k], w[k]);
        store16(y + i, v);
    } else {
#pragma unroll
        for (int k = 0; k < N; k++)
            if (i + k < n) y[i + k] = narrow<T>(apply(op, widen(a[i + k]), w[k]));
    }
}

// The sum of slope_b over every element of a that b[j] met, in two stages of a fixed order: block
// row p of the grid takes the reduced indices from p · run; `kept` leads from j to a, `reduced`
// from a reduced index on. `across`: a warp for each j (the reduced axis lies innermost in a), else
// a thread.
template <class T>
__device__ __forceinline__ void broadcast_sum(int op, int across, const T *a, const T *b, const T *dy, float *parts, size_t size,
                                              size_t many, size_t run, const Axes &kept, const Axes &reduced) {
    size_t thread = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    size_t j = across ? thread >> 5 : thread, from = blockIdx.y * run, to = from + run < many ? from + run : many;
    if (j >= size) return; // whole warps when a warp works together
    size_t start = kept.at(j);
    float divisor = op == DIV ? widen(b[j]) : 1.0f, sum = 0;
    for (size_t r = from + (across ? thread & 31 : 0); r < to; r += across ? 32 : 1) {
        size_t i = start + reduced.at(r);
        sum += slope_b(op, widen(dy[i]), op >= MUL ? widen(a[i]) : 0.0f, divisor);
    }
    if (across) sum = warp_sum(sum);
    if (!across || (thread & 31) == 0) parts[blockIdx.y * size + j] = sum;
}
} // namespace elem

#define UNARY(T, t, name, F)                                                                                                \
    extern "C" __global__ void name##_##t(const T *x, T *y, uint64_t n) {                                                   \
        elem::map1(x, y, n, [](float v, size_t) { return elem::F::f(v); });                                                 \
    }                                                                                                                       \
    EXPORT(name##_##t)                                                                                                      \
    extern "C" __global__ void name##_backward_##t(const T *saved, const T *dy, T *dx, uint64_t n) {                        \
        elem::map2(saved, dy, dx, n, [](float s, float d) { return d * elem::F::slope(s); });                               \
    }                                                                                                                       \
    EXPORT(name##_backward_##t)

#define ELEMENTWISE(T, t)                                                                                                   \
    UNARY(T, t, silu, Silu)                                                                                                 \
    UNARY(T, t, gelu, Gelu)                                                                                                 \
    UNARY(T, t, gelu_tanh, GeluTanh)                                                                                        \
    UNARY(T, t, tanh, Tanh)                                                                                                 \
    UNARY(T, t, sigmoid, Sigmoid)                                                                                           \
    UNARY(T, t, relu, Relu)                                                                                                 \
    UNARY(T, t, exp, Exp)                                                                                                   \
    UNARY(T, t, softplus, Softplus)                                                                                         \
    extern "C" __global__ void affine_##t(const T *x, T *y, uint64_t n, float mul, float add) {                             \
        elem::map1(x, y, n, [=](float v, size_t) { return v * mul + add; });                                                \
    }                                                                                                                       \
    EXPORT(affine_##t)                                                                                                      \
    extern "C" __global__ void dropout_##t(const T *x, T *y, uint64_t n, const uint64_t *keys, uint32_t width,              \
                                           uint64_t salt, uint64_t threshold, float keep) {                                 \
        elem::map1(x, y, n, [=](float v, size_t i) {                                                                        \
            size_t row = i / width;                                                                                         \
            return (elem::word(keys[row] ^ salt, i - row * width) >> 40) < threshold ? 0.0f : v * keep;                     \
        });                                                                                                                 \
    }                                                                                                                       \
    EXPORT(dropout_##t)                                                                                                     \
    extern "C" __global__ void swiglu_##t(const T *g, const T *u, T *y, uint64_t n) {                                       \
        elem::map2(g, u, y, n, [](float g, float u) { return elem::Silu::f(g) * u; });                                      \
    }                                                                                                                       \
    EXPORT(swiglu_##t)                                                                                                      \
    extern "C" __global__ void swiglu_backward_##t(const T *g, const T *u, const T *dy, T *dg, T *du, uint64_t n) {         \
        elem::swiglu_backward(g, u, dy, dg, du, n);                                                                         \
    }                                                                                                                       \
    EXPORT(swiglu_backward_##t)                                                                                             \
    extern "C" __global__ void binary_##t(int op, const T *a, const T *b, T *y, uint64_t n) {                               \
        elem::map2(a, b, y, n, [=](float a, float b) { return elem::apply(op, a, b); });                                    \
    }                                                                                                                       \
    EXPORT(binary_##t)                                                                                                      \
    extern "C" __global__ void broadcast_##t(int op, const T *a, const T *b, T *y, uint64_t n, uint32_t d1, uint32_t d2,    \
                                             uint32_t d3, uint32_t d4, uint64_t s0, uint64_t s1, uint64_t s2, uint64_t s3,  \
                                             uint64_t s4) {                                                                 \
        elem::broadcast(op, a, b, y, n, elem::Axes{d1, d2, d3, d4, s0, s1, s2, s3, s4});                                    \
    }                                                                                                                       \
    EXPORT(broadcast_##t)                                                                                                   \
    extern "C" __global__ void broadcast_sum_##t(                                                                           \
        int op, int across, const T *a, const T *b, const T *dy, float *parts, uint64_t size, uint64_t many, uint64_t run,  \
        uint32_t kd1, uint32_t kd2, uint32_t kd3, uint32_t kd4, uint64_t k0, uint64_t k1, uint64_t k2, uint64_t k3,         \
        uint64_t k4, uint32_t rd1, uint32_t rd2, uint32_t rd3, uint32_t rd4, uint64_t r0, uint64_t r1, uint64_t r2,         \
        uint64_t r3, uint64_t r4) {                                                                                         \
        elem::broadcast_sum(op, across, a, b, dy, parts, size, many, run, elem::Axes{kd1, kd2, kd3, kd4, k0, k1, k2, k3, k4}, \
                            elem::Axes{rd1, rd2, rd3, rd4, r0, r1, r2, r3, r4});                                            \
    }                                                                                                                       \
    EXPORT(broadcast_sum_##t)                                                                                               \
    /* db[j] = Σ parts[p][j], p in order */                                                                                 \
    extern "C" __global__ void join_parts_##t(const float *parts, T *db, uint64_t size, int count) {                        \
        size_t j = (size_t)blockIdx.x * blockDim.x + threadIdx.x;                                                           \
        if (j >= size) return;                                                                                              \
        float sum = 0;                                                                                                      \
        for (int p = 0; p < count; p++) sum += parts[p * (size_t)size + j];                                                 \
        db[j] = narrow<T>(sum);                                                                                             \
    }                                                                                                                       \
    EXPORT(join_parts_##t)
ELEMENTWISE(float, f32)
ELEMENTWISE(bf16, bf16)
