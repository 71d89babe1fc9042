// Products of 9 to 64 rows with GGUF's blocks: see product4.cuh. Block sizes are no multiples of 16
// bytes: a warp copies the bytes of its 16 rows to shared memory, a stage of 128 columns or of one
// block ahead, in the 16-byte pieces that they touch, and reads weights there.
#include "gguf.cuh"
#include "product4.cuh"

namespace product4 {
constexpr int common(int a, int b) { return b ? common(b, a % b) : a; }

template <class F> struct Blocks {
    static constexpr int STAGE = F::SIZE < CHUNK ? CHUNK : F::SIZE, BYTES = STAGE / F::SIZE * F::BYTES;
    // a row may begin as far into its first piece as blocks can
    static constexpr int PIECES = (BYTES + 16 - common(F::BYTES, 16) + 15) / 16;
    const uint8_t *data; // at a multiple of 16
    uint4 *raw;          // this warp's: twice 16 rows of PIECES
    uint64_t rows, columns, first;
    const uint8_t *at[2]; // the lane's blocks of this stage
    int column;           // of the lane's weights in its block

    __device__ __forceinline__ uint64_t byte(uint64_t row, uint64_t c) const { return ((first + row < rows ? first + row : rows - 1) * columns + c) / F::SIZE * F::BYTES; }
    __device__ __forceinline__ uint4 *side(uint64_t c) const { return raw + (c / STAGE & 1) * 16 * PIECES; }

    __device__ __forceinline__ void start(uint64_t c) {
        if (c % STAGE) return; // there already
        uint64_t all = rows * columns / F::SIZE * F::BYTES;
        int bytes = (int)(columns - c < STAGE ? columns - c : STAGE) / F::SIZE * F::BYTES;
        uint4 *to = side(c);
        for (int i = threadIdx.x & 31; i < 16 * PIECES; i += 32) {
            uint64_t from = byte(i / PIECES, c), piece = from / 16 * 16 + i % PIECES * 16;
            bool there = piece < from + bytes;
            copy_start(to + i, data + (there ? piece : 0), there && piece < all ? (int)(all - piece < 16 ? all - piece : 16) : 0);
        }
    }
    __device__ __forceinline__ void turn(uint64_t c) {
        int lane = threadIdx.x & 31;
        uint64_t stage = c / STAGE * STAGE;
        int here = (int)(c - stage) + 32 * (lane % 4);
        if (stage + here >= columns) here = (int)(columns - stage) - 32;
        column = here % F::SIZE;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int row = lane / 4 + 8 * h;
            at[h] = (const uint8_t *)(side(c) + row * PIECES) + byte(row, stage) % 16 + here / F::SIZE * F::BYTES;
        }
    }
    __device__ __forceinline__ void four(int h, int q, uint32_t pair[2]) const {
        float w[4];
        F::template run<4>(at[h], column + 4 * q, w);
        pair[0] = pack_bf16(w[0], w[1]);
        pair[1] = pack_bf16(w[2], w[3]);
    }
};

template <class F, int N>
__device__ __forceinline__ void from_blocks(const uint8_t *data, const bf16 *x, bf16 *y, float *parts, int n, uint64_t rows, uint64_t columns,
                                            uint32_t share, uint4 *shared) {
    int warp = threadIdx.x / 32;
    Blocks<F> w{data, shared + 2 * N * ROW + warp * 2 * 16 * Blocks<F>::PIECES, rows, columns, (uint64_t)blockIdx.x * OUTPUTS + warp * 16};
    product<N>(w, x, y, parts, n, rows, columns, share, shared);
}
} // namespace product4

// As nf4_product_N; `share` is a multiple of 256.
#define PRODUCT_GGUF(F, format, N)                                                                                                    \
    extern "C" __global__ __launch_bounds__(256, 2) void product_##format##_##N(                                                       \
        const uint8_t *data, const bf16 *x, bf16 *y, float *parts, int n, uint64_t rows, uint64_t columns, uint32_t share) {           \
        DYNAMIC_SHARED(product_gguf_shared);                                                                                           \
        product4::from_blocks<gguf::F, N>(data, x, y, parts, n, rows, columns, share, (uint4 *)product_gguf_shared);                   \
    }                                                                                                                                  \
    EXPORT(product_##format##_##N)
#define PRODUCT_GGUF_ALL(F, format) PRODUCT_GGUF(F, format, 16) PRODUCT_GGUF(F, format, 32) PRODUCT_GGUF(F, format, 64)
PRODUCT_GGUF_ALL(Q4_0, q4_0)
PRODUCT_GGUF_ALL(Q4_1, q4_1)
PRODUCT_GGUF_ALL(Q5_0, q5_0)
PRODUCT_GGUF_ALL(Q5_1, q5_1)
PRODUCT_GGUF_ALL(Q8_0, q8_0)
PRODUCT_GGUF_ALL(Q4K, q4k)
PRODUCT_GGUF_ALL(Q5K, q5k)
PRODUCT_GGUF_ALL(Q6K, q6k)
