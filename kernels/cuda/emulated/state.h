// State of the emulated device: registered kernels, fibers, barriers, shared arrays. Included by machine.cpp alone.

#pragma once

#include <csetjmp>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>

#include "../common.cuh"

namespace emulated {
namespace {

constexpr size_t STACK = 128 * 1024;
constexpr size_t MOST_THREADS = 1024;
constexpr size_t MOST_SHARED = 227 * 1024; // of a block, compute capability 9.0
constexpr size_t ZONE = 128;
constexpr unsigned char POISON = 0xff; // a NaN as f32, f16 and bf16

struct Kernel {
    uint32_t threads;
    size_t parameter_bytes;
    void (*call)(const void*);
};
std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

struct Slots {
    std::mutex lock;
    std::vector<size_t> bytes;
};
Slots& slots() {
    static Slots all;
    return all;
}

struct Copy {
    void* shared;
    const void* global;
    bool full;
    uint64_t group;
};

enum class State { Ready, AtBarrier, InWarp, Done };

struct Fiber {
    jmp_buf at;
    State state;
    int barrier;
    const char* doing;
    void* data;
    bool alive; // it has a stack with something on it
    uint64_t group; // of the next copy
    std::vector<Copy> copies;
};

struct Barrier {
    uint32_t came, awaited;
};

struct Array {
    std::unique_ptr<char[]> memory;
    size_t bytes = 0;
    uint64_t block = 0; // the block that last used it, counted over the machine's life
};

struct Machine {
    Place where{};
    jmp_buf scheduler;
    ucontext_t first;
    char* stacks = nullptr;
    std::vector<Fiber> fibers;
    uint32_t current = 0, threads = 0;
    Barrier barriers[16];
    std::vector<uint32_t> warp_came;
    const Kernel* kernel = nullptr;
    const char* name = "";
    const void* parameters = nullptr;
    std::vector<char> dynamic;
    size_t dynamic_bytes = 0;
    std::vector<Array> arrays;
    std::vector<size_t> touched;
    uint64_t block = 0;
    char message[1024];
    bool failed = false, in_fiber = false;

    ~Machine() {
        if (stacks) munmap(stacks, STACK * MOST_THREADS);
    }
};

} // namespace
} // namespace emulated
