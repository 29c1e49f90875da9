// Ordering across blocks and launches: fences, reads that see other blocks' writes, L2 eviction hints, and starting a kernel before
// the previous one has ended (programmatic dependent launch, PTX ISA, griddepcontrol; without that launch attribute
// both words do nothing). On the emulated device blocks and launches run one after the other, so there is nothing to order.
//
//     device_fence()             what this thread wrote is seen by all blocks before what it writes next
//     load8_fresh, load4_fresh   8 or 4 bytes that another block of this launch may have written (from L2)
//     copy16_async_once          copy16_async of data not read again soon: evicted from L2 first
//     wait_for_previous()        from here on everything that earlier launches wrote is there
//     let_next_start()           the next launch may begin, up to its wait_for_previous()
//
#pragma once

#include "common.cuh"

#ifdef EMULATED

DEVICE void device_fence() {}
DEVICE uint2 load8_fresh(const void* p) { return load8(p); }
DEVICE uint32_t load4_fresh(const void* p) { return load4(p); }
DEVICE void copy16_async_once(void* shared, const void* global, bool full = true) { copy16_async(shared, global, full); }
DEVICE void wait_for_previous() {}
DEVICE void let_next_start() {}

#else

DEVICE void device_fence() { __threadfence(); }
DEVICE uint2 load8_fresh(const void* p) { return __ldcg(static_cast<const uint2*>(p)); }
DEVICE uint32_t load4_fresh(const void* p) { return __ldcg(static_cast<const uint32_t*>(p)); }
DEVICE void copy16_async_once(void* shared, const void* global, bool full = true) {
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    const int bytes = full ? 16 : 0;
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(bytes), "l"(policy)
                 : "memory");
}
DEVICE void wait_for_previous() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
DEVICE void let_next_start() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

#endif
