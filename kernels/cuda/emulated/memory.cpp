// Memory of the emulated device: each allocation ends at a guard page and is surrounded by bytes that are checked when it is freed.
//

#include <cstddef>
#include <cstring>
#include <sys/mman.h>
#include <unistd.h>

// Zeroed memory with `zone` bytes before and behind it, then a guard page. Aligned to 16 and no more, so that the end
// is as near to that page as it can be.
extern "C" char* emulated_alloc(size_t bytes, size_t zone_bytes, unsigned char zone) {
    const size_t page = size_t(sysconf(_SC_PAGESIZE));
    const size_t padded = (bytes + 15) / 16 * 16;
    const size_t length = (padded + zone_bytes + page - 1) / page * page;
    void* all = mmap(nullptr, length + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED) return nullptr;
    char* begin = static_cast<char*>(all) + length - padded;
    mprotect(begin + padded, page, PROT_NONE);
    std::memset(begin - zone_bytes, zone, zone_bytes);
    std::memset(begin + bytes, zone, padded - bytes);
    return begin;
}

// 1: something was written beside it.
extern "C" int emulated_free(char* begin, size_t bytes, size_t zone_bytes, unsigned char zone) {
    const size_t page = size_t(sysconf(_SC_PAGESIZE));
    const size_t padded = (bytes + 15) / 16 * 16;
    const size_t length = (padded + zone_bytes + page - 1) / page * page;
    int stray = 0;
    for (size_t i = 0; i < zone_bytes; i++) stray |= static_cast<unsigned char>(begin[-1 - ptrdiff_t(i)]) != zone;
    for (size_t i = bytes; i < padded; i++) stray |= static_cast<unsigned char>(begin[i]) != zone;
    munmap(begin + padded - length, length + page);
    return stray;
}
