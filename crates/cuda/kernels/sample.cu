// Draws one token from each row of logits: the sampler chain, the inverse CDF and both log-probs,
// as the engine does on the CPU. One block a row.
//
// Probabilities are integers: e^(l - max) · 2^shift, truncated, with a shift for which a row's sum
// fits 64 bits. Such sums are exact in any order, and so are comparisons with thresholds. Every
// truncating sampler keeps the best tokens by (logit, then lower id), so the last token kept
// describes its result. That token is found by bisection over the logits' bits, and over ids among
// equals; once few candidates are left, they are listed in shared memory.
#include "device.cuh"

namespace sample {
constexpr int STEPS = 4, LIST = 2048;
constexpr uint32_t NONE = 0, TEMPERATURE = 1, TOP_K = 2, TOP_P = 3, MIN_P = 4;

// An integer that orders as the float does; both zeros are equal.
__device__ __forceinline__ uint32_t key_of(float v) {
    uint32_t u = v == 0 ? 0u : __float_as_uint(v);
    return u >> 31 ? ~u : u | 0x80000000u;
}
__device__ __forceinline__ float of_key(uint32_t k) { return __uint_as_float(k >> 31 ? k & 0x7fffffffu : ~k); }

struct Shared {
    uint32_t kind[STEPS];
    float divisor[STEPS];            // of temperature
    float last[STEPS];               // top_k, top_p: the last token kept …
    uint32_t last_at[STEPS];         // … and its id
    double floor[STEPS];             // min_p
    uint64_t sums[33];
    uint32_t counts[33];
    uint32_t listed;
    uint32_t keys[LIST], places[LIST];
};

// Sum and count over the block; every thread gets both.
__device__ __forceinline__ void total(Shared &s, uint64_t &sum, uint32_t &count) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    for (int m = 16; m; m >>= 1) {
        sum += __shfl_xor_sync(FULL, sum, m);
        count += __shfl_xor_sync(FULL, count, m);
    }
    __syncthreads(); // the previous result has been read
    if (lane == 0) {
        s.sums[warp] = sum;
        s.counts[warp] = count;
    }
    __syncthreads();
    sum = 0;
    count = 0;
    for (int w = 0; w < warps; w++) {
        sum += s.sums[w];
        count += s.counts[w];
    }
}
__device__ __forceinline__ uint32_t most(Shared &s, uint32_t key) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    for (int m = 16; m; m >>= 1) key = max(key, __shfl_xor_sync(FULL, key, m));
    __syncthreads();
    if (lane == 0) s.counts[warp] = key;
    __syncthreads();
    key = 0;
    for (int w = 0; w < warps; w++) key = max(key, s.counts[w]);
    return key;
}

template <class T> struct Row {
    const T *x;
    int vocab;
    const uint32_t *banned;
    int bans;
    float scale; // 2^shift

    // Token i's logit after the first `steps` samplers; -inf: removed.
    __device__ __forceinline__ float value(const Shared &s, int i, int steps) const {
        float v = widen(x[i]);
        for (int b = 0; b < bans; b++)
            if (banned[b] == (uint32_t)i) return -INFINITE;
        for (int k = 0; k < steps; k++) {
            uint32_t kind = s.kind[k];
            if (kind == TEMPERATURE)
                v = __fdiv_rn(v, s.divisor[k]);
            else if (kind == TOP_K || kind == TOP_P) {
                if (v < s.last[k] || (v == s.last[k] && (uint32_t)i > s.last_at[k])) return -INFINITE;
            } else if (kind == MIN_P && (double)v < s.floor[k])
                return -INFINITE;
        }
        return v;
    }
    __device__ __forceinline__ uint64_t weight(float v, float top) const {
        return v > -INFINITE ? (uint64_t)(expf(v - top) * scale) : 0;
    }
    // The best logit after `steps` samplers; false where none is left, or one is infinite or NaN.
    __device__ __forceinline__ bool best(Shared &s, int steps, float &top) const {
        uint32_t key = 0;
        for (int i = threadIdx.x; i < vocab; i += blockDim.x) {
            float v = value(s, i, steps);
            key = max(key, v < INFINITE ? key_of(v) : 0xffffffffu);
        }
        key = most(s, key);
        top = of_key(key);
        return key != 0xffffffffu && top > -INFINITE;
    }
    __device__ __forceinline__ uint64_t sum(Shared &s, int steps, float top) const {
        uint64_t sum = 0;
        uint32_t count = 0;
        for (int i = threadIdx.x; i < vocab; i += blockDim.x) sum += weight(value(s, i, steps), top);
        total(s, sum, count);
        return sum;
    }
};

// The sum, by weight or number, and the count of tokens whose key is at least `least`. If
// candidates are listed, adds them to `above` (the sum of all better tokens); otherwise reads the
// row.
template <bool BY_WEIGHT, class T>
__device__ __forceinline__ void reach(Shared &s, const Row<T> &row, int steps, float top, uint32_t least, bool listed, uint64_t &sum,
                                      uint32_t &count) {
    sum = 0;
    count = 0;
    int n = listed ? (int)s.listed : row.vocab;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        uint32_t key = listed ? s.keys[i] : key_of(row.value(s, i, steps));
        if (key < least || key <= 0x007fffffu) continue; // -inf's key: removed
        sum += BY_WEIGHT ? row.weight(of_key(key), top) : 1;
        count++;
    }
    total(s, sum, count);
}

// Finds the first token, from the best down, at which the sum reaches `target` (at least 1): `key`
// and `at`; false if it never does.
template <bool BY_WEIGHT, class T>
__device__ bool select(Shared &s, const Row<T> &row, int steps, float top, uint64_t target, uint32_t &key, uint32_t &at) {
    uint32_t high = key_of(top), low = high, count, above_count = 0;
    uint64_t sum, above = 0; // of tokens better than `high`
    // downwards in growing strides, until the target lies between low and high
    for (uint32_t stride = 1u << 19;; stride = stride < 1u << 30 ? stride * 2 : stride) {
        reach<BY_WEIGHT>(s, row, steps, top, low, false, sum, count);
        if (sum >= target) break;
        if (low <= 0x00800000u) return false;
        above = sum;
        above_count = count;
        high = low - 1;
        low = high - 0x00800000u > stride && high > 0x00800000u ? high - stride : 0x00800000u;
    }
    bool listed = false;
    uint64_t base = 0; // better than all listed ones
    uint64_t low_sum = sum;
    while (low < high) {
        if (!listed && count - above_count <= LIST) {
            __syncthreads();
            if (threadIdx.x == 0) s.listed = 0;
            __syncthreads();
            for (int i = threadIdx.x; i < row.vocab; i += blockDim.x) {
                uint32_t k = key_of(row.value(s, i, steps));
                if (k < low || k > high) continue;
                uint32_t place = atomicAdd(&s.listed, 1u); // in any order
                s.keys[place] = k;
                s.places[place] = i;
            }
            __syncthreads();
            listed = true;
            base = above;
        }
        uint32_t middle = low + (high - low + 1) / 2, some;
        reach<BY_WEIGHT>(s, row, steps, top, middle, listed, sum, some);
        if (listed) sum += base;
        if (sum >= target) {
            low = middle;
            low_sum = sum;
            if (!listed) count = some;
        } else {
            high = middle - 1;
            above = sum;
            if (!listed) above_count = some;
        }
    }
    key = low;
    // equals in order of their ids: how many of them it takes
    uint64_t each = BY_WEIGHT ? row.weight(of_key(key), top) : 1, wanted = (target - above + each - 1) / each;
    at = row.vocab - 1;
    if (low_sum - above == wanted * each) return true;
    uint32_t from = 0, to = row.vocab - 1;
    while (from < to) {
        uint32_t middle = from + (to - from) / 2, equals = 0;
        uint64_t unused = 0;
        if (listed) {
            for (int i = threadIdx.x; i < (int)s.listed; i += blockDim.x) equals += s.keys[i] == key && s.places[i] <= middle;
        } else {
            for (uint32_t i = threadIdx.x; i <= middle; i += blockDim.x) equals += key_of(row.value(s, i, steps)) == key;
        }
        total(s, unused, equals);
        if (equals >= wanted)
            to = middle;
        else
            from = middle + 1;
    }
    at = from;
    return true;
}

// p · total rounded up to an integer, p in [0, 1).
__device__ __forceinline__ uint64_t share(double p, uint64_t total) {
    uint64_t fraction = (uint64_t)(p * 18446744073709551616.0);
    return __umul64hi(fraction, total) + (fraction * total != 0);
}

// Computes what a sampler keeps of the tokens left, into shared memory.
template <class T> __device__ __forceinline__ bool prepare(Shared &s, const Row<T> &row, int k, uint32_t kind, double value) {
    float top = 0;
    uint32_t key = 0, at = 0;
    bool cut = false;
    if (kind == TEMPERATURE) {
        cut = (float)value != 1.0f;
    } else {
        if (!row.best(s, k, top)) return false;
        if (kind == TOP_K && value >= 1.0 && value < row.vocab) cut = select<false>(s, row, k, top, (uint64_t)value, key, at);
        if (kind == TOP_P && value < 1.0) {
            uint64_t target = share(value, row.sum(s, k, top));
            cut = select<true>(s, row, k, top, target ? target : 1, key, at);
        }
        if (kind == MIN_P) cut = value > 0.0;
    }
    __syncthreads(); // all threads have read the samplers
    if (threadIdx.x == 0) {
        s.kind[k] = cut ? kind : NONE;
        s.divisor[k] = (float)value;
        s.last[k] = of_key(key);
        s.last_at[k] = at;
        s.floor[k] = kind == MIN_P && cut ? (double)top + log(value) : 0.0;
    }
    __syncthreads();
    return true;
}

// Finds the part, of `parts` equal ones of [from, to), in which the cumulative weight passes
// `threshold`; narrows the range to it and subtracts the weight before it from the threshold. A
// warp sums each part, or with `wide` a lane of warp 0.
template <class T>
__device__ __forceinline__ void narrow_to(Shared &s, const Row<T> &row, int steps, float top, bool lanes, int &from, int &to, uint64_t &threshold) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, parts = lanes ? 32 : blockDim.x >> 5, part = (to - from + parts - 1) / parts;
    uint64_t sum = 0;
    if (!lanes) {
        int end = min(from + (warp + 1) * part, to);
        for (int i = from + warp * part + lane; i < end; i += 32) sum += row.weight(row.value(s, i, steps), top);
        for (int m = 16; m; m >>= 1) sum += __shfl_xor_sync(FULL, sum, m);
    } else if (warp == 0) {
        int end = min(from + (lane + 1) * part, to);
        for (int i = from + lane * part; i < end; i++) sum += row.weight(row.value(s, i, steps), top);
    }
    __syncthreads();
    if (lanes ? warp == 0 : lane == 0) s.sums[lanes ? lane : warp] = sum;
    __syncthreads();
    int p = 0;
    while (p < parts - 1 && s.sums[p] <= threshold) threshold -= s.sums[p++];
    from += p * part;
    to = min(from + part, to);
}

template <class T>
__device__ void draw(const T *logits, int vocab, int open, const double *uniform, const uint32_t *banned, int bans, const uint32_t *forbid,
                     uint32_t kinds, const double *values, int shift, uint32_t *ids, double *logp, double *behaviour) {
    __shared__ Shared s;
    size_t at = blockIdx.x;
    float scale = __uint_as_float((uint32_t)(127 + shift) << 23), raw_top, top;
    Row<T> raw{logits + at * vocab, vocab, banned, 0, scale}, row = raw;
    row.bans = forbid && forbid[at] ? bans : 0;
    row.vocab = open;
    // every logit must be finite, also the lowest
    uint32_t worst = 0;
    for (int i = threadIdx.x; i < vocab; i += blockDim.x) worst = max(worst, !(fabsf(widen(raw.x[i])) < INFINITE) ? 1u : 0u);
    bool good = most(s, worst) == 0 && raw.best(s, 0, raw_top);
    int steps = 0;
    for (; good && steps < STEPS && (kinds >> (8 * steps) & 255); steps++)
        good = prepare(s, row, steps, kinds >> (8 * steps) & 255, values[steps]);
    good = good && row.best(s, steps, top);
    if (!good) { // the same for all threads
        if (threadIdx.x == 0) {
            ids[at] = 0xffffffffu;
            logp[at] = behaviour[at] = (double)__uint_as_float(0x7fc00000u);
        }
        return;
    }
    uint64_t all = row.sum(s, steps, top), raw_all = raw.sum(s, 0, raw_top);
    // the first token whose cumulated sum is above u · all: exact, as u has 53 bits
    uint64_t threshold = __umul64hi((uint64_t)(uniform[at] * 18446744073709551616.0), all);
    int from = 0, to = open;
    narrow_to(s, row, steps, top, false, from, to, threshold);
    narrow_to(s, row, steps, top, false, from, to, threshold);
    narrow_to(s, row, steps, top, true, from, to, threshold);
    if (threadIdx.x != 0) return;
    int chosen = from;
    uint64_t sum = 0;
    for (int i = from; i < to; i++) {
        sum += row.weight(row.value(s, i, steps), top);
        chosen = i;
        if (sum > threshold) break;
    }
    ids[at] = chosen;
    double unit = (double)scale;
    behaviour[at] = (double)row.value(s, chosen, steps) - ((double)top + log((double)all / unit));
    logp[at] = (double)widen(raw.x[chosen]) - ((double)raw_top + log((double)raw_all / unit));
}
} // namespace sample

// logits (rows, vocab), of which the first `open` columns can be drawn; uniform, logp, behaviour
// (rows) f64; ids (rows). `kinds` holds a step a byte, the first in the lowest; its value is
// `values[i]`. Where forbid[row] is not 0 the `bans` tokens `banned` cannot be drawn; `forbid` may
// be null.
#define SAMPLE(T, name)                                                                                                     \
    extern "C" __global__ __launch_bounds__(1024) void sample_##name(                                                        \
        const T *logits, int vocab, int open, const double *uniform, const uint32_t *banned, int bans,                \
        const uint32_t *forbid, uint32_t kinds, double v0, double v1, double v2, double v3, int shift, uint32_t *ids,   \
        double *logp, double *behaviour) {                                                                                   \
        double values[4] = {v0, v1, v2, v3};                                                                                 \
        sample::draw(logits, vocab, open, uniform, banned, bans, forbid, kinds, values, shift, ids, logp, behaviour);        \
    }                                                                                                                        \
    EXPORT(sample_##name)
SAMPLE(float, f32)
SAMPLE(bf16, bf16)
