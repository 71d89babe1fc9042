// Attention, forward: out = softmax(cap(scale · q kᵀ)) v over the keys that each query sees, and
// lse = log Σ e^score. One thread block for (block of at most 64 queries, head), with an on-line
// soft-max over tiles of keys (FlashAttention-2, arXiv 2307.08691):
//   m' = max(m, s), l' = e^(m - m') l + Σ e^(s - m'), o' = e^(m - m') o + e^(s - m') v;
//   out = o / l, lse = m + log l.
// q, out (tokens, heads, d); k, v (rows, kv_heads, d); lse (heads, tokens). A query that sees no
// key gets zeros and lse -∞.
#include "attention.cuh"

namespace attention {

// bf16: each warp computes 16 queries; scores become weights in registers.
template <int D>
__device__ __forceinline__ void forward(const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *lse, const Block *blocks, const Run *runs, const Sizes &s) {
    constexpr int KEYS = D > 128 ? 32 : 64;
    typedef Tile<bf16, D> T;
    DYNAMIC_SHARED(attention_shared);
    bf16 *qs = (bf16 *)attention_shared, *ks = qs + 64 * T::ROW, *vs = ks + KEYS * T::ROW;
    const Block b = blocks[blockIdx.x / s.heads];
    int head = blockIdx.x % s.heads, kv = head / (s.heads / s.kv_heads);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    size_t q_row = (size_t)s.heads * s.d, k_row = (size_t)s.kv_heads * s.d;
    bool wide = wide_rows<bf16>(s.d, q, k, v, out), active = warp * 16 < b.count;
    k += kv * s.d;
    v += kv * s.d;
    T::template load<64, 128>(qs, q + b.row * q_row + head * s.d, q_row, b.count, s.d, wide, threadIdx.x);
    float o[D / 8][4] = {}, most[2] = {-INFINITE, -INFINITE}, sum[2] = {0, 0};
    auto pieces = keys_of<KEYS>(b, runs, b.position, b.position + b.count - 1, s.window);
    Run now, next;
    bool more = pieces.next(now);
    if (more) T::template load<KEYS, 128>(ks, k + now.row * k_row, k_row, now.count, s.d, wide, threadIdx.x);
    copy_commit();
    while (more) {
        copy_wait<0>();
        __syncthreads(); // the keys have arrived, the previous values have been used
        T::template load<KEYS, 128>(vs, v + now.row * k_row, k_row, now.count, s.d, wide, threadIdx.x);
        copy_commit();
        float a[KEYS / 8][4] = {};
        if (active) rows_by_rows<D, KEYS>(a, qs, warp * 16, ks);
        copy_wait<0>();
        __syncthreads(); // the values have arrived, the keys have been used
        more = pieces.next(next);
        if (more) T::template load<KEYS, 128>(ks, k + next.row * k_row, k_row, next.count, s.d, wide, threadIdx.x);
        copy_commit();
        if (active) {
            int query = b.position + warp * 16 + g;
            bool all = now.count == KEYS && all_see(b.position, b.count, now.position, KEYS, s.window);
            float top[2] = {most[0], most[1]};
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int column = 8 * n + 2 * t + i % 2;
                    float slope, x = score<false>(a[n][i], s, slope) * LOG2E;
                    bool seen = all || (column < now.count && sees(query + i / 2 * 8, now.position + column, s.window));
                    a[n][i] = seen ? x : -INFINITE;
                    top[i / 2] = fmaxf(top[i / 2], a[n][i]);
                }
            float base[2];
#pragma unroll
            for (int r = 0; r < 2; r++) {
                top[r] = fmaxf(top[r], __shfl_xor_sync(FULL, top[r], 1));
                top[r] = fmaxf(top[r], __shfl_xor_sync(FULL, top[r], 2));
                base[r] = top[r] == -INFINITE ? 0.0f : top[r]; // no key seen yet: e^-∞ must stay 0
                float shrink = exp2f(most[r] - base[r]);
                most[r] = top[r];
                sum[r] *= shrink;
#pragma unroll
                for (int n = 0; n < D / 8; n++) {
                    o[n][2 * r] *= shrink;
                    o[n][2 * r + 1] *= shrink;
                }
            }
            uint32_t p[KEYS / 16][4];
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    a[n][i] = exp2f(a[n][i] - base[i / 2]);
                    sum[i / 2] += a[n][i];
                }
#pragma unroll
            for (int n = 0; n < KEYS / 16; n++) as_weights(p[n], a[2 * n], a[2 * n + 1]);
            weights_by_rows<D, KEYS, D>(o, p, vs, 0);
        }
        now = next;
    }
    copy_wait<0>();
    __syncthreads(); // also when there were no keys: q is loaded by all threads
    if (!active) return;
    float inverse[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(FULL, sum[r], 1);
        sum[r] += __shfl_xor_sync(FULL, sum[r], 2);
        inverse[r] = sum[r] > 0 ? 1.0f / sum[r] : 0.0f;
        int row = warp * 16 + g + 8 * r;
        if (t == 0 && row < b.count)
            lse[(size_t)head * s.tokens + b.row + row] = sum[r] > 0 ? most[r] * LN2 + logf(sum[r]) : -INFINITE;
    }
    // overwrites this warp's queries, which it needs no more
    into_tile<D, D>(qs, warp * 16, 0, o, inverse[0], inverse[1]);
    __syncwarp();
    T::template store<16>(out + b.row * q_row + head * s.d, qs, q_row, warp * 16, b.count, 0, D, s.d, wide);
}

// f32: blockIdx.y selects 32 queries of the block.
template <int D>
__device__ __forceinline__ void forward(const float *q, const float *k, const float *v, float *out, float *lse, const Block *blocks, const Run *runs, const Sizes &s) {
    constexpr int STEP = passing(D), N = STEP / 16;
    typedef Tile<float, D> T;
    DYNAMIC_SHARED(attention_shared);
    float *qs = (float *)attention_shared, *pass = qs + STAY * T::ROW, *weights = pass + STEP * T::ROW;
    Block b = blocks[blockIdx.x / s.heads];
    int skip = blockIdx.y * STAY, head = blockIdx.x % s.heads, kv = head / (s.heads / s.kv_heads);
    if (skip >= b.count) return;
    b.row += skip;
    b.position += skip;
    b.count = min(STAY, b.count - skip);
    int y = threadIdx.x / 16, x = threadIdx.x % 16;
    size_t q_row = (size_t)s.heads * s.d, k_row = (size_t)s.kv_heads * s.d;
    bool wide = wide_rows<float>(s.d, q, k, v, out);
    k += kv * s.d;
    v += kv * s.d;
    T::template load<STAY, 128>(qs, q + b.row * q_row + head * s.d, q_row, b.count, s.d, wide, threadIdx.x);
    float2 o[4][D / 32] = {};
    float most[4], sum[4] = {};
    for (int i = 0; i < 4; i++) most[i] = -INFINITE;
    auto pieces = keys_of<STEP>(b, runs, b.position, b.position + b.count - 1, s.window);
    Run now;
    while (pieces.next(now)) {
        T::template load<STEP, 128>(pass, k + now.row * k_row, k_row, now.count, s.d, wide, threadIdx.x);
        copy_commit();
        copy_wait<0>();
        __syncthreads();
        float a[4][N];
        dots<D>(a, qs, pass);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float top = most[i];
#pragma unroll
            for (int j = 0; j < N; j++) {
                int column = x + 16 * j;
                float slope, v = score<true>(a[i][j], s, slope);
                bool seen = column < now.count && sees(b.position + 4 * y + i, now.position + column, s.window);
                a[i][j] = seen ? v : -INFINITE;
                top = fmaxf(top, a[i][j]);
            }
            for (int m = 8; m; m >>= 1) top = fmaxf(top, __shfl_xor_sync(FULL, top, m));
            float base = top == -INFINITE ? 0.0f : top, shrink = expf(most[i] - base);
            most[i] = top;
            sum[i] *= shrink;
#pragma unroll
            for (int j = 0; j < N; j++) {
                a[i][j] = expf(a[i][j] - base);
                sum[i] += a[i][j];
            }
#pragma unroll
            for (int j = 0; j < D / 32; j++) {
                o[i][j].x *= shrink;
                o[i][j].y *= shrink;
            }
        }
        put_weights<D>(weights, a);
        __syncthreads(); // the keys have been used
        T::template load<STEP, 128>(pass, v + now.row * k_row, k_row, now.count, s.d, wide, threadIdx.x);
        copy_commit();
        copy_wait<0>();
        __syncthreads();
        weigh<D>(o, weights, pass);
        __syncthreads();
    }
    copy_wait<0>();
    float inverse[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        for (int m = 8; m; m >>= 1) sum[i] += __shfl_xor_sync(FULL, sum[i], m);
        inverse[i] = sum[i] > 0 ? 1.0f / sum[i] : 0.0f;
        if (x == 0 && 4 * y + i < b.count)
            lse[(size_t)head * s.tokens + b.row + 4 * y + i] = sum[i] > 0 ? most[i] + logf(sum[i]) : -INFINITE;
    }
    store_rows<D>(out + b.row * q_row + head * s.d, q_row, o, b.count, s.d, inverse);
}
} // namespace attention

#define FORWARD(D, T, name)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(128) attention_forward_##D##_##name(                                             \
        const T *q, const T *k, const T *v, T *out, float *lse, const attention::Block *blocks, const attention::Run *runs,       \
        int tokens, int heads, int kv_heads, int d, float scale, int window, float softcap) {                                     \
        attention::forward<D>(q, k, v, out, lse, blocks, runs, attention::Sizes{tokens, heads, kv_heads, d, scale, window, softcap}); \
    }                                                                                                                             \
    EXPORT(attention_forward_##D##_##name)
FORWARD(32, float, f32)
FORWARD(64, float, f32)
FORWARD(96, float, f32)
FORWARD(128, float, f32)
FORWARD(256, float, f32)
FORWARD(32, bf16, bf16)
FORWARD(64, bf16, bf16)
FORWARD(96, bf16, bf16)
FORWARD(128, bf16, bf16)
FORWARD(256, bf16, bf16)
