// bf16 <-> f32, `n` values, 8 a thread: 16-byte loads and stores where both addresses allow them.
#include "device.cuh"

namespace cast {
constexpr int RUN = 8; // values a thread

__device__ __forceinline__ void read8(const float *x, float v[RUN]) {
    float4 a = *(const float4 *)x, b = *(const float4 *)(x + 4);
    v[0] = a.x; v[1] = a.y; v[2] = a.z; v[3] = a.w;
    v[4] = b.x; v[5] = b.y; v[6] = b.z; v[7] = b.w;
}
__device__ __forceinline__ void read8(const bf16 *x, float v[RUN]) {
    uint4 a = *(const uint4 *)x;
    uint32_t w[4] = {a.x, a.y, a.z, a.w};
    for (int i = 0; i < 4; i++) {
        v[2 * i] = __uint_as_float(w[i] << 16);
        v[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
    }
}
__device__ __forceinline__ void write8(float *y, const float v[RUN]) {
    *(float4 *)y = make_float4(v[0], v[1], v[2], v[3]);
    *(float4 *)(y + 4) = make_float4(v[4], v[5], v[6], v[7]);
}
__device__ __forceinline__ void write8(bf16 *y, const float v[RUN]) {
    *(uint4 *)y = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
}

template <class From, class To> __device__ void convert(const From *x, To *y, uint64_t n) {
    uint64_t at = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) * RUN;
    if (at >= n) return;
    bool aligned = (((size_t)x | (size_t)y) & 15) == 0;
    if (aligned && at + RUN <= n) {
        float v[RUN];
        read8(x + at, v);
        write8(y + at, v);
    } else {
        for (uint64_t i = at; i < n && i < at + RUN; i++) y[i] = narrow<To>(widen(x[i]));
    }
}
} // namespace cast

extern "C" __global__ void cast_f32_bf16(const float *x, bf16 *y, uint64_t n) { cast::convert(x, y, n); }
EXPORT(cast_f32_bf16)
extern "C" __global__ void cast_bf16_f32(const bf16 *x, float *y, uint64_t n) { cast::convert(x, y, n); }
EXPORT(cast_bf16_f32)
