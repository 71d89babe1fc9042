// Attention of a few new queries per sequence over a paged cache, and appending rows to that cache.
//
// A thread block computes (sequence, key head, 16 rows, chunk of CHUNK keys); a row is a (query,
// query head of the group), so keys and values are read once for the whole group. Each of the 4
// warps computes every fourth piece of 16 keys with its own on-line soft-max; the warps are merged
// in order, and the chunks of a sequence by a second kernel. Pieces and chunks are cut by position
// in the sequence: a sequence's result does not depend on the rest of the batch. q, out (tokens,
// heads, d); k, v pages (pages * page, kv_heads, d); key i of a sequence has position i and lies in
// row table[i / page] * page + i % page.
#include "attention.cuh"

namespace attention {

// Queries row..row + count are at its last keys' positions; slot: row of the table of pages.
struct Sequence { int row, count, keys, slot; };
constexpr int CHUNK = 512;                       // keys: as src/ops/decode.rs has it
constexpr int MERGE = 16;                        // rows, and keys of a piece

template <class T> struct Cache {
    const T *k, *v;
    const int *tables;
    int pages, page; // pages of a table, rows of a page
    __device__ __forceinline__ size_t row(const int *table, int key) const { return (size_t)table[key / page] * page + key % page; }
};

// Loads 16 keys (those of first..end) into a warp's own tile.
template <class T, int D>
__device__ __forceinline__ void load_keys(T *to, const T *from, const Cache<T> &c, const int *table, int first, int end, int kv, const Sizes &s, bool wide) {
    constexpr int PIECE = Tile<T, D>::PIECE;
    int lane = threadIdx.x % 32;
#pragma unroll 4
    for (int i = lane; i < MERGE * (D / PIECE); i += 32) {
        int key = i / (D / PIECE), column = i % (D / PIECE) * PIECE;
        bool there = first + key < end && column < s.d;
        const T *source = from;
        if (there) source += (c.row(table, first + key) * s.kv_heads + kv) * s.d + column;
        T *place = to + Tile<T, D>::at(key, column);
        if (wide) copy_start(place, source, there);
        else for (int e = 0; e < PIECE; e++) place[e] = there && column + e < s.d ? source[e] : narrow<T>(0.0f);
    }
}

// A warp's partial soft-max of its 16 rows: maxima, sums and unnormalised outputs, as 2 x 16 and 16
// x D floats in shared memory.
struct Part { float *most, *sum, *o; };

// A warp's computation: begin, then scores and values of 16 keys at a time, then put.
template <class T, int D> struct Way;
// bf16, on the tensor cores: rows g and g + 8 of 16, scores and outputs in mma's layout.
template <int D> struct Way<bf16, D> {
    // a tile for keys and one for values: one loads while the other is used
    static constexpr int TILES = 2;
    float o[D / 8][4], most[2], sum[2];
    uint32_t p[1][4];
    __device__ __forceinline__ void begin() {
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) o[n][i] = 0;
        most[0] = most[1] = -INFINITE;
        sum[0] = sum[1] = 0;
    }
    __device__ __forceinline__ void scores(const bf16 *qs, const bf16 *ks, float *, int rows, int group, int first_row, int position, int key, int end, const Sizes &s) {
        int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        float a[2][4] = {}, top[2] = {most[0], most[1]}, base[2];
        rows_by_rows<D, 16>(a, qs, 0, ks);
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int at = key + 8 * n + 2 * t + i % 2;
                float slope, x = score<false>(a[n][i], s, slope) * LOG2E;
                bool seen = at < end && sees(position + (first_row + g + i / 2 * 8) / group, at, s.window);
                a[n][i] = seen ? x : -INFINITE;
                top[i / 2] = fmaxf(top[i / 2], a[n][i]);
            }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            top[r] = fmaxf(top[r], __shfl_xor_sync(FULL, top[r], 1));
            top[r] = fmaxf(top[r], __shfl_xor_sync(FULL, top[r], 2));
            base[r] = top[r] == -INFINITE ? 0.0f : top[r];
            float shrink = exp2f(most[r] - base[r]);
            most[r] = top[r];
            sum[r] *= shrink;
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                o[n][2 * r] *= shrink;
                o[n][2 * r + 1] *= shrink;
            }
        }
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                a[n][i] = exp2f(a[n][i] - base[i / 2]);
                sum[i / 2] += a[n][i];
            }
        as_weights(p[0], a[0], a[1]);
    }
    __device__ __forceinline__ void values(const bf16 *vs, const float *, int) { weights_by_rows<D, 16, D>(o, p, vs, 0); }
    __device__ __forceinline__ void put(Part to) {
        int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            sum[r] += __shfl_xor_sync(FULL, sum[r], 1);
            sum[r] += __shfl_xor_sync(FULL, sum[r], 2);
            if (t == 0) {
                to.most[g + 8 * r] = most[r] * LN2;
                to.sum[g + 8 * r] = sum[r];
            }
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                to.o[(g + 8 * r) * D + 8 * n + 2 * t] = o[n][2 * r];
                to.o[(g + 8 * r) * D + 8 * n + 2 * t + 1] = o[n][2 * r + 1];
            }
        }
    }
};
// f32: a lane computes one key and 8 rows of the scores, and columns lane + 32j of all rows of the
// output; weights are exchanged in shared memory.
template <int D> struct Way<float, D> {
    static constexpr int TILES = 1;
    float o[MERGE][D / 32], most[8], sum[8];
    __device__ __forceinline__ void begin() {
#pragma unroll
        for (int r = 0; r < MERGE; r++)
#pragma unroll
            for (int j = 0; j < D / 32; j++) o[r][j] = 0;
#pragma unroll
        for (int r = 0; r < 8; r++) most[r] = -INFINITE, sum[r] = 0;
    }
    // `weights`: 16 rows of 16, then 16 factors that rescale the outputs.
    __device__ __forceinline__ void scores(const float *qs, const float *ks, float *weights, int rows, int group, int first_row, int position, int key, int end, const Sizes &s) {
        constexpr int ROW = Tile<float, D>::ROW;
        int lane = threadIdx.x % 32, mine = lane % 16, half = lane / 16 * 8;
#pragma unroll
        for (int r = 0; r < 8; r++) {
            float a = 0;
            if (half + r < rows)
                for (int c = 0; c < D; c += 4) {
                    float4 x = *(const float4 *)(qs + (half + r) * ROW + c), y = *(const float4 *)(ks + mine * ROW + c);
                    a += x.x * y.x + x.y * y.y + x.z * y.z + x.w * y.w;
                }
            float slope, v = score<true>(a, s, slope);
            v = key + mine < end && sees(position + (first_row + half + r) / group, key + mine, s.window) ? v : -INFINITE;
            float top = fmaxf(most[r], v);
            for (int m = 8; m; m >>= 1) top = fmaxf(top, __shfl_xor_sync(FULL, top, m));
            float base = top == -INFINITE ? 0.0f : top, shrink = expf(most[r] - base), p = expf(v - base);
            most[r] = top;
            sum[r] = sum[r] * shrink + p;
            weights[(half + r) * 16 + mine] = p;
            if (mine == 0) weights[256 + half + r] = shrink;
        }
        __syncwarp();
    }
    __device__ __forceinline__ void values(const float *vs, const float *weights, int rows) {
        constexpr int ROW = Tile<float, D>::ROW;
        int lane = threadIdx.x % 32;
#pragma unroll
        for (int r = 0; r < MERGE; r++) {
            if (r >= rows) break;
#pragma unroll
            for (int j = 0; j < D / 32; j++) o[r][j] *= weights[256 + r];
        }
        for (int c = 0; c < 16; c++) {
            float v[D / 32];
#pragma unroll
            for (int j = 0; j < D / 32; j++) v[j] = vs[c * ROW + lane + 32 * j];
#pragma unroll
            for (int r = 0; r < MERGE; r++) {
                if (r >= rows) break;
                float w = weights[r * 16 + c];
#pragma unroll
                for (int j = 0; j < D / 32; j++) o[r][j] += w * v[j];
            }
        }
    }
    __device__ __forceinline__ void put(Part to) {
        int lane = threadIdx.x % 32, half = lane / 16 * 8;
#pragma unroll
        for (int r = 0; r < 8; r++) {
            for (int m = 8; m; m >>= 1) sum[r] += __shfl_xor_sync(FULL, sum[r], m);
            if (lane % 16 == 0) to.most[half + r] = most[r], to.sum[half + r] = sum[r];
        }
#pragma unroll
        for (int r = 0; r < MERGE; r++)
#pragma unroll
            for (int j = 0; j < D / 32; j++) to.o[r * D + lane + 32 * j] = o[r][j];
    }
};

// blockIdx: x (sequence, key head), y 16 rows, z chunk. If there is one chunk, writes out directly.
// Otherwise writes normalised outputs to `parts` (chunks, tokens, heads, d) and their log-sum-exp
// to `weights` (chunks, tokens, heads), -∞ where no key is seen.
template <class T, int D>
__device__ __forceinline__ void decode(const T *q, const Cache<T> &c, T *out, float *parts, float *weights, const Sequence *sequences, const Sizes &s) {
    typedef Tile<T, D> Q;
    typedef Way<T, D> W;
    DYNAMIC_SHARED(attention_decode_shared);
    const Sequence b = sequences[blockIdx.x / s.kv_heads];
    int kv = blockIdx.x % s.kv_heads, group = s.heads / s.kv_heads, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int first_row = blockIdx.y * MERGE, rows = min(MERGE, b.count * group - first_row), position = b.keys - b.count;
    if (rows <= 0) return;
    const int *table = c.tables + (size_t)b.slot * c.pages;
    T *qs = (T *)attention_decode_shared, *tiles = qs + MERGE * Q::ROW;
    T *ks = tiles + warp * W::TILES * MERGE * Q::ROW, *vs = ks + (W::TILES - 1) * MERGE * Q::ROW;
    // 4 x (272 floats of weights, later of most and sum)
    float *scratch = (float *)(tiles + 4 * W::TILES * MERGE * Q::ROW);
    float *passed = scratch + warp * 272;
    bool wide = wide_rows<T>(s.d, q, c.k, c.v, out);
    for (int i = threadIdx.x; i < MERGE * D; i += 128) {
        int row = i / D, column = i % D, r = first_row + row;
        bool there = row < rows && column < s.d;
        size_t at = ((size_t)(b.row + r / group) * s.heads + kv * group + r % group) * s.d + column;
        qs[Q::at(row, column / Q::PIECE * Q::PIECE) + column % Q::PIECE] = there ? q[at] : narrow<T>(0.0f);
    }
    __syncthreads();
    // the chunk's keys, less those before the first query's window
    int low = position - s.window + 1, start = blockIdx.z * CHUNK, end = min(b.keys, start + CHUNK), step = 4 * MERGE;
    int key = start + warp * MERGE;
    if (low > key) key += (low - key) / step * step;
    W way;
    way.begin();
    if (W::TILES == 2) {
        if (key < end) load_keys<T, D>(ks, c.k, c, table, key, end, kv, s, wide);
        copy_commit();
    }
    for (; key < end; key += step) {
        if (W::TILES == 1) {
            load_keys<T, D>(ks, c.k, c, table, key, end, kv, s, wide);
            copy_commit();
        }
        copy_wait<0>();
        __syncwarp();
        if (W::TILES == 2) {
            load_keys<T, D>(vs, c.v, c, table, key, end, kv, s, wide);
            copy_commit();
        }
        way.scores(qs, ks, passed, rows, group, first_row, position, key, end, s);
        __syncwarp(); // all lanes have used the keys
        if (W::TILES == 1) load_keys<T, D>(vs, c.v, c, table, key, end, kv, s, wide);
        copy_commit();
        copy_wait<0>();
        __syncwarp();
        if (W::TILES == 2) {
            if (key + step < end) load_keys<T, D>(ks, c.k, c, table, key + step, end, kv, s, wide);
            copy_commit();
        }
        way.values(vs, passed, rows);
        __syncwarp(); // all lanes have used the values
    }
    copy_wait<0>();
    __syncwarp();
    way.put(Part{passed, passed + 16, (float *)ks}); // 16 x D floats fit the warp's own tiles
    __syncthreads();
    for (int i = warp; i < rows; i += 4) {
        float top = -INFINITE, sum = 0, factor[4];
        for (int w = 0; w < 4; w++) top = fmaxf(top, scratch[w * 272 + i]);
        for (int w = 0; w < 4; w++) {
            factor[w] = scratch[w * 272 + i] == -INFINITE ? 0.0f : expf(scratch[w * 272 + i] - top);
            sum += factor[w] * scratch[w * 272 + 16 + i];
        }
        float inverse = sum > 0 ? 1.0f / sum : 0.0f;
        int r = first_row + i;
        size_t at = (size_t)(b.row + r / group) * s.heads + kv * group + r % group;
        size_t part = (size_t)blockIdx.z * s.tokens * s.heads + at;
        for (int column = lane; column < s.d; column += 32) {
            float o = 0;
            for (int w = 0; w < 4; w++) o += factor[w] * ((float *)(tiles + w * W::TILES * MERGE * Q::ROW))[i * D + column];
            o *= inverse;
            if (gridDim.z == 1) out[at * s.d + column] = narrow<T>(o);
            else parts[part * s.d + column] = o;
        }
        if (gridDim.z > 1 && lane == 0) weights[part] = sum > 0 ? top + logf(sum) : -INFINITE;
    }
}

// Merges the chunks: one warp for each (token, head).
template <class T>
__device__ __forceinline__ void join(const float *parts, const float *weights, T *out, int rows, int chunks, int d) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    float top = -INFINITE, sum = 0;
    for (int c = 0; c < chunks; c++) top = fmaxf(top, weights[(size_t)c * rows + row]);
    if (top == -INFINITE) top = 0;
    for (int c = 0; c < chunks; c++) sum += expf(weights[(size_t)c * rows + row] - top);
    float inverse = sum > 0 ? 1.0f / sum : 0.0f;
    for (int i = threadIdx.x % 32; i < d; i += 32) {
        float o = 0;
        for (int c = 0; c < chunks; c++) {
            size_t part = (size_t)c * rows + row;
            float w = expf(weights[part] - top);
            if (w > 0) o += w * parts[part * d + i];
        }
        out[(size_t)row * d + i] = narrow<T>(o * inverse);
    }
}

// Copies row i of k and v (rows, width) to row places[i] of the caches; skips a negative place.
template <class T>
__device__ __forceinline__ void append(const T *k, const T *v, T *k_cache, T *v_cache, const int *places, int width) {
    int place = places[blockIdx.x];
    if (place < 0) return;
    size_t from = (size_t)blockIdx.x * width, to = (size_t)place * width;
    constexpr int PIECE = 16 / sizeof(T);
    if (width % PIECE == 0 && (((size_t)k | (size_t)v | (size_t)k_cache | (size_t)v_cache) & 15) == 0) {
        for (int i = threadIdx.x * PIECE; i < width; i += blockDim.x * PIECE) {
            *(uint4 *)(k_cache + to + i) = *(const uint4 *)(k + from + i);
            *(uint4 *)(v_cache + to + i) = *(const uint4 *)(v + from + i);
        }
    } else {
        for (int i = threadIdx.x; i < width; i += blockDim.x) {
            k_cache[to + i] = k[from + i];
            v_cache[to + i] = v[from + i];
        }
    }
}
} // namespace attention

#define DECODE(D, T, name)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(128) attention_decode_##D##_##name(                                              \
        const T *q, const T *k, const T *v, T *out, float *parts, float *weights, const attention::Sequence *sequences,           \
        const int *tables, int pages, int page, int tokens, int heads, int kv_heads, int d, float scale, int window,              \
        float softcap) {                                                                                                          \
        attention::decode<T, D>(q, attention::Cache<T>{k, v, tables, pages, page}, out, parts, weights, sequences,                \
                                attention::Sizes{tokens, heads, kv_heads, d, scale, window, softcap});                            \
    }                                                                                                                             \
    EXPORT(attention_decode_##D##_##name)
DECODE(32, float, f32)
DECODE(64, float, f32)
DECODE(96, float, f32)
DECODE(128, float, f32)
DECODE(256, float, f32)
DECODE(32, bf16, bf16)
DECODE(64, bf16, bf16)
DECODE(96, bf16, bf16)
DECODE(128, bf16, bf16)
DECODE(256, bf16, bf16)

#define CACHED(T, name)                                                                                                           \
    extern "C" __global__ void attention_join_##name(const float *parts, const float *weights, T *out, int rows, int chunks, int d) { \
        attention::join(parts, weights, out, rows, chunks, d);                                                                    \
    }                                                                                                                             \
    EXPORT(attention_join_##name)                                                                                                 \
    extern "C" __global__ void attention_append_##name(const T *k, const T *v, T *k_cache, T *v_cache, const int *places, int width) { \
        attention::append(k, v, k_cache, v_cache, places, width);                                                                 \
    }                                                                                                                             \
    EXPORT(attention_append_##name)
CACHED(float, f32)
CACHED(bf16, bf16)
