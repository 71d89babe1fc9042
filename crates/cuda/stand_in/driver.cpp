// A stand-in for NVIDIA's driver, cuBLAS and cuRAND on a machine without a GPU: just as much of them as the program calls. Kernels
// run in the emulator (kernels/emulate.hpp), memory is the machine's, everything is done before a call returns. With it the
// program's whole CUDA side runs unchanged, only very slowly: made for checking, by build.sh beside this file.
// Fresh memory is filled with NaN, and a write past the end of an allocation is found when it is freed. RANDORI_STAND_IN_MEMORY
// says how many MiB the card has (default 4096): what does not fit is refused as a card refuses it.
#include "kernels.inc"
#include <mutex>
#include <unordered_map>

typedef int Result;
enum { SUCCESS = 0, INVALID = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, NOT_FOUND = 500 };

namespace {
constexpr size_t GUARD = 64;
std::recursive_mutex turn;
std::unordered_map<uint64_t, size_t> &blocks() { static std::unordered_map<uint64_t, size_t> b; return b; }
size_t used = 0, most = 0, high = 0; // now, at most, at most since the program asked to forget
size_t total() {
    static size_t t = [] { const char *m = getenv("RANDORI_STAND_IN_MEMORY"); return (m ? atoll(m) : 4096ll) << 20; }();
    return t;
}
struct Report { ~Report() { if (getenv("RANDORI_STAND_IN_REPORT")) fprintf(stderr, "stand-in: at most %zu bytes, %zu at the end\n", most, used); } } report;
Result allocate(uint64_t *p, size_t n) {
    std::lock_guard<std::recursive_mutex> g(turn);
    if (used + n > total()) return OUT_OF_MEMORY;
    char *m = (char *)aligned_alloc(256, (n + GUARD + 255) / 256 * 256);
    if (!m) return OUT_OF_MEMORY;
    memset(m, 0xFF, n);
    memset(m + n, 0xA5, GUARD);
    blocks()[(uint64_t)m] = n;
    used += n;
    if (used > most) most = used;
    if (used > high) high = used;
    *p = (uint64_t)m;
    return SUCCESS;
}
Result release(uint64_t p) {
    std::lock_guard<std::recursive_mutex> g(turn);
    auto found = blocks().find(p);
    if (found == blocks().end()) { fprintf(stderr, "stand-in: freed what was not allocated\n"); abort(); }
    size_t n = found->second;
    for (size_t i = 0; i < GUARD; i++)
        if (((unsigned char *)p)[n + i] != 0xA5) { fprintf(stderr, "stand-in: something wrote past the end of %zu bytes\n", n); abort(); }
    used -= n;
    blocks().erase(found);
    memset((void *)p, 0xFF, n); // what is used after it was freed is NaN
    free((void *)p);
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
API Result cuCtxSynchronize() { return SUCCESS; }
API Result cuGetErrorName(Result e, const char **s) { *s = e == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR"; return SUCCESS; }
API Result cuGetErrorString(Result e, const char **s) { *s = e == OUT_OF_MEMORY ? "out of memory" : "an error of the stand-in"; return SUCCESS; }
API Result cuStreamCreate(void **s, unsigned) { *s = (void *)2; return SUCCESS; }
API Result cuStreamDestroy_v2(void *) { return SUCCESS; }
API Result cuStreamSynchronize(void *) { return SUCCESS; }
API Result cuStreamWaitEvent(void *, void *, unsigned) { return SUCCESS; }
API Result cuStreamIsCapturing(void *, int *s) { *s = 0; return SUCCESS; }
API Result cuEventCreate(void **e, unsigned) { *e = (void *)3; return SUCCESS; }
API Result cuEventDestroy_v2(void *) { return SUCCESS; }
API Result cuEventRecord(void *, void *) { return SUCCESS; }
API Result cuEventSynchronize(void *) { return SUCCESS; }
API Result cuEventElapsedTime_v2(float *ms, void *, void *) { *ms = 1; return SUCCESS; }
API Result cuEventElapsedTime(float *ms, void *, void *) { *ms = 1; return SUCCESS; }
API Result cuMemAllocAsync(uint64_t *p, size_t n, void *) { return allocate(p, n); }
API Result cuMemAlloc_v2(uint64_t *p, size_t n) { return allocate(p, n); }
API Result cuMemAllocManaged(uint64_t *p, size_t n, unsigned) { return allocate(p, n); }
API Result cuMemFreeAsync(uint64_t p, void *) { return release(p); }
API Result cuMemFree_v2(uint64_t p) { return release(p); }
API Result cuMemAllocHost_v2(void **p, size_t n) { *p = malloc(n); return SUCCESS; }
API Result cuMemHostAlloc(void **p, size_t n, unsigned) { *p = malloc(n); return SUCCESS; }
API Result cuMemFreeHost(void *p) { free(p); return SUCCESS; }
API Result cuMemGetInfo_v2(size_t *left, size_t *all) { *all = total(); *left = total() - used; return SUCCESS; }
API Result cuMemcpyHtoDAsync_v2(uint64_t d, const void *s, size_t n, void *) { memcpy((void *)d, s, n); return SUCCESS; }
API Result cuMemcpyHtoD_v2(uint64_t d, const void *s, size_t n) { memcpy((void *)d, s, n); return SUCCESS; }
API Result cuMemcpyDtoHAsync_v2(void *d, uint64_t s, size_t n, void *) { memcpy(d, (void *)s, n); return SUCCESS; }
API Result cuMemcpyDtoH_v2(void *d, uint64_t s, size_t n) { memcpy(d, (void *)s, n); return SUCCESS; }
API Result cuMemcpyDtoDAsync_v2(uint64_t d, uint64_t s, size_t n, void *) { memmove((void *)d, (void *)s, n); return SUCCESS; }
API Result cuMemsetD8Async(uint64_t d, unsigned char v, size_t n, void *) { memset((void *)d, v, n); return SUCCESS; }
API Result cuMemsetD8_v2(uint64_t d, unsigned char v, size_t n) { memset((void *)d, v, n); return SUCCESS; }
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
API Result cuLaunchKernel(void *f, unsigned x, unsigned y, unsigned z, unsigned a, unsigned b, unsigned c, unsigned shared, void *, void **args, void **) {
    std::lock_guard<std::recursive_mutex> g(turn);
    unsigned blocks[3] = {x, y, z}, threads[3] = {a, b, c};
    int code = randori_emulate(((std::string *)f)->c_str(), blocks, threads, shared, args);
    return code == 0 ? SUCCESS : INVALID;
}

API int cublasCreate_v2(void **h) { *h = (void *)6; return 0; }
API int cublasDestroy_v2(void *) { return 0; }
API int cublasSetStream_v2(void *, void *) { return 0; }
API int cublasSetWorkspace_v2(void *, void *, size_t) { return 0; }
API int cublasSetMathMode(void *, int) { return 0; }
API int cublasGemmEx(void *, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int at, int lda, const void *b, int bt, int ldb,
                     const void *beta, void *c, int ct, int ldc, int, int) {
    if (m < 0 || n < 0 || k < 0 || lda < (ta ? k : m) || ldb < (tb ? n : k) || ldc < m) return 7; // CUBLAS_STATUS_INVALID_VALUE
    float al = *(const float *)alpha, be = *(const float *)beta;
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
    return 0;
}
API int curandCreateGenerator(void **g, int) { *g = (void *)7; return 0; }
API int curandDestroyGenerator(void *) { return 0; }
API int curandSetStream(void *, void *) { return 0; }
API int curandSetPseudoRandomGeneratorSeed(void *, unsigned long long) { return 0; }
API int cublasLtCreate(void **h) { *h = (void *)8; return 0; }
