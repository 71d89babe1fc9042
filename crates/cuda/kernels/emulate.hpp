// Runs the kernels of this folder on a CPU, thread by thread, so that their arithmetic, indexing
// and synchronisation can be checked where there is no GPU. Included before a kernel's source by a
// host C++ compiler with -DRANDORI_EMULATE.
//
// Blocks run one after another; the threads of a block are fibers that take turns at every barrier
// and warp exchange. A barrier that not all threads reach, and a warp exchange that not all 32
// lanes join, is found and reported, as is a write past the end of dynamic shared memory (a guard
// behind it). Copies that do not wait (cp.async) arrive as late as they may: when their thread
// waits for them. Built with watch.cpp, races and misaligned accesses are found too; without it
// only those races that change a result in the order of threads that is run (ascending, or
// descending when RANDORI_EMULATE_REVERSE is set). What it cannot find: limits of a card, other
// than those in `randori_emulate`.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
#define __shared__ static
#define __align__(n) alignas(n)

struct uint3e { unsigned x, y, z; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }

namespace emu {
constexpr int WARP = 32;
constexpr size_t STACK = 256 << 10;
constexpr unsigned char GUARD = 0xA5;

extern "C" void randori_emulate_switch(void **save, void *load);
#if defined(__x86_64__) && defined(__linux__)
asm(R"(
.text
.weak randori_emulate_switch
.type randori_emulate_switch,@function
randori_emulate_switch:
    pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
    ret
)");
#endif

struct Warp {
    unsigned long generation = 0;
    unsigned long ordered = 0; // __syncwarp()s: exchanges wait for each other, but order no memory
    unsigned arrived = 0;
    unsigned char slots[2][WARP][64]; // what each lane published, by parity of the exchange
};
// A started copy, with the number of its group in its thread.
struct Copy { void *to; const void *from; int bytes; unsigned long group; };
struct Fiber {
    Copy *copies = nullptr;
    size_t copying = 0, room = 0;
    unsigned long group = 0;
    void *sp = nullptr;
    ucontext_t context;
    uint3e thread;
    unsigned lane, warp, number;
    bool done = false;
    unsigned long waits_block = 0, waits_warp = 0; // generation to wait for
    char *stack = nullptr;
};
struct State {
    uint3e block, blocks, threads;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    unsigned long generation = 0;
    unsigned arrived = 0, alive = 0;
    Fiber *now = nullptr;
    void *main_sp = nullptr;
    ucontext_t main_context;
    std::vector<char> shared;
    size_t shared_bytes = 0;
    void (*body)(void *) = nullptr;
    void *argument = nullptr;
    const char *kernel = "";
    std::vector<char *> stacks;
};
inline State &state() { static State s; return s; }

// UNSEEN hides a function from the compiler's instrumentation; the functions below report to
// watch.cpp instead.
#define UNSEEN __attribute__((noinline, no_sanitize("thread")))
enum Access { READ, WRITE, ATOMIC };
#ifdef RANDORI_WATCH
void touch(const void *at, size_t bytes, Access access);
void forget(); // a new launch
#else
inline void touch(const void *, size_t, Access) {}
inline void forget() {}
#endif

[[noreturn]] inline void fail(const char *what) {
    State &s = state();
    fprintf(stderr, "emulated kernel %s, block %u,%u,%u: %s\n", s.kernel, s.block.x, s.block.y, s.block.z, what);
    abort();
}
inline void to_main() {
    State &s = state();
    Fiber *f = s.now;
#if defined(__x86_64__) && defined(__linux__)
    randori_emulate_switch(&f->sp, s.main_sp);
#else
    swapcontext(&f->context, &s.main_context);
#endif
}
inline void entry() {
    State &s = state();
    s.body(s.argument);
    s.now->done = true;
    to_main();
    abort();
}
inline void prepare(Fiber &f) {
#if defined(__x86_64__) && defined(__linux__)
    void **top = (void **)(f.stack + STACK);
    *--top = nullptr;            // keeps the stack 16-byte aligned at entry
    *--top = (void *)&entry;     // return address
    for (int i = 0; i < 6; i++) *--top = nullptr;
    f.sp = top;
#else
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack;
    f.context.uc_stack.ss_size = STACK;
    f.context.uc_link = nullptr;
    makecontext(&f.context, entry, 0);
#endif
}
inline void barrier() {
    State &s = state();
    Fiber *f = s.now;
    if (++s.arrived == s.alive) { s.arrived = 0; s.generation++; return; }
    f->waits_block = s.generation + 1;
    to_main();
}
inline void warp_barrier(bool orders = false) {
    State &s = state();
    Fiber *f = s.now;
    Warp &w = s.warps[f->warp];
    unsigned lanes = 0;
    unsigned all = s.threads.x * s.threads.y * s.threads.z;
    lanes = all - f->warp * WARP < WARP ? all - f->warp * WARP : WARP;
    if (++w.arrived == lanes) { w.arrived = 0; w.generation++; w.ordered += orders; return; }
    f->waits_warp = w.generation + 1;
    to_main();
}
inline void aligned(const void *at, size_t bytes, const char *what) {
    if ((size_t)at % bytes) fail(what);
}
UNSEEN inline void copy_start(void *to, const void *from, int bytes) {
    Fiber &f = *state().now;
    aligned(to, 16, "cp.async to an address that is no multiple of 16");
    aligned(from, 16, "cp.async from an address that is no multiple of 16");
    touch(to, 16, WRITE);
    touch(from, bytes, READ);
    memset(to, 0xFF, 16); // NaN until it arrives
    if (f.copying == f.room) f.copies = (Copy *)realloc(f.copies, (f.room = 2 * f.room + 16) * sizeof(Copy));
    f.copies[f.copying++] = {to, from, bytes, f.group};
}
inline void copy_commit() { state().now->group++; }
// Completes the copies of all groups but the last `but`.
UNSEEN inline void copy_wait(unsigned but) {
    Fiber &f = *state().now;
    size_t left = 0;
    for (size_t i = 0; i < f.copying; i++) {
        Copy c = f.copies[i];
        if (c.group + but >= f.group) { f.copies[left++] = c; continue; }
        touch(c.to, 16, WRITE);
        memset(c.to, 0, 16);
        memcpy(c.to, c.from, c.bytes);
    }
    f.copying = left;
}

// A warp exchange: every lane publishes `mine`; `read(lane)` then returns any lane's value until
// this lane's next exchange.
template <class T> struct Exchange {
    Warp &w; unsigned parity;
    explicit Exchange(const T &mine) : w(state().warps[state().now->warp]), parity(w.generation & 1) {
        static_assert(sizeof(T) <= 64, "an exchange carries 64 bytes a lane");
        memcpy(w.slots[parity][state().now->lane], &mine, sizeof(T));
        warp_barrier();
    }
    T read(unsigned lane) const { T t; memcpy(&t, w.slots[parity][lane % WARP], sizeof(T)); return t; }
};

typedef void (*Wrapper)(void **);
inline std::map<std::string, Wrapper> &registry() { static std::map<std::string, Wrapper> r; return r; }
// Bytes of each argument of a kernel, for a launch that runs later and must copy them.
inline std::map<std::string, std::vector<size_t>> &arguments() { static std::map<std::string, std::vector<size_t>> a; return a; }
template <class F, F f> struct Wrap;
template <class... A, void (*f)(A...)> struct Wrap<void (*)(A...), f> {
    template <size_t... I> static void go(void **args, std::index_sequence<I...>) { f(*(typename std::remove_reference<A>::type *)args[I]...); }
    static void call(void **args) { go(args, std::index_sequence_for<A...>()); }
    static std::vector<size_t> sizes() { return {sizeof(typename std::remove_reference<A>::type)...}; }
};
struct Register { Register(const char *name, Wrapper w, std::vector<size_t> sizes) { registry()[name] = w; arguments()[name] = sizes; } };

inline bool reversed() { static bool r = getenv("RANDORI_EMULATE_REVERSE") != nullptr; return r; }

inline void run_block(unsigned count) {
    State &s = state();
    s.generation = 0; s.arrived = 0; s.alive = count;
    s.warps.assign((count + WARP - 1) / WARP, Warp());
    s.fibers.resize(count);
    while (s.stacks.size() < count) s.stacks.push_back((char *)aligned_alloc(64, STACK));
    for (unsigned i = 0; i < count; i++) {
        Fiber &f = s.fibers[i];
        f.thread = {i % s.threads.x, i / s.threads.x % s.threads.y, i / (s.threads.x * s.threads.y)};
        f.lane = i % WARP; f.warp = i / WARP; f.number = i; f.done = false; f.waits_block = f.waits_warp = 0;
        f.copying = 0; f.group = 0;
        f.stack = s.stacks[i];
        prepare(f);
    }
    unsigned left = count;
    while (left) {
        bool moved = false;
        for (unsigned k = 0; k < count; k++) {
            Fiber &f = s.fibers[reversed() ? count - 1 - k : k];
            if (f.done || f.waits_block > s.generation || f.waits_warp > s.warps[f.warp].generation) continue;
            s.now = &f;
            moved = true;
#if defined(__x86_64__) && defined(__linux__)
            randori_emulate_switch(&s.main_sp, f.sp);
#else
            swapcontext(&s.main_context, &f.context);
#endif
            s.now = nullptr;
            if (f.done) {
                left--; s.alive--;
                // a thread that has returned counts as arrived at barriers, as on Volta and later
                if (s.alive && s.arrived == s.alive) { s.arrived = 0; s.generation++; }
            }
        }
        if (!moved) fail("threads wait for each other for ever: a barrier or a warp exchange that not all of them reach");
    }
}
} // namespace emu

#define threadIdx (emu::state().now->thread)
#define blockIdx (emu::state().block)
#define blockDim (emu::state().threads)
#define gridDim (emu::state().blocks)
#define DYNAMIC_SHARED(name) char *name = emu::state().shared.data()
#define EXPORT(name) static emu::Register register_##name(#name, emu::Wrap<decltype(&name), &name>::call, emu::Wrap<decltype(&name), &name>::sizes());

inline void __syncthreads() { emu::barrier(); }
inline void __syncwarp(unsigned = ~0u) { emu::warp_barrier(true); }
template <class T> T __shfl_xor_sync(unsigned, T v, int mask) { emu::Exchange<T> e(v); return e.read(emu::state().now->lane ^ mask); }
template <class T> T __shfl_sync(unsigned, T v, int lane) { emu::Exchange<T> e(v); return e.read(lane); }
template <class T> T __shfl_down_sync(unsigned, T v, int by) {
    emu::Exchange<T> e(v); unsigned l = emu::state().now->lane + by; return l < 32 ? e.read(l) : v;
}
inline float __expf(float x) { return expf(x); }
inline float exp2f_(float x) { return exp2f(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline unsigned __float_as_uint(float f) { unsigned u; memcpy(&u, &f, 4); return u; }
inline float __uint_as_float(unsigned u) { float f; memcpy(&f, &u, 4); return f; }
template <class T> T __ldg(const T *p) { return *p; }
template <class T> T min(T a, T b) { return a < b ? a : b; }
template <class T> T max(T a, T b) { return a > b ? a : b; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) { return (unsigned long long)(((unsigned __int128)a * b) >> 64); }
template <class T> UNSEEN T atomicAdd(T *p, T v) { emu::touch(p, sizeof(T), emu::ATOMIC); T old = *p; *p = old + v; return old; }
inline void __threadfence() {}

// Runs a kernel by name. Returns 0, or an error: 1 no such kernel, 2 too many threads, 3 too much
// shared memory, 4 empty grid.
extern "C" __attribute__((weak)) int randori_emulate(const char *name, const unsigned *blocks, const unsigned *threads, unsigned shared, void **args) {
    auto found = emu::registry().find(name);
    if (found == emu::registry().end()) return 1;
    emu::State &s = emu::state();
    unsigned count = threads[0] * threads[1] * threads[2];
    if (count == 0 || count > 1024) return 2;
    if (shared > 99 * 1024) return 3; // the most on compute capabilities 8.6 and 8.9
    if (!blocks[0] || !blocks[1] || !blocks[2] || blocks[1] > 65535 || blocks[2] > 65535) return 4;
    s.kernel = found->first.c_str();
    emu::forget();
    s.blocks = {blocks[0], blocks[1], blocks[2]};
    s.threads = {threads[0], threads[1], threads[2]};
    struct Call { emu::Wrapper f; void **args; } call{found->second, args};
    s.body = [](void *c) { ((Call *)c)->f(((Call *)c)->args); };
    s.argument = &call;
    const size_t guard = 64;
    s.shared.assign(shared + guard + 128, 0);
    for (unsigned z = 0; z < blocks[2]; z++)
        for (unsigned y = 0; y < blocks[1]; y++)
            for (unsigned x = 0; x < blocks[0]; x++) {
                s.block = {x, y, z};
                memset(s.shared.data(), 0xFF, shared); // NaN: what is read must have been written
                memset(s.shared.data() + shared, emu::GUARD, guard);
                emu::run_block(count);
                for (size_t i = 0; i < guard; i++)
                    if ((unsigned char)s.shared[shared + i] != emu::GUARD) emu::fail("wrote past its dynamic shared memory");
            }
    return 0;
}
// Whether there is a kernel of this name.
extern "C" __attribute__((weak)) int randori_emulate_has(const char *name) { return emu::registry().count(name) != 0; }
