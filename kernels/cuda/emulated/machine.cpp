// The emulated device: the fibers of a block and their scheduling, launch errors, shared memory, and the C functions through which
// Rust launches a kernel. One machine per OS thread; blocks run one after the other, so a block that waits for another never ends
// and is reported.

#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

#include "state.h"

namespace emulated {

__attribute__((tls_model("initial-exec"))) thread_local Place* place = nullptr;

namespace {

thread_local std::unique_ptr<Machine> own;
__attribute__((tls_model("initial-exec"))) thread_local Machine* machine = nullptr;

void note_list(const char* format, va_list list) {
    Machine* m = machine;
    if (m->failed) return;
    const Index& block = m->where.block;
    const size_t size = sizeof m->message;
    const int n = std::snprintf(m->message, size, "kernel %s, block (%u, %u, %u), thread %u: ", m->name, block.x, block.y, block.z,
        m->current);
    std::vsnprintf(m->message + n, size - size_t(n), format, list);
    m->failed = true;
    for (Fiber& fiber : m->fibers) fiber.alive = false; // what they were doing is lost
}

__attribute__((format(printf, 1, 2))) void note(const char* format, ...) {
    va_list list;
    va_start(list, format);
    note_list(format, list);
    va_end(list);
}

// Leaves the running fiber until the scheduler takes it up again.
__attribute__((noinline)) void pause() {
    Machine* m = machine;
    if (_setjmp(m->fibers[m->current].at) == 0) _longjmp(m->scheduler, 1);
}

// A fiber lives as long as its machine: one kernel call after the other.
void live() {
    for (;;) {
        Machine* m = machine;
        m->kernel->call(m->parameters);
        m = machine;
        Fiber& fiber = m->fibers[m->current];
        if (!fiber.copies.empty()) fault("%zu asynchronous copies were never waited for", fiber.copies.size());
        fiber.state = State::Done;
        pause();
    }
}

__attribute__((noinline)) void resume(uint32_t thread) {
    Machine* m = machine;
    m->current = thread;
    m->where.thread = {thread, 0, 0};
    m->in_fiber = true;
    if (_setjmp(m->scheduler) == 0) {
        if (m->fibers[thread].alive) _longjmp(m->fibers[thread].at, 1);
        m->fibers[thread].alive = true;
        getcontext(&m->first);
        m->first.uc_stack.ss_sp = m->stacks + STACK * thread;
        m->first.uc_stack.ss_size = STACK;
        m->first.uc_link = nullptr;
        makecontext(&m->first, live, 0);
        setcontext(&m->first);
    }
    machine->in_fiber = false;
}

void start_block() {
    Machine* m = machine;
    m->block += 1;
    m->touched.clear();
    std::memset(m->dynamic.data(), POISON, m->dynamic.size());
    for (uint32_t t = 0; t < m->threads; t++) {
        Fiber& fiber = m->fibers[t];
        fiber.state = State::Ready;
        fiber.group = 0;
        fiber.copies.clear();
    }
    for (Barrier& barrier : m->barriers) barrier = {0, 0};
    m->warp_came.assign(MOST_THREADS / 32, 0);
}

bool untouched(const char* zone) {
    for (size_t i = 0; i < ZONE; i++) {
        if (static_cast<unsigned char>(zone[i]) != POISON) return false;
    }
    return true;
}

char* dynamic_begin() {
    Machine* m = machine;
    const uintptr_t at = reinterpret_cast<uintptr_t>(m->dynamic.data()) + ZONE;
    return reinterpret_cast<char*>((at + 127) / 128 * 128);
}

void check_zones() {
    Machine* m = machine;
    if (!untouched(dynamic_begin() - ZONE) || !untouched(dynamic_begin() + m->dynamic_bytes)) {
        note("something was written outside the %zu bytes of dynamic shared memory", m->dynamic_bytes);
    }
    size_t all = m->dynamic_bytes;
    for (size_t slot : m->touched) {
        const Array& array = m->arrays[slot];
        all += array.bytes;
        if (!untouched(array.memory.get()) || !untouched(array.memory.get() + ZONE + array.bytes)) {
            note("something was written outside a shared array of %zu bytes", array.bytes);
        }
    }
    if (all > MOST_SHARED) note("%zu bytes of shared memory, %zu are the most", all, MOST_SHARED);
}

void report_stuck() {
    Machine* m = machine;
    std::string text;
    size_t done = 0, shown = 0;
    for (uint32_t t = 0; t < m->threads; t++) {
        const Fiber& fiber = m->fibers[t];
        if (fiber.state == State::Done) {
            done += 1;
        } else if (shown++ < 4) {
            text += " thread " + std::to_string(t) + " waits in " + fiber.doing + ";";
        }
    }
    note("no thread can go on: %zu of %u have ended, and%s ...", done, m->threads, text.c_str());
}

// 0: in order, 1: backwards, else a permutation of that number.
std::vector<uint32_t> turns(uint32_t threads, uint32_t order) {
    std::vector<uint32_t> all(threads);
    for (uint32_t t = 0; t < threads; t++) all[t] = order == 1 ? threads - 1 - t : t;
    uint64_t state = order;
    for (uint32_t left = threads; order > 1 && left > 1; left--) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        std::swap(all[left - 1], all[(state >> 33) % left]);
    }
    return all;
}

void run_block(const std::vector<uint32_t>& order) {
    Machine* m = machine;
    start_block();
    for (;;) {
        bool progress = false, left = false;
        for (uint32_t thread : order) {
            if (m->fibers[thread].state == State::Ready) {
                resume(thread);
                progress = true;
                if (m->failed) return;
            }
            left |= m->fibers[thread].state != State::Done;
        }
        if (!left) break;
        if (!progress) return report_stuck();
    }
    check_zones();
}

// A stray access ends the process; at least report the kernel.
struct sigaction before_segv, before_bus, before_ill;
void stray(int number, siginfo_t* info, void* context) {
    const Machine* m = machine;
    if (m && m->in_fiber) {
        char text[512];
        const int n = std::snprintf(text, sizeof text,
            "emulated GPU: kernel %s, block (%u, %u, %u), thread %u: %s at %p\n", m->name, m->where.block.x, m->where.block.y,
            m->where.block.z, m->current, number == SIGILL ? "an access that is not aligned" : "memory that is not allocated",
            info->si_addr);
        if (write(2, text, size_t(n)) < 0) _exit(134);
        _exit(134);
    }
    struct sigaction& before = number == SIGSEGV ? before_segv : number == SIGBUS ? before_bus : before_ill;
    if (before.sa_flags & SA_SIGINFO) {
        before.sa_sigaction(number, info, context);
    } else {
        sigaction(number, &before, nullptr);
    }
}
const bool watched = [] {
    struct sigaction action {};
    action.sa_sigaction = stray;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &before_segv);
    sigaction(SIGBUS, &action, &before_bus);
    sigaction(SIGILL, &action, &before_ill);
    return true;
}();

Machine* of_this_thread() {
    if (!own) {
        own.reset(new Machine);
        own->fibers.resize(MOST_THREADS);
        void* stacks = mmap(nullptr, STACK * MOST_THREADS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stacks == MAP_FAILED) std::abort();
        own->stacks = static_cast<char*>(stacks);
    }
    return own.get();
}

} // namespace

Registered::Registered(const char* name, uint32_t threads, size_t parameter_bytes, void (*call)(const void*)) {
    if (!kernels().insert({name, {threads, parameter_bytes, call}}).second) {
        std::fprintf(stderr, "emulated GPU: two kernels are called %s\n", name);
        std::abort();
    }
}

void fault(const char* format, ...) {
    va_list list;
    va_start(list, format);
    note_list(format, list);
    va_end(list);
    _longjmp(machine->scheduler, 1);
}

size_t shared_slot(size_t bytes) {
    std::lock_guard<std::mutex> guard(slots().lock);
    slots().bytes.push_back(bytes);
    return slots().bytes.size() - 1;
}

char* shared_array(size_t slot) {
    Machine* m = machine;
    if (m->arrays.size() <= slot) m->arrays.resize(slot + 1);
    Array& array = m->arrays[slot];
    if (array.block != m->block) {
        if (!array.memory) {
            std::lock_guard<std::mutex> guard(slots().lock);
            array.bytes = slots().bytes[slot];
            array.memory.reset(new char[array.bytes + 2 * ZONE]); // aligned to 16, as ZONE is
        }
        std::memset(array.memory.get(), POISON, array.bytes + 2 * ZONE);
        array.block = m->block;
        m->touched.push_back(slot);
    }
    return array.memory.get() + ZONE;
}

char* dynamic_shared() { return dynamic_begin(); }

void check_shared(const void* p, size_t bytes, const char* what) {
    Machine* m = machine;
    check_aligned(p, bytes, what);
    const char* at = static_cast<const char*>(p);
    bool inside = at >= dynamic_begin() && at + bytes <= dynamic_begin() + m->dynamic_bytes;
    for (size_t i = 0; i < m->touched.size() && !inside; i++) {
        const Array& array = m->arrays[m->touched[i]];
        inside = at >= array.memory.get() + ZONE && at + bytes <= array.memory.get() + ZONE + array.bytes;
    }
    if (!inside) {
        fault("%s at %td of dynamic shared memory, which has %zu bytes", what, at - dynamic_begin(), m->dynamic_bytes);
    }
}

void wait_barrier(int id, uint32_t awaited) {
    Machine* m = machine;
    if (id < 0 || id > 15 || awaited % 32 != 0 || awaited > m->threads) fault("barrier %d of %u threads", id, awaited);
    Barrier& barrier = m->barriers[id];
    if (barrier.came > 0 && barrier.awaited != awaited) fault("barrier %d of %u threads, and of %u", id, awaited, barrier.awaited);
    barrier = {barrier.came + 1, awaited};
    if (barrier.came == awaited) {
        barrier = {0, 0};
        for (uint32_t t = 0; t < m->threads; t++) {
            Fiber& fiber = m->fibers[t];
            if (fiber.state == State::AtBarrier && fiber.barrier == id) fiber.state = State::Ready;
        }
        return;
    }
    Fiber& fiber = m->fibers[m->current];
    fiber.state = State::AtBarrier;
    fiber.barrier = id;
    fiber.doing = "barrier";
    pause();
}

void collective(const char* what, void* data, void (*combine)(void* const* lanes)) {
    Machine* m = machine;
    const uint32_t first = m->current / 32 * 32;
    Fiber& fiber = m->fibers[m->current];
    fiber.doing = what;
    fiber.data = data;
    fiber.state = State::InWarp;
    if (++m->warp_came[first / 32] < 32) return pause();
    m->warp_came[first / 32] = 0;
    void* lanes[32];
    for (uint32_t i = 0; i < 32; i++) {
        Fiber& other = m->fibers[first + i];
        if (std::strcmp(other.doing, what) != 0) fault("%s, while thread %u is in %s", what, first + i, other.doing);
        lanes[i] = other.data;
    }
    combine(lanes);
    for (uint32_t i = 0; i < 32; i++) m->fibers[first + i].state = State::Ready;
}

void copy_async(void* shared, const void* global, bool full) {
    Machine* m = machine;
    check_shared(shared, 16, "an asynchronous copy goes");
    if (full) check_aligned(global, 16, "an asynchronous copy comes from");
    Fiber& fiber = m->fibers[m->current];
    std::memset(shared, POISON, 16); // undefined until the copy arrives
    fiber.copies.push_back({shared, global, full, fiber.group});
}

void commit_copies() { machine->fibers[machine->current].group += 1; }

void wait_copies(int but_latest) {
    Machine* m = machine;
    Fiber& fiber = m->fibers[m->current];
    std::vector<Copy> later;
    for (const Copy& copy : fiber.copies) {
        if (copy.group + uint64_t(but_latest) >= fiber.group) {
            later.push_back(copy);
        } else if (copy.full) {
            std::memcpy(copy.shared, copy.global, 16);
        } else {
            std::memset(copy.shared, 0, 16);
        }
    }
    fiber.copies = std::move(later);
}

} // namespace emulated

// Runs a whole grid. 0: done; 1: `message` holds the error.
extern "C" int emulated_launch(const char* name, const uint32_t grid[3], uint32_t threads, uint32_t shared_bytes, const void* parameters,
    size_t parameter_bytes, uint32_t order, char* message, size_t message_bytes) {
    using namespace emulated;
    Machine* m = of_this_thread();
    const auto known = kernels().find(name);
    const auto refuse = [&](const char* why) {
        std::snprintf(message, message_bytes, "kernel %s: %s", name, why);
        return 1;
    };
    if (known == kernels().end()) return refuse("there is none of this name");
    if (parameter_bytes != known->second.parameter_bytes) return refuse("its parameters are a struct of another size");
    if (threads == 0 || threads % 32 != 0 || threads > known->second.threads) return refuse("it is not made for blocks of this size");
    if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0 || grid[1] > 65535 || grid[2] > 65535) return refuse("an impossible grid");
    if (shared_bytes > MOST_SHARED) return refuse("more shared memory than a block can have");
    machine = m;
    place = &m->where;
    m->kernel = &known->second;
    m->name = known->first.c_str();
    m->parameters = parameters;
    m->threads = threads;
    m->failed = false;
    m->dynamic_bytes = shared_bytes;
    m->dynamic.resize(shared_bytes + 3 * ZONE);
    m->where.block_size = {threads, 1, 1};
    m->where.grid = {grid[0], grid[1], grid[2]};
    const std::vector<uint32_t> all = turns(threads, order);
    for (uint32_t z = 0; z < grid[2] && !m->failed; z++) {
        for (uint32_t y = 0; y < grid[1] && !m->failed; y++) {
            for (uint32_t x = 0; x < grid[0] && !m->failed; x++) {
                m->where.block = {x, y, z};
                run_block(all);
            }
        }
    }
    machine = nullptr;
    if (m->failed) std::snprintf(message, message_bytes, "%s", m->message);
    return m->failed ? 1 : 0;
}

// The names of all kernels, one a line; how many bytes that takes.
extern "C" size_t emulated_kernels(char* names, size_t bytes) {
    std::string all;
    for (const auto& kernel : emulated::kernels()) all += kernel.first + "\n";
    if (all.size() <= bytes) std::memcpy(names, all.data(), all.size());
    return all.size();
}

// The size of a kernel's parameters; 0: there is no such kernel.
extern "C" size_t emulated_parameter_bytes(const char* name) {
    const auto known = emulated::kernels().find(name);
    return known == emulated::kernels().end() ? 0 : known->second.parameter_bytes;
}
