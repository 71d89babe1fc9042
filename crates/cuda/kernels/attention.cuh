// What the attention kernels share: the mask, tiles in shared memory, products of tiles.
//
// The mask comes as lists that the host makes (src/ops/tiles.rs): a Block of at most 64 queries (or
// keys) and the Runs of keys (or queries) that any of its rows sees (or is seen by). A query sees a
// key when query position - window < key position <= query position.
#pragma once
#include "device.cuh"

namespace attention {

struct Block { int row, count, position, first, end; }; // runs first..end of the list
struct Run { int row, count, position; };

constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;
constexpr int MOST = 0x7fffffff; // as a window: none

// Sizes of one call, the same for every kernel. softcap 0: none.
struct Sizes {
    int tokens, heads, kv_heads, d;
    float scale;
    int window;
    float softcap;
};

__device__ __forceinline__ bool sees(int query, int key, int window) { return (unsigned)(query - key) < (unsigned)window; }

// The runs of a block in pieces of at most STEP rows; those that lie outside positions low..=high
// are left out.
template <int STEP> struct Pieces {
    const Run *run, *end;
    int from, low, high;
    __device__ __forceinline__ bool next(Run &piece) {
        for (; run < end; run++, from = 0)
            while (from < run->count) {
                piece.row = run->row + from;
                piece.count = min(STEP, run->count - from);
                piece.position = run->position + from;
                from += STEP;
                if (piece.position <= high && piece.position + (piece.count - 1) >= low) return true;
            }
        return false;
    }
};
// The keys that any of queries first..=last sees.
template <int STEP> __device__ __forceinline__ Pieces<STEP> keys_of(const Block &b, const Run *runs, int first, int last, int window) {
    return {runs + b.first, runs + b.end, 0, first - window + 1, last};
}
// The queries that see any of keys first..=last.
template <int STEP> __device__ __forceinline__ Pieces<STEP> queries_of(const Block &b, const Run *runs, int first, int last, int window) {
    return {runs + b.first, runs + b.end, 0, first, window > MOST - last ? MOST : last + window - 1};
}
// Whether all those queries see all those keys.
__device__ __forceinline__ bool all_see(int query, int queries, int key, int keys, int window) {
    return sees(query, key + keys - 1, window) && sees(query + queries - 1, key, window) && sees(query, key, window);
}

// A score before the soft-max, from q·k: scale · q·k, or cap · tanh(scale · q·k / cap). `slope`
// becomes the cap's derivative.
template <bool EXACT> __device__ __forceinline__ float score(float product, const Sizes &s, float &slope) {
    float x = product * s.scale;
    slope = 1.0f;
    if (s.softcap > 0) {
        x /= s.softcap;
        // 1 - 2 / (1 + e^2x) is off by 1e-7 of the cap, which matters beside f32's products only
        float t = EXACT ? tanhf(x) : 1.0f - __fdividef(2.0f, 1.0f + __expf(2.0f * fminf(x, 20.0f)));
        slope = 1.0f - t * t;
        x = s.softcap * t;
    }
    return x;
}

// Rows of D values (d of them used, the others zero) in shared memory. Where a row is whole
// 128-byte lines, its 16-byte pieces are swizzled by row, so that reading 8 rows of one column uses
// all banks; otherwise 16 bytes of padding do that.
template <class T, int D> struct Tile {
    static constexpr int PIECE = 16 / sizeof(T);
    static constexpr bool EXCHANGED = sizeof(T) == 2 && D % 64 == 0;
    static constexpr int ROW = EXCHANGED ? D : D + PIECE;
    // Index of a column that is a multiple of PIECE.
    static __device__ __forceinline__ int at(int row, int column) {
        return row * ROW + (EXCHANGED ? column ^ ((row & 7) << 3) : column);
    }
    // Starts to load ROWS rows, of which `count` exist, by THREADS threads; `wide`: every row
    // begins at 16 bytes.
    template <int ROWS, int THREADS>
    static __device__ __forceinline__ void load(T *to, const T *from, size_t stride, int count, int d, bool wide, int thread) {
#pragma unroll 4
        for (int i = thread; i < ROWS * (D / PIECE); i += THREADS) {
            int row = i / (D / PIECE), column = i % (D / PIECE) * PIECE;
            bool there = row < count && column < d;
            T *place = to + at(row, column);
            if (wide) {
                copy_start(place, there ? from + row * stride + column : from, there);
            } else {
                for (int e = 0; e < PIECE; e++)
                    place[e] = there && column + e < d ? from[row * stride + column + e] : narrow<T>(0.0f);
            }
        }
    }
    // Stores rows `first`.. (ROWS of them, those below `count`) by the lanes of a warp.
    template <int ROWS>
    static __device__ __forceinline__ void store(T *to, const T *from, size_t stride, int first, int count, int begin, int columns, int d, bool wide) {
        int lane = threadIdx.x & 31;
        for (int i = lane; i < ROWS * (columns / PIECE); i += 32) {
            int row = first + i / (columns / PIECE), column = begin + i % (columns / PIECE) * PIECE;
            if (row >= count || column >= d) continue;
            const T *place = from + at(row, column);
            T *out = to + row * stride + column;
            if (wide) *(uint4 *)out = *(const uint4 *)place;
            else for (int e = 0; e < PIECE && column + e < d; e++) out[e] = place[e];
        }
    }
};

// Whether rows of d values can be moved 16 bytes at a time.
template <class T> __device__ __forceinline__ bool wide_rows(int d, const void *a, const void *b, const void *c, const void *e) {
    return d * sizeof(T) % 16 == 0 && (((size_t)a | (size_t)b | (size_t)c | (size_t)e) & 15) == 0;
}

// acc += A Bᵀ: a warp's 16 rows of A from `row`, N rows of B, D columns. acc[n] is mma's layout of
// columns 8n..8n+8.
template <int D, int N>
__device__ __forceinline__ void rows_by_rows(float (*acc)[4], const bf16 *a, int row, const bf16 *b) {
    typedef Tile<bf16, D> T;
    int lane = threadIdx.x & 31;
#pragma unroll
    for (int k = 0; k < D; k += 16) {
        uint32_t x[4];
        load_matrices<false>(x, a + T::at(row + (lane & 15), k + (lane >> 4) * 8));
#pragma unroll
        for (int n = 0; n < N; n += 16) {
            uint32_t y[4];
            load_matrices<false>(y, b + T::at(n + (lane >> 4) * 8 + (lane & 7), k + ((lane >> 3) & 1) * 8));
            mma_bf16(acc[n / 8], x, y);
            mma_bf16(acc[n / 8 + 1], x, y + 2);
        }
    }
}
// acc += P B for P 16 x K in registers (p[i]: columns 16i..) and columns begin..begin + COLUMNS of
// K rows of B.
template <int D, int K, int COLUMNS>
__device__ __forceinline__ void weights_by_rows(float (*acc)[4], const uint32_t (*p)[4], const bf16 *b, int begin) {
    typedef Tile<bf16, D> T;
    int lane = threadIdx.x & 31;
#pragma unroll
    for (int k = 0; k < K; k += 16) {
#pragma unroll
        for (int n = 0; n < COLUMNS; n += 16) {
            uint32_t y[4];
            load_matrices<true>(y, b + T::at(k + (lane & 15), begin + n + (lane >> 4) * 8));
            mma_bf16(acc[n / 8], p[k / 16], y);
            mma_bf16(acc[n / 8 + 1], p[k / 16], y + 2);
        }
    }
}
// Converts mma's result d of 16 columns to the next product's operand a.
__device__ __forceinline__ void as_weights(uint32_t p[4], const float low[4], const float high[4]) {
    p[0] = pack_bf16(low[0], low[1]);
    p[1] = pack_bf16(low[2], low[3]);
    p[2] = pack_bf16(high[0], high[1]);
    p[3] = pack_bf16(high[2], high[3]);
}
// Writes acc · factor (one for rows g, one for rows g + 8) to a warp's 16 rows of a tile.
template <int D, int COLUMNS>
__device__ __forceinline__ void into_tile(bf16 *tile, int row, int begin, const float (*acc)[4], float low, float high) {
    typedef Tile<bf16, D> T;
    int lane = threadIdx.x & 31, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n++) {
        *(uint32_t *)(tile + T::at(row + g, begin + 8 * n) + 2 * t) = pack_bf16(acc[n][0] * low, acc[n][1] * low);
        *(uint32_t *)(tile + T::at(row + g + 8, begin + 8 * n) + 2 * t) = pack_bf16(acc[n][2] * high, acc[n][3] * high);
    }
}

// The f32 kernels: 128 threads over 32 rows (queries or keys) that stay in shared memory and STEP
// rows of the other kind at a time. Thread (y, x) of 8 x 16 computes rows 4y..4y+4: of a product
// with the STEP rows the columns x + 16j, of a result the columns 2x + 32j, 2x + 32j + 1.
constexpr int STAY = 32;
__host__ __device__ constexpr int passing(int D) { return D > 128 ? 16 : 32; }

template <int D>
__device__ __forceinline__ void dots(float (*acc)[passing(D) / 16], const float *stay, const float *pass) {
    constexpr int N = passing(D) / 16, ROW = Tile<float, D>::ROW;
    int y = threadIdx.x / 16, x = threadIdx.x % 16;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < N; j++) acc[i][j] = 0;
#pragma unroll 2
    for (int c = 0; c < D; c += 4) {
        float4 b[N];
#pragma unroll
        for (int j = 0; j < N; j++) b[j] = *(const float4 *)(pass + (x + 16 * j) * ROW + c);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float4 a = *(const float4 *)(stay + (4 * y + i) * ROW + c);
#pragma unroll
            for (int j = 0; j < N; j++) acc[i][j] += a.x * b[j].x + a.y * b[j].y + a.z * b[j].z + a.w * b[j].w;
        }
    }
}
// `weights` are STAY rows of passing(D) + 4.
template <int D>
__device__ __forceinline__ void weigh(float2 (*acc)[D / 32], const float *weights, const float *pass) {
    constexpr int STEP = passing(D), ROW = Tile<float, D>::ROW;
    int y = threadIdx.x / 16, x = threadIdx.x % 16;
#pragma unroll 2
    for (int c = 0; c < STEP; c++) {
        float w[4];
#pragma unroll
        for (int i = 0; i < 4; i++) w[i] = weights[(4 * y + i) * (STEP + 4) + c];
#pragma unroll
        for (int j = 0; j < D / 32; j++) {
            float2 b = *(const float2 *)(pass + c * ROW + 2 * x + 32 * j);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                acc[i][j].x += w[i] * b.x;
                acc[i][j].y += w[i] * b.y;
            }
        }
    }
}
template <int D> __device__ __forceinline__ void put_weights(float *weights, const float (*w)[passing(D) / 16]) {
    constexpr int STEP = passing(D);
    int y = threadIdx.x / 16, x = threadIdx.x % 16;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < STEP / 16; j++) weights[(4 * y + i) * (STEP + 4) + x + 16 * j] = w[i][j];
}
template <int D> __device__ __forceinline__ void store_rows(float *to, size_t stride, const float2 (*acc)[D / 32], int count, int d, const float factor[4]) {
    int y = threadIdx.x / 16, x = threadIdx.x % 16;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (4 * y + i >= count) continue;
        float *row = to + (4 * y + i) * stride;
#pragma unroll
        for (int j = 0; j < D / 32; j++) {
            int column = 2 * x + 32 * j;
            if (column < d) row[column] = acc[i][j].x * factor[i];
            if (column + 1 < d) row[column + 1] = acc[i][j].y * factor[i];
        }
    }
}
} // namespace attention
