// A stand-in for NVIDIA's driver, cuBLAS and cuRAND on a machine without a GPU, with just the
// functions that the program calls. Kernels run in the emulator (kernels/emulate.hpp), memory is
// the machine's. With it the program's whole CUDA side runs unchanged, but very slowly: it is for
// checking, and built by build.sh beside this file. Fresh memory is filled with NaN and so is freed
// memory, which is held for a while: writes into it, or past the end of an allocation, are found.
// RANDORI_STAND_IN_MEMORY is the card's memory in MiB (default 4096), RANDORI_STAND_IN_PINNED the
// host memory that it pins (default 65536): what does not fit is refused as by a driver.
//
// RANDORI_STAND_IN_IDLE: kernels and products do nothing and memory is 0, so that only the host's
// own time remains.
//
// Queues: the first that is created (and the null one) is the main one. RANDORI_STAND_IN_EAGER says
// which queues do their work before the call returns: `main` (the default), `others` or `none`; the
// rest do it as late as possible, when the host or another queue waits for it. A real card's order
// lies between these, so a missing wait shows in one of the three.
#ifdef RANDORI_WATCH
#include "device.cuh" // the kernels are compiled apart, with what the watcher needs
#else
#include "kernels.inc"
#endif
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>

typedef int Result;
enum { SUCCESS = 0, INVALID = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, NOT_FOUND = 500, NOT_READY = 600 };

namespace {
constexpr size_t GUARD = 64, KEPT = 64 << 20;
std::recursive_mutex turn;
typedef std::lock_guard<std::recursive_mutex> Turn;
[[noreturn]] void fail(const char *what, size_t n) { fprintf(stderr, "stand-in: %s (%zu)\n", what, n); abort(); }

// ---- queues
struct Queue { std::deque<std::function<void()>> work; };
struct Mark { bool passed = true; Queue *in = nullptr; }; // a place in a queue
typedef std::shared_ptr<Mark> Place;
struct Event { Place place = std::make_shared<Mark>(); };
Queue *first = nullptr;
std::vector<Queue *> &queues() { static std::vector<Queue *> q; return q; }
Queue *main_queue() { static Queue q; static bool once = (queues().push_back(&q), true); (void)once; return &q; }
Queue *queue(void *s) { return s && s != first ? (Queue *)s : main_queue(); }
bool is_late(Queue *q) {
    static std::string eager = [] { const char *e = getenv("RANDORI_STAND_IN_EAGER"); return std::string(e ? e : "main"); }();
    return eager != (q == main_queue() ? "main" : "others");
}
void submit(void *s, std::function<void()> f) { Queue *q = queue(s); if (is_late(q)) q->work.push_back(std::move(f)); else f(); }
void step(Queue *q) { auto f = std::move(q->work.front()); q->work.pop_front(); f(); }
void finish(Queue *q) { while (!q->work.empty()) step(q); }
void finish_all() { for (size_t i = 0; i < queues().size(); i++) finish(queues()[i]); }
void reach(Place p) { while (!p->passed) step(p->in); }

// ---- memory
std::map<uint64_t, size_t> &blocks() { static std::map<uint64_t, size_t> b; return b; }
std::map<uint64_t, size_t> &pins() { static std::map<uint64_t, size_t> b; return b; } // the host's, pinned
std::deque<std::pair<uint64_t, size_t>> &freed() { static std::deque<std::pair<uint64_t, size_t>> f; return f; }
// bytes in use now, at most, at most since the program reset the peak; freed, but not released
size_t used = 0, most = 0, high = 0, kept = 0;
size_t pinned = 0, most_pinned = 0, times_pinned = 0;
size_t mebibytes(const char *name, long long otherwise) { const char *m = getenv(name); return (size_t)(m ? atoll(m) : otherwise) << 20; }
size_t total() { static size_t t = mebibytes("RANDORI_STAND_IN_MEMORY", 4096); return t; }
bool idle() { static bool i = getenv("RANDORI_STAND_IN_IDLE") != nullptr; return i; }
size_t launches = 0, products = 0, allocations = 0;
struct Report {
    ~Report() {
        if (!getenv("RANDORI_STAND_IN_REPORT")) return;
        fprintf(stderr, "stand-in: at most %zu bytes, %zu at the end\n", most, used);
        fprintf(stderr, "stand-in: %zu launches, %zu products, %zu allocations\n", launches, products, allocations);
        fprintf(stderr, "stand-in: %zu bytes pinned, %zu blocks of them asked for\n", most_pinned, times_pinned);
    }
} report;
bool all(const void *p, size_t n, unsigned char is) {
    for (size_t i = 0; i < n; i++)
        if (((const unsigned char *)p)[i] != is) return false;
    return true;
}
bool is_pinned(const void *p) {
    auto after = pins().upper_bound((uint64_t)p);
    if (after == pins().begin()) return false;
    --after;
    return (uint64_t)p < after->first + after->second;
}
// Allocates zeros that take no memory until touched; the allocation's true address stands before
// them.
char *blank(size_t n) {
    char *all = (char *)calloc(1, n + GUARD + 512);
    if (!all) return nullptr;
    char *m = (char *)(((uint64_t)all + 511) / 256 * 256);
    ((char **)m)[-1] = all;
    return m;
}
Result allocate(uint64_t *p, size_t n, void *stream) {
    Turn g(turn);
    if (used + n > total()) return OUT_OF_MEMORY;
    char *m = idle() ? blank(n) : (char *)aligned_alloc(256, (n + GUARD + 255) / 256 * 256);
    if (!m) return OUT_OF_MEMORY;
    allocations++;
    if (!idle()) memset(m, 0xFF, n);
    memset(m + n, 0xA5, GUARD);
    // on a card its previous user may still be running: it is this allocation's only when the queue
    // reaches this point
    if (is_late(queue(stream))) submit(stream, [=] { memset(m, 0xFF, n); });
    blocks()[(uint64_t)m] = n;
    used += n;
    if (used > most) most = used;
    if (used > high) high = used;
    *p = (uint64_t)m;
    return SUCCESS;
}
// Fills freed memory with NaN; a write into it is found when it is released for good.
void poison(uint64_t p, size_t n) {
    if (idle()) return free(((void **)p)[-1]);
    memset((void *)p, 0xFF, n);
    freed().push_back({p, n});
    for (kept += n; kept > KEPT; freed().pop_front()) {
        auto [old, bytes] = freed().front();
        if (!all((void *)old, bytes, 0xFF)) fail("something wrote into these bytes when they were freed", bytes);
        free((void *)old);
        kept -= bytes;
    }
}
Result release(uint64_t p, void *stream) {
    Turn g(turn);
    auto found = blocks().find(p);
    if (found == blocks().end()) fail("freed what was not allocated", 0);
    size_t n = found->second;
    used -= n;
    blocks().erase(found);
    submit(stream, [=] {
        if (!all((char *)p + n, GUARD, 0xA5)) fail("something wrote past the end of these bytes", n);
        poison(p, n);
    });
    return SUCCESS;
}
Result pin(void **p, size_t n) {
    Turn g(turn);
    if (pinned + n > mebibytes("RANDORI_STAND_IN_PINNED", 65536)) return OUT_OF_MEMORY;
    *p = aligned_alloc(4096, (n + 4095) / 4096 * 4096);
    if (!*p) return OUT_OF_MEMORY;
    memset(*p, 0xFF, n);
    pins()[(uint64_t)*p] = n;
    times_pinned++;
    pinned += n;
    if (pinned > most_pinned) most_pinned = pinned;
    return SUCCESS;
}
Result unpin(void *p) {
    Turn g(turn);
    auto found = pins().find((uint64_t)p);
    if (found == pins().end()) fail("unpinned what was not pinned", 0);
    size_t n = found->second;
    pinned -= n;
    pins().erase(found);
    if (idle()) return free(p), SUCCESS;
    poison((uint64_t)p, n); // without waiting: copies in flight must have been waited for before
    return SUCCESS;
}
Result up(uint64_t d, const void *s, size_t n, void *stream) {
    Turn g(turn);
    if (!is_late(queue(stream)) || is_pinned(s)) submit(stream, [=] { memcpy((void *)d, s, n); });
    else { // what is not pinned is copied aside before the call returns
        std::string aside((const char *)s, n);
        submit(stream, [=] { memcpy((void *)d, aside.data(), n); });
    }
    return SUCCESS;
}
Result down(void *d, uint64_t s, size_t n, void *stream) {
    Turn g(turn);
    submit(stream, [=] { memcpy(d, (void *)s, n); });
    if (!is_pinned(d)) finish(queue(stream)); // what is not pinned is there when the call returns
    return SUCCESS;
}
float get(const void *p, int type, size_t i) {
    if (type == 0) return ((const float *)p)[i];
    return widen(((const bf16 *)p)[i]);
}
thread_local void *current = nullptr;
std::map<std::string, std::string *> names;
} // namespace

#define API extern "C" __attribute__((visibility("default")))
API Result cuInit(unsigned) { return SUCCESS; }
API Result cuDriverGetVersion(int *v) { *v = 13000; return SUCCESS; }
API Result cuDeviceGetCount(int *n) { *n = 1; return SUCCESS; }
API Result cuDeviceGet(int *d, int n) { if (n) return 101; *d = 0; return SUCCESS; }
API Result cuDeviceGetName(char *to, int n, int) { snprintf(to, n, "stand-in (no GPU)"); return SUCCESS; }
API Result cuDeviceGetAttribute(int *v, int a, int) {
    *v = a == 75 ? 9 : a == 76 ? 0 : a == 115 ? 1 /* memory pools */ : a == 16 ? 4 /* multiprocessors */ : a == 97 ? 232448 : 0;
    return SUCCESS;
}
API Result cuDeviceTotalMem_v2(size_t *n, int) { *n = total(); return SUCCESS; }
API Result cuDevicePrimaryCtxRetain(void **c, int) { *c = (void *)1; return SUCCESS; }
API Result cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
API Result cuCtxGetCurrent(void **c) { *c = current; return SUCCESS; }
API Result cuCtxSetCurrent(void *c) { current = c; return SUCCESS; }
API Result cuCtxSynchronize() { Turn g(turn); finish_all(); return SUCCESS; }
API Result cuGetErrorName(Result e, const char **s) { *s = e == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR"; return SUCCESS; }
API Result cuGetErrorString(Result e, const char **s) { *s = e == OUT_OF_MEMORY ? "out of memory" : "an error of the stand-in"; return SUCCESS; }
API Result cuStreamCreate(void **s, unsigned) {
    Turn g(turn);
    Queue *q = new Queue;
    main_queue();
    if (!first) first = q; // the null stream is the main one
    else queues().push_back(q);
    *s = q;
    return SUCCESS;
}
API Result cuStreamDestroy_v2(void *s) { Turn g(turn); finish(queue(s)); return SUCCESS; }
API Result cuStreamSynchronize(void *s) { Turn g(turn); finish(queue(s)); return SUCCESS; }
API Result cuStreamWaitEvent(void *s, void *e, unsigned) {
    Turn g(turn);
    Place p = ((Event *)e)->place; // as it was recorded last
    submit(s, [=] { reach(p); });
    return SUCCESS;
}
API Result cuStreamIsCapturing(void *, int *s) { *s = 0; return SUCCESS; }
API Result cuEventCreate(void **e, unsigned) { *e = new Event; return SUCCESS; }
API Result cuEventDestroy_v2(void *e) { Turn g(turn); delete (Event *)e; return SUCCESS; }
API Result cuEventRecord(void *e, void *s) {
    Turn g(turn);
    Place p = std::make_shared<Mark>();
    *p = {false, queue(s)};
    ((Event *)e)->place = p;
    submit(s, [=] { p->passed = true; });
    return SUCCESS;
}
API Result cuEventQuery(void *e) { Turn g(turn); return ((Event *)e)->place->passed ? SUCCESS : NOT_READY; }
API Result cuEventSynchronize(void *e) { Turn g(turn); reach(((Event *)e)->place); return SUCCESS; }
API Result cuEventElapsedTime_v2(float *ms, void *, void *) { *ms = 1; return SUCCESS; }
API Result cuEventElapsedTime(float *ms, void *, void *) { *ms = 1; return SUCCESS; }
API Result cuMemAllocAsync(uint64_t *p, size_t n, void *s) { return allocate(p, n, s); }
API Result cuMemAlloc_v2(uint64_t *p, size_t n) { cuCtxSynchronize(); return allocate(p, n, nullptr); }
API Result cuMemAllocManaged(uint64_t *p, size_t n, unsigned) { Result r = allocate(p, n, nullptr); cuCtxSynchronize(); return r; }
API Result cuMemFreeAsync(uint64_t p, void *s) { return release(p, s); }
API Result cuMemFree_v2(uint64_t p) { cuCtxSynchronize(); return release(p, nullptr); }
API Result cuMemAllocHost_v2(void **p, size_t n) { return pin(p, n); }
API Result cuMemHostAlloc(void **p, size_t n, unsigned) { return pin(p, n); }
API Result cuMemFreeHost(void *p) { return unpin(p); }
API Result cuMemGetInfo_v2(size_t *left, size_t *all) { *all = total(); *left = total() - used; return SUCCESS; }
API Result cuMemcpyHtoDAsync_v2(uint64_t d, const void *s, size_t n, void *q) { return up(d, s, n, q); }
API Result cuMemcpyHtoD_v2(uint64_t d, const void *s, size_t n) { cuCtxSynchronize(); memcpy((void *)d, s, n); return SUCCESS; }
API Result cuMemcpyDtoHAsync_v2(void *d, uint64_t s, size_t n, void *q) { return down(d, s, n, q); }
API Result cuMemcpyDtoH_v2(void *d, uint64_t s, size_t n) { cuCtxSynchronize(); memcpy(d, (void *)s, n); return SUCCESS; }
API Result cuMemcpyDtoDAsync_v2(uint64_t d, uint64_t s, size_t n, void *q) { Turn g(turn); submit(q, [=] { memmove((void *)d, (void *)s, n); }); return SUCCESS; }
API Result cuMemsetD8Async(uint64_t d, unsigned char v, size_t n, void *q) { Turn g(turn); submit(q, [=] { memset((void *)d, v, n); }); return SUCCESS; }
API Result cuMemsetD8_v2(uint64_t d, unsigned char v, size_t n) { cuCtxSynchronize(); memset((void *)d, v, n); return SUCCESS; }
API Result cuDeviceGetDefaultMemPool(void **p, int) { *p = (void *)4; return SUCCESS; }
API Result cuMemPoolSetAttribute(void *, int what, void *) {
    if (what == 8 /* most that was used */) high = used;
    return SUCCESS;
}
API Result cuMemPoolGetAttribute(void *, int what, void *v) { *(uint64_t *)v = what == 8 ? high : used; return SUCCESS; }
API Result cuModuleLoadData(void **m, const void *) { *m = (void *)5; return SUCCESS; }
API Result cuModuleUnload(void *) { return SUCCESS; }
API Result cuModuleGetFunction(void **f, void *, const char *name) {
    std::lock_guard<std::recursive_mutex> g(turn);
    if (!emu::registry().count(name)) return NOT_FOUND;
    std::string *&kept = names[name];
    if (!kept) kept = new std::string(name);
    *f = kept;
    return SUCCESS;
}
API Result cuFuncSetAttribute(void *, int, int) { return SUCCESS; }
API Result cuLaunchKernel(void *f, unsigned x, unsigned y, unsigned z, unsigned a, unsigned b, unsigned c, unsigned shared, void *q, void **args, void **) {
    Turn g(turn);
    launches++;
    if (idle()) return SUCCESS;
    const std::string &name = *(std::string *)f;
    std::vector<std::string> copies; // who launches may forget them at once
    for (size_t size : emu::arguments()[name]) copies.emplace_back((const char *)args[copies.size()], size);
    auto run = [=](std::vector<std::string> copies) {
        unsigned blocks[3] = {x, y, z}, threads[3] = {a, b, c};
        std::vector<void *> places;
        for (std::string &copy : copies) places.push_back(copy.data());
        return randori_emulate(name.c_str(), blocks, threads, shared, places.data());
    };
    if (!is_late(queue(q))) return run(copies) == 0 ? SUCCESS : INVALID;
    submit(q, [=] { if (int code = run(copies)) fail("a launch that a card refuses", code); });
    return SUCCESS;
}

struct Blas { void *queue = nullptr; };
API int cublasCreate_v2(void **h) { *h = new Blas; return 0; }
API int cublasDestroy_v2(void *h) { delete (Blas *)h; return 0; }
API int cublasSetStream_v2(void *h, void *q) { ((Blas *)h)->queue = q; return 0; }
API int cublasSetWorkspace_v2(void *, void *, size_t) { return 0; }
API int cublasSetMathMode(void *, int) { return 0; }
static void product(int ta, int tb, int m, int n, int k, float al, const void *a, int at, int lda, const void *b, int bt, int ldb, float be, void *c,
                    int ct, int ldc) {
    std::vector<float> wa((size_t)m * k), wb((size_t)n * k); // both with k last
    for (int i = 0; i < m; i++)
        for (int l = 0; l < k; l++) wa[(size_t)i * k + l] = get(a, at, ta ? (size_t)i * lda + l : (size_t)l * lda + i);
    for (int j = 0; j < n; j++)
        for (int l = 0; l < k; l++) wb[(size_t)j * k + l] = get(b, bt, tb ? (size_t)l * ldb + j : (size_t)j * ldb + l);
    for (int j = 0; j < n; j++)
        for (int i = 0; i < m; i++) {
            const float *x = &wa[(size_t)i * k], *y = &wb[(size_t)j * k];
            float part[8] = {};
            int l = 0;
            for (; l + 8 <= k; l += 8)
                for (int e = 0; e < 8; e++) part[e] += x[l + e] * y[l + e];
            float sum = ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
            for (; l < k; l++) sum += x[l] * y[l];
            size_t at_c = (size_t)j * ldc + i;
            float old = be == 0 ? 0 : be * get(c, ct, at_c);
            float v = al * sum + old;
            if (ct == 0) ((float *)c)[at_c] = v; else ((bf16 *)c)[at_c] = narrow<bf16>(v);
        }
}
API int cublasGemmEx(void *h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int at, int lda, const void *b, int bt, int ldb,
                     const void *beta, void *c, int ct, int ldc, int, int) {
    if (m < 0 || n < 0 || k < 0 || lda < (ta ? k : m) || ldb < (tb ? n : k) || ldc < m) return 7; // CUBLAS_STATUS_INVALID_VALUE
    float al = *(const float *)alpha, be = *(const float *)beta;
    Turn g(turn);
    products++;
    if (!idle()) submit(((Blas *)h)->queue, [=] { product(ta, tb, m, n, k, al, a, at, lda, b, bt, ldb, be, c, ct, ldc); });
    return 0;
}
API int curandCreateGenerator(void **g, int) { *g = (void *)7; return 0; }
API int curandDestroyGenerator(void *) { return 0; }
API int curandSetStream(void *, void *) { return 0; }
API int curandSetPseudoRandomGeneratorSeed(void *, unsigned long long) { return 0; }
API int cublasLtCreate(void **h) { *h = (void *)8; return 0; }
