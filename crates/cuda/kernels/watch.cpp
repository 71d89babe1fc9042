// Finds races and misaligned accesses in emulated kernels. They are compiled with
// -fsanitize=thread,alignment, but linked with these functions instead of that sanitizer's library,
// which does not know that the kernels' threads are fibers.
//
// A race is two accesses of one byte by two threads, not both reads and not both atomic, with
// nothing between them that orders memory: a block's barrier, or __syncwarp() within a warp.
// Shuffles and tensor-core products order none. Nothing orders two blocks of a launch; launches
// follow each other. Of the reads of a byte since its last write three are recorded: the last, the
// last before it by another thread of that warp, and the last of another warp. So of many unordered
// reads one may be dropped, and its race missed.
#include "emulate.hpp"
#include <dlfcn.h>
#include <memory>
#include <unordered_map>

extern "C" char __bss_start[] __attribute__((visibility("hidden"))), _end[] __attribute__((visibility("hidden")));

namespace emu {
namespace {
// An access: by which thread, after how many barriers; `block` is 0 for none.
struct Who {
    uint64_t block : 23, atomic : 1, thread : 10, barriers : 15, warp_barriers : 15;
};
struct Byte { Who write, read, beside, elsewhere; };
constexpr size_t PAGE = 1024;
struct Page { Byte bytes[PAGE]; };
struct Shadow {
    std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
    struct { uintptr_t number; Page *page; } recent[64] = {};
};
Shadow &shadow() { static Shadow s; return s; }
uint32_t block_number() {
    State &s = state();
    return (uint32_t)((((uint64_t)s.block.z * s.blocks.y + s.block.y) * s.blocks.x + s.block.x + 1) & 0x7fffff);
}
Byte &byte(uintptr_t at) {
    Shadow &s = shadow();
    auto &recent = s.recent[at / PAGE % 64];
    if (recent.number != at / PAGE || !recent.page) {
        auto &page = s.pages[at / PAGE];
        if (!page) page = std::make_unique<Page>();
        recent = {at / PAGE, page.get()};
    }
    return recent.page->bytes[at % PAGE];
}
template <class T> bool within(uintptr_t at, const T *from, size_t count) { return at - (uintptr_t)from < count * sizeof(T); }

// Whether the access `before` is ordered before `now`, or by the same thread.
bool ordered(Who before, Who now, bool shared) {
    if (!before.block || (before.block == now.block && before.thread == now.thread)) return true;
    if (before.block != now.block) return shared; // each block has its own
    if (before.barriers < now.barriers) return true;
    return before.thread / WARP == now.thread / WARP && before.warp_barriers < now.warp_barriers;
}
const char *where = nullptr; // in the kernel, the instruction that is looked at

void told(const char *what, const void *at, const char *kind, int other) {
    State &s = state();
    fprintf(stderr, "emulated kernel %s, block %u,%u,%u, thread %u: %s at %p (%s memory), thread %d before it\n", s.kernel, s.block.x, s.block.y,
            s.block.z, s.now->number, what, at, kind, other);
    Dl_info info;
    if (where && dladdr(where, &info) && info.dli_fname) {
        char command[4096];
        snprintf(command, sizeof command, "addr2line -Cpsfi -e '%s' %#lx >&2", info.dli_fname, (unsigned long)(where - (const char *)info.dli_fbase) - 1);
        if (system(command)) fprintf(stderr, "(no addr2line to say where)\n");
    }
    fail("a race");
}
} // namespace

void forget() {
    shadow().pages.clear();
    for (auto &recent : shadow().recent) recent = {};
}

void touch(const void *place, size_t bytes, Access access) {
    State &s = state();
    Fiber *f = s.now;
    uintptr_t at = (uintptr_t)place;
    if (!f || within(at, f->stack, STACK) || within(at, &s, 1) || within(at, s.fibers.data(), s.fibers.size()) ||
        within(at, s.warps.data(), s.warps.size()))
        return;
    bool shared = within(at, s.shared.data(), s.shared.size()) || within(at, __bss_start, _end - __bss_start);
    auto few = [](unsigned long n) { return n < 0x7fff ? n : 0x7fff; };
    Who now{block_number(), access == ATOMIC, f->number, few(s.generation), few(s.warps[f->warp].ordered)};
    for (size_t i = 0; i < bytes; i++) {
        Byte &b = byte(at + i);
        const char *kind = shared ? "shared" : "global";
        if (!ordered(b.write, now, shared) && !(b.write.atomic && now.atomic))
            told(access == READ ? "reads what is written" : "writes what is written", place, kind, b.write.thread);
        if (access == READ) {
            Who was = b.read;
            if (was.block && !(was.block == now.block && was.thread == now.thread)) {
                bool same = was.block == now.block && was.thread / WARP == now.thread / WARP;
                (same ? b.beside : b.elsewhere) = was;
                if (!same) b.beside = Who{};
            }
            b.read = now;
        } else {
            for (Who was : {b.read, b.beside, b.elsewhere})
                if (!ordered(was, now, shared)) told("writes what is read", place, kind, was.thread);
            b.write = now;
            b.read = b.beside = b.elsewhere = Who{};
        }
    }
}
} // namespace emu

// The functions that instrumented code calls.
#define SEE(bytes)                                                                                                                                   \
    extern "C" void __tsan_read##bytes(void *p) { emu::where = (char *)__builtin_return_address(0); emu::touch(p, bytes, emu::READ); }                \
    extern "C" void __tsan_write##bytes(void *p) { emu::where = (char *)__builtin_return_address(0); emu::touch(p, bytes, emu::WRITE); }              \
    extern "C" void __tsan_unaligned_read##bytes(void *p) { emu::where = (char *)__builtin_return_address(0); emu::touch(p, bytes, emu::READ); }      \
    extern "C" void __tsan_unaligned_write##bytes(void *p) { emu::where = (char *)__builtin_return_address(0); emu::touch(p, bytes, emu::WRITE); }
SEE(1) SEE(2) SEE(4) SEE(8) SEE(16)
extern "C" void __tsan_read_range(void *p, size_t n) { emu::touch(p, n, emu::READ); }
extern "C" void __tsan_write_range(void *p, size_t n) { emu::touch(p, n, emu::WRITE); }
extern "C" void __tsan_vptr_update(void *, void *) {}
extern "C" void __tsan_vptr_read(void *) {}
extern "C" void __tsan_func_entry(void *) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_init() {}
extern "C" char __tsan_atomic8_load(const volatile char *p, int) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }

// A misaligned address, which is a fault on a GPU.
struct Mismatch { const char *file; uint32_t line, column; };
extern "C" void __ubsan_handle_type_mismatch_v1_abort(Mismatch *m, void *at) {
    fprintf(stderr, "%s:%u: a misaligned access of %p\n", m->file, m->line, at);
    emu::fail("a misaligned access");
}
