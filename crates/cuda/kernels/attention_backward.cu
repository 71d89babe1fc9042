// Attention's gradient. With p = e^(s - lse), D = Σ dout·out (over d):
//   dv = pᵀ dout;  ds = p · (dout vᵀ - D) · cap';  dq = scale · ds k;  dk = scale · dsᵀ q.
// p is recomputed from lse (FlashAttention, arXiv 2205.14135). One kernel runs over blocks of
// queries for dq, one over blocks of keys for dk and dv, with all query heads of a key head in
// order: no two blocks add to the same value, so the result is deterministic.
#include "attention.cuh"

namespace attention {

// delta (heads, tokens) = Σ dout·out. One warp for each (token, head).
template <class T>
__device__ __forceinline__ void inner(const T *out, const T *dout, float *delta, int tokens, int heads, int d) {
    size_t row = (size_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= (size_t)tokens * heads) return;
    out += row * d;
    dout += row * d;
    float sum = 0;
    for (int i = threadIdx.x % 32; i < d; i += 32) sum += widen(out[i]) * widen(dout[i]);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) delta[row % heads * tokens + row / heads] = sum;
}

// Inputs of the gradient's kernels.
template <class T> struct Given {
    const T *q, *k, *v, *dout;
    const float *lse, *delta;
    const Block *blocks;
    const Run *runs;
};
// Replaces `product` by p = e^(s - lse), and `dp` by ds = p (dp - delta) cap', the gradient to
// scale · q·k.
template <bool EXACT> __device__ __forceinline__ void slope(float &product, float &dp, float lse, float delta, bool seen, const Sizes &s) {
    float cap, x = score<EXACT>(product, s, cap);
    float p = seen ? (EXACT ? expf(x - lse) : exp2f((x - lse) * LOG2E)) : 0.0f;
    product = p;
    dp = seen ? p * (dp - delta) * cap : 0.0f;
}

template <int D> __device__ __forceinline__ void backward_queries(const Given<bf16> &in, bf16 *dq, const Sizes &s) {
    constexpr int KEYS = D > 64 ? 32 : 64;
    typedef Tile<bf16, D> T;
    DYNAMIC_SHARED(attention_backward_shared);
    bf16 *qs = (bf16 *)attention_backward_shared, *os = qs + 64 * T::ROW, *ks = os + 64 * T::ROW, *vs = ks + KEYS * T::ROW;
    const Block b = in.blocks[blockIdx.x / s.heads];
    int head = blockIdx.x % s.heads, kv = head / (s.heads / s.kv_heads);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    size_t q_row = (size_t)s.heads * s.d, k_row = (size_t)s.kv_heads * s.d;
    bool wide = wide_rows<bf16>(s.d, in.q, in.k, in.v, in.dout) && ((size_t)dq & 15) == 0, active = warp * 16 < b.count;
    const bf16 *k = in.k + kv * s.d, *v = in.v + kv * s.d;
    T::template load<64, 128>(qs, in.q + b.row * q_row + head * s.d, q_row, b.count, s.d, wide, threadIdx.x);
    T::template load<64, 128>(os, in.dout + b.row * q_row + head * s.d, q_row, b.count, s.d, wide, threadIdx.x);
    float lse[2], delta[2];
    for (int r = 0; r < 2; r++) {
        int row = warp * 16 + g + 8 * r;
        size_t at = (size_t)head * s.tokens + b.row + row;
        lse[r] = row < b.count ? in.lse[at] : 0.0f;
        delta[r] = row < b.count ? in.delta[at] : 0.0f;
    }
    float acc[D / 8][4] = {};
    auto pieces = keys_of<KEYS>(b, in.runs, b.position, b.position + b.count - 1, s.window);
    Run now;
    while (pieces.next(now)) {
        T::template load<KEYS, 128>(ks, k + now.row * k_row, k_row, now.count, s.d, wide, threadIdx.x);
        T::template load<KEYS, 128>(vs, v + now.row * k_row, k_row, now.count, s.d, wide, threadIdx.x);
        copy_commit();
        copy_wait<0>();
        __syncthreads();
        if (active) {
            float a[KEYS / 8][4] = {}, dp[KEYS / 8][4] = {};
            rows_by_rows<D, KEYS>(a, qs, warp * 16, ks);
            rows_by_rows<D, KEYS>(dp, os, warp * 16, vs);
            bool all = now.count == KEYS && all_see(b.position, b.count, now.position, KEYS, s.window);
            int query = b.position + warp * 16 + g;
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int column = 8 * n + 2 * t + i % 2;
                    bool seen = all || (column < now.count && sees(query + i / 2 * 8, now.position + column, s.window));
                    slope<false>(a[n][i], dp[n][i], lse[i / 2], delta[i / 2], seen, s);
                }
            uint32_t ds[KEYS / 16][4];
#pragma unroll
            for (int n = 0; n < KEYS / 16; n++) as_weights(ds[n], dp[2 * n], dp[2 * n + 1]);
            weights_by_rows<D, KEYS, D>(acc, ds, ks, 0);
        }
        __syncthreads();
    }
    copy_wait<0>();
    __syncthreads();
    if (!active) return;
    into_tile<D, D>(qs, warp * 16, 0, acc, s.scale, s.scale);
    __syncwarp();
    T::template store<16>(dq + b.row * q_row + head * s.d, qs, q_row, warp * 16, b.count, 0, D, s.d, wide);
}

// 16 keys a warp. Above 128 columns dk and dv of 16 keys do not fit a warp's registers: two warps
// then share the keys, with half of the columns each, and both compute the scores.
__host__ __device__ constexpr int halves(int D) { return D > 128 ? 2 : 1; }
template <int D> __device__ __forceinline__ void backward_keys(const Given<bf16> &in, bf16 *dk, bf16 *dv, const Sizes &s) {
    constexpr int QUERIES = 32, THREADS = 128 * halves(D), COLUMNS = D / halves(D);
    typedef Tile<bf16, D> T;
    DYNAMIC_SHARED(attention_backward_shared);
    bf16 *ks = (bf16 *)attention_backward_shared, *vs = ks + 64 * T::ROW, *qs = vs + 64 * T::ROW, *os = qs + QUERIES * T::ROW;
    float *lse = (float *)(os + QUERIES * T::ROW), *delta = lse + QUERIES;
    const Block b = in.blocks[blockIdx.x / s.kv_heads];
    int kv = blockIdx.x % s.kv_heads, group = s.heads / s.kv_heads;
    int warp = threadIdx.x / 32 % 4, begin = threadIdx.x / 128 * COLUMNS, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    size_t q_row = (size_t)s.heads * s.d, k_row = (size_t)s.kv_heads * s.d, k_at = b.row * k_row + kv * s.d;
    bool wide = wide_rows<bf16>(s.d, in.q, in.k, in.v, in.dout) && (((size_t)dk | (size_t)dv) & 15) == 0, active = warp * 16 < b.count;
    T::template load<64, THREADS>(ks, in.k + k_at, k_row, b.count, s.d, wide, threadIdx.x);
    T::template load<64, THREADS>(vs, in.v + k_at, k_row, b.count, s.d, wide, threadIdx.x);
    float dks[COLUMNS / 8][4] = {}, dvs[COLUMNS / 8][4] = {};
    for (int head = kv * group; head < (kv + 1) * group; head++) {
        auto pieces = queries_of<QUERIES>(b, in.runs, b.position, b.position + b.count - 1, s.window);
        Run now;
        while (pieces.next(now)) {
            size_t q_at = now.row * q_row + head * s.d;
            T::template load<QUERIES, THREADS>(qs, in.q + q_at, q_row, now.count, s.d, wide, threadIdx.x);
            T::template load<QUERIES, THREADS>(os, in.dout + q_at, q_row, now.count, s.d, wide, threadIdx.x);
            copy_commit();
            if (threadIdx.x < 2 * QUERIES) {
                int i = threadIdx.x % QUERIES;
                const float *from = threadIdx.x < QUERIES ? in.lse : in.delta;
                // delta lies behind lse
                lse[threadIdx.x] = i < now.count ? from[(size_t)head * s.tokens + now.row + i] : 0.0f;
            }
            copy_wait<0>();
            __syncthreads();
            if (active) {
                float a[QUERIES / 8][4] = {}, dp[QUERIES / 8][4] = {};
                rows_by_rows<D, QUERIES>(a, ks, warp * 16, qs);
                rows_by_rows<D, QUERIES>(dp, vs, warp * 16, os);
                bool all = now.count == QUERIES && all_see(now.position, QUERIES, b.position, b.count, s.window);
                int key = warp * 16 + g;
#pragma unroll
                for (int n = 0; n < QUERIES / 8; n++)
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        int column = 8 * n + 2 * t + i % 2, row = key + i / 2 * 8;
                        bool seen = row < b.count && (all || (column < now.count && sees(now.position + column, b.position + row, s.window)));
                        slope<false>(a[n][i], dp[n][i], lse[column], delta[column], seen, s);
                    }
                uint32_t p[QUERIES / 16][4];
#pragma unroll
                for (int n = 0; n < QUERIES / 16; n++) as_weights(p[n], a[2 * n], a[2 * n + 1]);
                weights_by_rows<D, QUERIES, COLUMNS>(dvs, p, os, begin);
#pragma unroll
                for (int n = 0; n < QUERIES / 16; n++) as_weights(p[n], dp[2 * n], dp[2 * n + 1]);
                weights_by_rows<D, QUERIES, COLUMNS>(dks, p, qs, begin);
            }
            __syncthreads();
        }
    }
    copy_wait<0>();
    __syncthreads(); // all warps have used the keys and values; the results overwrite them
    if (!active) return;
    into_tile<D, COLUMNS>(ks, warp * 16, begin, dks, s.scale, s.scale);
    into_tile<D, COLUMNS>(vs, warp * 16, begin, dvs, 1.0f, 1.0f);
    __syncwarp();
    T::template store<16>(dk + k_at, ks, k_row, warp * 16, b.count, begin, COLUMNS, s.d, wide);
    T::template store<16>(dv + k_at, vs, k_row, warp * 16, b.count, begin, COLUMNS, s.d, wide);
}

// blockIdx.y selects 32 queries of the block.
template <int D> __device__ __forceinline__ void backward_queries(const Given<float> &in, float *dq, const Sizes &s) {
    constexpr int STEP = passing(D), N = STEP / 16;
    typedef Tile<float, D> T;
    DYNAMIC_SHARED(attention_backward_shared);
    float *qs = (float *)attention_backward_shared, *os = qs + STAY * T::ROW, *pass = os + STAY * T::ROW, *weights = pass + STEP * T::ROW;
    Block b = in.blocks[blockIdx.x / s.heads];
    int skip = blockIdx.y * STAY, head = blockIdx.x % s.heads, kv = head / (s.heads / s.kv_heads);
    if (skip >= b.count) return;
    b.row += skip;
    b.position += skip;
    b.count = min(STAY, b.count - skip);
    int y = threadIdx.x / 16, x = threadIdx.x % 16;
    size_t q_row = (size_t)s.heads * s.d, k_row = (size_t)s.kv_heads * s.d, q_at = b.row * q_row + head * s.d;
    bool wide = wide_rows<float>(s.d, in.q, in.k, in.v, in.dout);
    const float *k = in.k + kv * s.d, *v = in.v + kv * s.d;
    T::template load<STAY, 128>(qs, in.q + q_at, q_row, b.count, s.d, wide, threadIdx.x);
    T::template load<STAY, 128>(os, in.dout + q_at, q_row, b.count, s.d, wide, threadIdx.x);
    float lse[4], delta[4], factor[4];
    for (int i = 0; i < 4; i++) {
        bool there = 4 * y + i < b.count;
        size_t at = (size_t)head * s.tokens + b.row + 4 * y + i;
        lse[i] = there ? in.lse[at] : 0.0f;
        delta[i] = there ? in.delta[at] : 0.0f;
        factor[i] = s.scale;
    }
    float2 acc[4][D / 32] = {};
    auto pieces = keys_of<STEP>(b, in.runs, b.position, b.position + b.count - 1, s.window);
    Run now;
    while (pieces.next(now)) {
        T::template load<STEP, 128>(pass, v + now.row * k_row, k_row, now.count, s.d, wide, threadIdx.x);
        copy_commit();
        copy_wait<0>();
        __syncthreads();
        float a[4][N], dp[4][N];
        dots<D>(dp, os, pass);
        __syncthreads();
        T::template load<STEP, 128>(pass, k + now.row * k_row, k_row, now.count, s.d, wide, threadIdx.x);
        copy_commit();
        copy_wait<0>();
        __syncthreads();
        dots<D>(a, qs, pass);
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < N; j++) {
                int column = x + 16 * j;
                bool seen = column < now.count && sees(b.position + 4 * y + i, now.position + column, s.window);
                slope<true>(a[i][j], dp[i][j], lse[i], delta[i], seen, s);
            }
        put_weights<D>(weights, dp);
        __syncthreads();
        weigh<D>(acc, weights, pass);
        __syncthreads();
    }
    copy_wait<0>();
    store_rows<D>(dq + q_at, q_row, acc, b.count, s.d, factor);
}

// blockIdx.y selects 32 keys of the block. One buffer holds q and dout in turn, so q is loaded
// twice.
template <int D> __device__ __forceinline__ void backward_keys(const Given<float> &in, float *dk, float *dv, const Sizes &s) {
    constexpr int STEP = passing(D), N = STEP / 16;
    typedef Tile<float, D> T;
    DYNAMIC_SHARED(attention_backward_shared);
    float *ks = (float *)attention_backward_shared, *vs = ks + STAY * T::ROW, *pass = vs + STAY * T::ROW, *weights = pass + STEP * T::ROW;
    Block b = in.blocks[blockIdx.x / s.kv_heads];
    int skip = blockIdx.y * STAY, kv = blockIdx.x % s.kv_heads, group = s.heads / s.kv_heads;
    if (skip >= b.count) return;
    b.row += skip;
    b.position += skip;
    b.count = min(STAY, b.count - skip);
    int y = threadIdx.x / 16, x = threadIdx.x % 16;
    size_t q_row = (size_t)s.heads * s.d, k_row = (size_t)s.kv_heads * s.d, k_at = b.row * k_row + kv * s.d;
    bool wide = wide_rows<float>(s.d, in.q, in.k, in.v, in.dout);
    T::template load<STAY, 128>(ks, in.k + k_at, k_row, b.count, s.d, wide, threadIdx.x);
    T::template load<STAY, 128>(vs, in.v + k_at, k_row, b.count, s.d, wide, threadIdx.x);
    float2 dks[4][D / 32] = {}, dvs[4][D / 32] = {};
    for (int head = kv * group; head < (kv + 1) * group; head++) {
        auto pieces = queries_of<STEP>(b, in.runs, b.position, b.position + b.count - 1, s.window);
        Run now;
        while (pieces.next(now)) {
            size_t q_at = now.row * q_row + head * s.d;
            auto bring = [&](const float *from) {
                __syncthreads(); // the previous tile has been used, the weights are written
                T::template load<STEP, 128>(pass, from + q_at, q_row, now.count, s.d, wide, threadIdx.x);
                copy_commit();
                copy_wait<0>();
                __syncthreads();
            };
            float a[4][N], dp[4][N];
            bring(in.q);
            dots<D>(a, ks, pass);
            bring(in.dout);
            dots<D>(dp, vs, pass);
#pragma unroll
            for (int j = 0; j < N; j++) {
                int column = x + 16 * j;
                bool there = column < now.count;
                size_t at = (size_t)head * s.tokens + now.row + column;
                float lse = there ? in.lse[at] : 0.0f, delta = there ? in.delta[at] : 0.0f;
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    bool seen = there && 4 * y + i < b.count && sees(now.position + column, b.position + 4 * y + i, s.window);
                    slope<true>(a[i][j], dp[i][j], lse, delta, seen, s);
                }
            }
            put_weights<D>(weights, a);
            __syncthreads();
            weigh<D>(dvs, weights, pass);
            __syncthreads();
            put_weights<D>(weights, dp);
            bring(in.q);
            weigh<D>(dks, weights, pass);
        }
    }
    copy_wait<0>();
    float factor[4], one[4];
    for (int i = 0; i < 4; i++) factor[i] = s.scale, one[i] = 1.0f;
    store_rows<D>(dk + k_at, k_row, dks, b.count, s.d, factor);
    store_rows<D>(dv + k_at, k_row, dvs, b.count, s.d, one);
}
template <class T> __host__ __device__ constexpr int key_threads(int D) { return sizeof(T) == 2 ? 128 * halves(D) : 128; }
} // namespace attention

#define BACKWARD(D, T, name)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(128) attention_backward_queries_##D##_##name(                                    \
        const T *q, const T *k, const T *v, const T *dout, const float *lse, const float *delta, T *dq,                           \
        const attention::Block *blocks, const attention::Run *runs, int tokens, int heads, int kv_heads, int d, float scale,      \
        int window, float softcap) {                                                                                              \
        attention::backward_queries<D>(attention::Given<T>{q, k, v, dout, lse, delta, blocks, runs}, dq,                          \
                                       attention::Sizes{tokens, heads, kv_heads, d, scale, window, softcap});                     \
    }                                                                                                                             \
    EXPORT(attention_backward_queries_##D##_##name)                                                                               \
    extern "C" __global__ void __launch_bounds__(attention::key_threads<T>(D)) attention_backward_keys_##D##_##name(              \
        const T *q, const T *k, const T *v, const T *dout, const float *lse, const float *delta, T *dk, T *dv,                    \
        const attention::Block *blocks, const attention::Run *runs, int tokens, int heads, int kv_heads, int d, float scale,      \
        int window, float softcap) {                                                                                              \
        attention::backward_keys<D>(attention::Given<T>{q, k, v, dout, lse, delta, blocks, runs}, dk, dv,                         \
                                    attention::Sizes{tokens, heads, kv_heads, d, scale, window, softcap});                        \
    }                                                                                                                             \
    EXPORT(attention_backward_keys_##D##_##name)
BACKWARD(32, float, f32)
BACKWARD(64, float, f32)
BACKWARD(96, float, f32)
BACKWARD(128, float, f32)
BACKWARD(256, float, f32)
BACKWARD(32, bf16, bf16)
BACKWARD(64, bf16, bf16)
BACKWARD(96, bf16, bf16)
BACKWARD(128, bf16, bf16)
BACKWARD(256, bf16, bf16)

#define DELTA(T, name)                                                                                                            \
    extern "C" __global__ void attention_delta_##name(const T *out, const T *dout, float *delta, int tokens, int heads, int d) {   \
        attention::inner(out, dout, delta, tokens, heads, d);                                                                     \
    }                                                                                                                             \
    EXPORT(attention_delta_##name)
DELTA(float, f32)
DELTA(bf16, bf16)
