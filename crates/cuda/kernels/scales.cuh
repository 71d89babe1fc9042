// The scales of blocks of 4-bit weights.
#pragma once
#include "device.cuh"

struct Scales {
    const float *plain;         // one a block, or with `codes` one for each `nested` codes
    const uint8_t *codes;       // null: plain
    const float *map;           // 256
    float offset;
    uint32_t nested;
    __device__ __forceinline__ float at(uint32_t block) const {
        if (!codes) return __ldg(plain + block);
        // two roundings, as on the CPU
        return __fadd_rn(__fmul_rn(__ldg(map + codes[block]), __ldg(plain + block / nested)), offset);
    }
};
