// The part of CUDA's driver API that kernels/src/gpu/cuda.rs uses, on the emulated device, so that the code which talks to a
// driver runs in tests without one: loaded under the name libcuda.so.1, the emulated device passes for a GPU. Names, arguments and error
// numbers are those of CUDA's driver API reference. Every image that is loaded stands for the kernels that were compiled with this file.
//
// As with a GPU, an error of a kernel stays: every later call returns it. While a stream is captured, what cannot be captured fails and
// spoils the capture.
//

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

extern "C" {
int emulated_launch(const char*, const uint32_t*, uint32_t, uint32_t, const void*, size_t, uint32_t, char*, size_t);
size_t emulated_kernels(char*, size_t);
size_t emulated_parameter_bytes(const char*);
char* emulated_alloc(size_t, size_t, unsigned char);
int emulated_free(char*, size_t, size_t, unsigned char);
}

namespace {

enum Code {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    ILLEGAL_ADDRESS = 700,
    LAUNCH_FAILED = 719,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
};

constexpr size_t ZONE_BYTES = 256, TOTAL = size_t(1) << 30;
constexpr unsigned char ZONE = 0xa5;

using Work = std::function<Code()>;

struct Stream {
    bool capturing = false, spoiled = false;
    std::vector<Work> captured;
};
struct Graph {
    std::vector<Work> work;
};
struct Event {
    std::chrono::steady_clock::time_point at;
    bool recorded = false;
};
struct Module {
    bool first;
};

std::mutex lock;
std::map<uint64_t, size_t> allocations;
size_t used = 0;
Code sticky = SUCCESS;
Stream* capturing = nullptr;
std::vector<std::string*> functions; // a function is known by its name's address
int modules = 0;
thread_local bool current = false;

using Guard = std::lock_guard<std::mutex>;

// What every call finds first; what waits or allocates cannot be captured.
Code ready(bool can_be_captured) {
    if (!current) return INVALID_CONTEXT;
    if (sticky != SUCCESS) return sticky;
    if (capturing && !can_be_captured) {
        capturing->spoiled = true;
        return CAPTURE_UNSUPPORTED;
    }
    return SUCCESS;
}

bool inside(uint64_t at, size_t bytes) {
    auto after = allocations.upper_bound(at);
    if (after == allocations.begin()) return false;
    --after;
    return at + bytes <= after->first + after->second;
}

Code submit(Stream* stream, Work work) {
    if (stream->capturing) {
        stream->captured.push_back(std::move(work));
        return SUCCESS;
    }
    return sticky = work();
}

Code copy(uint64_t to, uint64_t from, size_t bytes, uint64_t on_device) {
    if (!inside(on_device, bytes)) return ILLEGAL_ADDRESS;
    std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
    return SUCCESS;
}

Code give(char* memory) {
    const auto known = allocations.find(reinterpret_cast<uint64_t>(memory));
    if (known == allocations.end()) return INVALID_VALUE;
    const bool stray = emulated_free(memory, known->second, ZONE_BYTES, ZONE) != 0;
    allocations.erase(known);
    if (stray) std::fprintf(stderr, "emulated GPU: something was written beside an allocation\n");
    return stray ? sticky = ILLEGAL_ADDRESS : SUCCESS;
}

char* take(size_t bytes) {
    char* memory = emulated_alloc(bytes, ZONE_BYTES, ZONE);
    if (memory) allocations[reinterpret_cast<uint64_t>(memory)] = bytes;
    return memory;
}

} // namespace

extern "C" {

struct LaunchConfig {
    unsigned grid[3], block[3], shared_bytes;
    Stream* stream;
    void* attributes;
    unsigned attribute_count;
};

int cuInit(unsigned) { return SUCCESS; }
int cuDriverGetVersion(int* version) {
    // A number to stand for another driver, for tests of what is said then.
    const char* other = std::getenv("EMULATED_DRIVER_VERSION");
    *version = other ? std::atoi(other) : 13000;
    return SUCCESS;
}
int cuDeviceGetCount(int* count) {
    *count = 1;
    return SUCCESS;
}
int cuDeviceGet(int* device, int number) {
    *device = number;
    return number == 0 ? SUCCESS : INVALID_DEVICE;
}
int cuDeviceGetName(char* name, int bytes, int) {
    std::snprintf(name, size_t(bytes), "emulated GPU");
    return SUCCESS;
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
    case 16: *value = 132; break;    // multiprocessors
    case 75: *value = 9; break;      // compute capability
    case 76: *value = 0; break;
    case 97: *value = 232448; break; // shared memory of a block, if it asks for it
    default: return INVALID_VALUE;
    }
    return SUCCESS;
}
int cuDevicePrimaryCtxRetain(void** context, int) {
    *context = &lock;
    return SUCCESS;
}
int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
int cuCtxSetCurrent(void* context) {
    current = context != nullptr;
    return SUCCESS;
}

int cuMemGetInfo_v2(size_t* free, size_t* total) {
    Guard guard(lock);
    *free = TOTAL - used;
    *total = TOTAL;
    return current ? SUCCESS : INVALID_CONTEXT;
}
int cuMemAlloc_v2(uint64_t* address, size_t bytes) {
    Guard guard(lock);
    if (const Code code = ready(false)) return code;
    if (bytes == 0) return INVALID_VALUE;
    if (bytes > TOTAL - used) return OUT_OF_MEMORY;
    char* memory = take(bytes);
    if (!memory) return OUT_OF_MEMORY;
    std::memset(memory, 0x5a, bytes); // what memory of a GPU holds is not known
    used += bytes;
    *address = reinterpret_cast<uint64_t>(memory);
    return SUCCESS;
}
int cuMemFree_v2(uint64_t address) {
    Guard guard(lock);
    const auto known = allocations.find(address);
    if (known != allocations.end()) used -= known->second;
    return give(reinterpret_cast<char*>(address));
}
int cuMemHostAlloc(void** memory, size_t bytes, unsigned) {
    Guard guard(lock);
    if (const Code code = ready(false)) return code;
    *memory = take(bytes);
    return *memory ? SUCCESS : OUT_OF_MEMORY;
}
int cuMemFreeHost(void* memory) {
    Guard guard(lock);
    return give(static_cast<char*>(memory));
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, Stream* stream) {
    Guard guard(lock);
    if (const Code code = ready(true)) return code;
    return submit(stream, [=] { return copy(to, reinterpret_cast<uint64_t>(from), bytes, to); });
}
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, Stream* stream) {
    Guard guard(lock);
    if (const Code code = ready(true)) return code;
    return submit(stream, [=] { return copy(reinterpret_cast<uint64_t>(to), from, bytes, from); });
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, Stream* stream) {
    Guard guard(lock);
    if (const Code code = ready(true)) return code;
    return submit(stream, [=] { return inside(to, bytes) ? copy(to, from, bytes, from) : ILLEGAL_ADDRESS; });
}
int cuMemsetD8Async(uint64_t at, unsigned char value, size_t bytes, Stream* stream) {
    Guard guard(lock);
    if (const Code code = ready(true)) return code;
    return submit(stream, [=] {
        if (!inside(at, bytes)) return ILLEGAL_ADDRESS;
        std::memset(reinterpret_cast<void*>(at), value, bytes);
        return SUCCESS;
    });
}

// The first module has all kernels, the others none.
int cuModuleLoadData(Module** module, const void* image) {
    Guard guard(lock);
    if (const Code code = ready(false)) return code;
    if (!image || reinterpret_cast<uintptr_t>(image) % 8 != 0) return INVALID_IMAGE;
    *module = new Module{modules++ == 0};
    if (functions.empty()) {
        std::string names(emulated_kernels(nullptr, 0), ' ');
        emulated_kernels(&names[0], names.size());
        for (size_t begin = 0, end; (end = names.find('\n', begin)) != std::string::npos; begin = end + 1) {
            functions.push_back(new std::string(names.substr(begin, end - begin)));
        }
    }
    return SUCCESS;
}
int cuModuleUnload(Module* module) {
    Guard guard(lock);
    modules -= 1;
    delete module;
    return SUCCESS;
}
int cuModuleGetFunctionCount(unsigned* count, Module* module) {
    *count = module->first ? unsigned(functions.size()) : 0;
    return SUCCESS;
}
int cuModuleEnumerateFunctions(std::string** handles, unsigned count, Module*) {
    for (unsigned i = 0; i < count; i++) handles[i] = functions[i];
    return SUCCESS;
}
int cuFuncGetName(const char** name, std::string* function) {
    *name = function->c_str();
    return SUCCESS;
}
int cuFuncLoad(std::string*) { return SUCCESS; }
int cuFuncGetAttribute(int* value, int, std::string*) {
    *value = 4096; // as if every kernel had shared arrays of this size
    return SUCCESS;
}
int cuFuncSetAttribute(std::string*, int, int value) { return value <= 232448 - 4096 ? SUCCESS : INVALID_VALUE; }
int cuFuncGetParamInfo(std::string* function, size_t index, size_t* offset, size_t* bytes) {
    *offset = 0;
    *bytes = emulated_parameter_bytes(function->c_str());
    return index == 0 ? SUCCESS : INVALID_VALUE;
}
int cuLaunchKernelEx(const LaunchConfig* config, std::string* function, void** parameters, void**) {
    Guard guard(lock);
    if (const Code code = ready(true)) return code;
    const LaunchConfig launch = *config;
    if (launch.block[1] != 1 || launch.block[2] != 1 || launch.attribute_count > 1) return INVALID_VALUE;
    const size_t bytes = emulated_parameter_bytes(function->c_str());
    std::vector<uint64_t> block((bytes + 7) / 8);
    std::memcpy(block.data(), parameters[0], bytes);
    return submit(launch.stream, [=] {
        char message[1024];
        const bool failed = emulated_launch(function->c_str(), launch.grid, launch.block[0], launch.shared_bytes, block.data(), bytes, 0,
                                message, sizeof message) != 0;
        if (failed) std::fprintf(stderr, "emulated GPU: %s\n", message);
        return failed ? LAUNCH_FAILED : SUCCESS;
    });
}

int cuStreamCreate(Stream** stream, unsigned) {
    *stream = new Stream;
    return current ? SUCCESS : INVALID_CONTEXT;
}
int cuStreamDestroy_v2(Stream* stream) {
    delete stream;
    return SUCCESS;
}
int cuStreamSynchronize(Stream*) {
    Guard guard(lock);
    return ready(false);
}
int cuStreamBeginCapture_v2(Stream* stream, int) {
    Guard guard(lock);
    if (const Code code = ready(false)) return code;
    *stream = Stream{true, false, {}};
    capturing = stream;
    return SUCCESS;
}
int cuStreamEndCapture(Stream* stream, Graph** graph) {
    Guard guard(lock);
    *graph = nullptr;
    if (!stream->capturing) return INVALID_VALUE;
    stream->capturing = false;
    capturing = nullptr;
    if (stream->spoiled) return CAPTURE_INVALIDATED;
    *graph = new Graph{std::move(stream->captured)};
    return SUCCESS;
}
int cuGraphInstantiateWithFlags(Graph** executable, Graph* graph, uint64_t) {
    *executable = new Graph(*graph);
    return SUCCESS;
}
int cuGraphUpload(Graph*, Stream*) { return SUCCESS; }
int cuGraphLaunch(Graph* executable, Stream* stream) {
    Guard guard(lock);
    if (const Code code = ready(false)) return code;
    for (const Work& work : executable->work) {
        if (const Code code = submit(stream, work)) return code;
    }
    return SUCCESS;
}
int cuGraphDestroy(Graph* graph) {
    delete graph;
    return SUCCESS;
}
int cuGraphExecDestroy(Graph* executable) {
    delete executable;
    return SUCCESS;
}

int cuEventCreate(Event** event, unsigned) {
    *event = new Event;
    return current ? SUCCESS : INVALID_CONTEXT;
}
int cuEventRecord(Event* event, Stream*) {
    Guard guard(lock);
    if (const Code code = ready(false)) return code;
    *event = {std::chrono::steady_clock::now(), true};
    return SUCCESS;
}
int cuEventSynchronize(Event* event) {
    Guard guard(lock);
    if (const Code code = ready(false)) return code;
    return event->recorded ? SUCCESS : INVALID_VALUE;
}
int cuEventElapsedTime(float* milliseconds, Event* from, Event* to) {
    *milliseconds = std::chrono::duration<float, std::milli>(to->at - from->at).count();
    return SUCCESS;
}
int cuEventElapsedTime_v2(float* milliseconds, Event* from, Event* to) { return cuEventElapsedTime(milliseconds, from, to); }
int cuEventDestroy_v2(Event* event) {
    delete event;
    return SUCCESS;
}

int cuGetErrorName(int code, const char** text) {
    *text = code == OUT_OF_MEMORY       ? "CUDA_ERROR_OUT_OF_MEMORY"
            : code == ILLEGAL_ADDRESS   ? "CUDA_ERROR_ILLEGAL_ADDRESS"
            : code == LAUNCH_FAILED     ? "CUDA_ERROR_LAUNCH_FAILED"
            : code == CAPTURE_UNSUPPORTED ? "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"
            : code == CAPTURE_INVALIDATED ? "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
                                        : "CUDA_ERROR";
    return SUCCESS;
}
int cuGetErrorString(int, const char** text) {
    *text = "on the emulated device";
    return SUCCESS;
}

} // extern "C"
