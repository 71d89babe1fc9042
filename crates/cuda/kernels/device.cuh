// What the kernels share: bf16 without a header, reductions, tensor-core products. Under
// RANDORI_EMULATE the host compiler sees emulate.hpp instead of the device's intrinsics; everything
// else is the same text.
#pragma once
#ifdef RANDORI_EMULATE
#include "emulate.hpp"
#else
#include <stdint.h>
// Declares dynamic shared memory; one name a translation unit.
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) char name[]
#define EXPORT(name)
#endif

#define INFINITE __uint_as_float(0x7f800000u)
#define FULL 0xffffffffu

struct __align__(2) bf16 { uint16_t bits; };
struct __align__(4) bf162 { bf16 x, y; };

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(bf16 x) { return __uint_as_float((uint32_t)x.bits << 16); }

// IEEE half to float, exactly.
__device__ __forceinline__ float widen_half(uint16_t h) {
#if defined(__CUDA_ARCH__)
    float r;
    asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(h));
    return r;
#else
    // the exponent's bias is 15 instead of 127: 2^112 corrects it, for subnormal numbers too
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, size = (uint32_t)(h & 0x7fffu) << 13;
    if ((h & 0x7c00u) == 0x7c00u) return __uint_as_float(sign | 0x7f800000u | size);
    return __uint_as_float(__float_as_uint(__uint_as_float(size) * __uint_as_float(0x77800000u)) | sign);
#endif
}

// The bits of x in bf16, rounded to nearest, ties to even; NaN stays NaN.
__device__ __forceinline__ uint16_t bf16_bits(float x) {
#if defined(__CUDA_ARCH__)
    uint16_t r;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(x));
    return r;
#else
    uint32_t u = __float_as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
#endif
}
template <class T> __device__ __forceinline__ T narrow(float x);
template <> __device__ __forceinline__ float narrow<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 narrow<bf16>(float x) { bf16 r; r.bits = bf16_bits(x); return r; }
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) { return (uint32_t)bf16_bits(low) | ((uint32_t)bf16_bits(high) << 16); }

// 16 bytes of memory as floats, 4 of f32 or 8 of bf16; `p` must be aligned16.
template <class T> constexpr int in16 = 16 / (int)sizeof(T);
__device__ __forceinline__ bool aligned16(const void *p) { return ((size_t)p & 15) == 0; }
__device__ __forceinline__ void load16(const float *p, float v[4]) {
    float4 t = *(const float4 *)p;
    v[0] = t.x; v[1] = t.y; v[2] = t.z; v[3] = t.w;
}
__device__ __forceinline__ void load16(const bf16 *p, float v[8]) {
    uint4 t = *(const uint4 *)p;
    uint32_t w[4] = {t.x, t.y, t.z, t.w};
    for (int i = 0; i < 4; i++) {
        v[2 * i] = __uint_as_float(w[i] << 16);
        v[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
    }
}
__device__ __forceinline__ void store16(float *p, const float v[4]) { *(float4 *)p = make_float4(v[0], v[1], v[2], v[3]); }
__device__ __forceinline__ void store16(bf16 *p, const float v[8]) {
    *(uint4 *)p = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
}

// Sum and maximum over a warp: every lane gets the result.
__device__ __forceinline__ float warp_sum(float v) {
    for (int m = 16; m; m >>= 1) v += __shfl_xor_sync(FULL, v, m);
    return v;
}
__device__ __forceinline__ float warp_max(float v) {
    for (int m = 16; m; m >>= 1) v = fmaxf(v, __shfl_xor_sync(FULL, v, m));
    return v;
}
// Sum and maximum over a block of up to 1024 threads, a multiple of 32: every thread gets the
// result. `scratch` is 33 floats used by these two alone; calls may follow each other without a
// barrier, since the last float is written behind one.
__device__ __forceinline__ float block_sum(float v, float *scratch) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    v = warp_sum(v);
    if (lane == 0) scratch[warp] = v;
    __syncthreads();
    if (warp == 0) {
        float t = warp_sum(lane < warps ? scratch[lane] : 0.0f);
        if (lane == 0) scratch[32] = t;
    }
    __syncthreads();
    return scratch[32];
}
__device__ __forceinline__ float block_max(float v, float *scratch) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    v = warp_max(v);
    if (lane == 0) scratch[warp] = v;
    __syncthreads();
    if (warp == 0) {
        float t = warp_max(lane < warps ? scratch[lane] : -INFINITE);
        if (lane == 0) scratch[32] = t;
    }
    __syncthreads();
    return scratch[32];
}

// d += a b for a 16 x 16 bf16 (row-major fragments), b 16 x 8 bf16 (column-major fragments), d 16 x
// 8 f32: the layout of PTX's mma.sync.m16n8k16. With g = lane / 4, t = lane % 4: a[0] holds (row g,
// k 2t, 2t+1), a[1] (g+8, 2t..), a[2] (g, 2t+8..), a[3] (g+8, 2t+8..); b[0] (k 2t, 2t+1; column g),
// b[1] (k 2t+8..; g); d[0], d[1] (g; columns 2t, 2t+1), d[2], d[3] (g+8).
__device__ __forceinline__ void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
#if defined(RANDORI_EMULATE)
    struct Fragment { uint32_t a[4], b[2]; } mine;
    for (int i = 0; i < 4; i++) mine.a[i] = a[i];
    mine.b[0] = b[0]; mine.b[1] = b[1];
    emu::Exchange<Fragment> all(mine);
    unsigned lane = emu::state().now->lane, g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) {
        unsigned row = g + (i / 2) * 8, column = 2 * t + i % 2;
        float sum = 0;
        for (unsigned k = 0; k < 16; k++) {
            Fragment fa = all.read((row % 8) * 4 + (k % 8) / 2), fb = all.read(column * 4 + (k % 8) / 2);
            uint32_t wa = fa.a[(row / 8) + 2 * (k / 8)], wb = fb.b[k / 8];
            float x = __uint_as_float((k % 2 ? wa >> 16 : wa & 0xffffu) << 16);
            float y = __uint_as_float((k % 2 ? wb >> 16 : wb & 0xffffu) << 16);
            sum += x * y;
        }
        d[i] += sum;
    }
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// Four 8 x 8 matrices of bf16 from shared memory: lane l gives the address of row l % 8 of matrix l
// / 8 (16 bytes, aligned). With g = lane / 4, t = lane % 4, r[i] holds row g, columns 2t, 2t+1 of
// matrix i, or with ACROSS its rows 2t, 2t+1 of column g.
template <bool ACROSS> __device__ __forceinline__ void load_matrices(uint32_t r[4], const bf16 *row) {
#if defined(RANDORI_EMULATE)
    struct Row { uint16_t v[8]; } mine;
    emu::aligned(row, 16, "ldmatrix from an address that is no multiple of 16");
    emu::touch(row, 16, emu::READ);
    memcpy(&mine, row, 16);
    emu::Exchange<Row> all(mine);
    unsigned lane = emu::state().now->lane, g = lane / 4, t = lane % 4;
    for (unsigned i = 0; i < 4; i++) {
        uint16_t low = ACROSS ? all.read(8 * i + 2 * t).v[g] : all.read(8 * i + g).v[2 * t];
        uint16_t high = ACROSS ? all.read(8 * i + 2 * t + 1).v[g] : all.read(8 * i + g).v[2 * t + 1];
        r[i] = (uint32_t)low | ((uint32_t)high << 16);
    }
#else
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    if (ACROSS)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
#endif
}

// Starts to copy the first `bytes` of 16 from global to shared memory, with zeros for the rest;
// both addresses are aligned. Copies started before a copy_commit() are one group; copy_wait<N>()
// waits until at most N groups are in flight, for this thread: others need a barrier.
__device__ __forceinline__ void copy_start(void *to, const void *from, int bytes) {
#if defined(RANDORI_EMULATE)
    emu::copy_start(to, from, bytes);
#else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from), "r"(bytes) : "memory");
#endif
}
// Starts to copy all 16 bytes, or 16 zero bytes.
__device__ __forceinline__ void copy_start(void *to, const void *from, bool there) { copy_start(to, from, there ? 16 : 0); }
__device__ __forceinline__ void copy_commit() {
#if defined(RANDORI_EMULATE)
    emu::copy_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int N> __device__ __forceinline__ void copy_wait() {
#if defined(RANDORI_EMULATE)
    emu::copy_wait(N);
#else
    asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");
#endif
}
