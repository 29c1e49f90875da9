// A kernel with one deliberate fault per number, for the tests of the emulated device. It is not compiled for
// GPUs.
//

#include "../common.cuh"

struct FaultParameters {
    float* out; // [64]
    uint32_t fault, unused;
};

KERNEL(faults, 64, FaultParameters) {
    SHARED(float, array, 64);
    char* dynamic = shared_memory();
    const uint32_t t = threadIdx.x;
    array[t] = float(t);
    float result = 0;
    switch (p.fault) {
    case 0: // none
        barrier();
        result = array[63 - t];
        break;
    case 1: // half of the threads do not come
        if (t < 32) barrier();
        break;
    case 2: // lanes of a warp do different things
        result = t % 2 ? shuffle_xor(1.0f, 1) : float(warp_ballot(true));
        break;
    case 3: // never written
        result = *reinterpret_cast<float*>(dynamic + t % 4 * 4);
        break;
    case 4: // not a multiple of 16
        result = bits_float(load16(reinterpret_cast<char*>(p.out) + 4).x);
        break;
    case 5: // one element too far
        array[t + 1] = 1;
        break;
    case 6: // read before it arrived
        copy16_async(dynamic, p.out);
        copy_commit();
        result = *reinterpret_cast<float*>(dynamic);
        copy_wait<0>();
        break;
    case 7: // never waited for
        copy16_async(dynamic, p.out);
        copy_commit();
        break;
    case 8: // outside shared memory
        copy16_async(dynamic + 64, p.out);
        break;
    case 9: // beside the allocation
        p.out[64 + t % 2] = 1;
        break;
    case 10: // no barrier: a race
        result = array[63 - t];
        break;
    case 11: // a lane has left
        if (t % 32 == 5) return;
        result = shuffle_xor(1.0f, 1);
        break;
    case 12: // written at the very edge of shared memory
        dynamic[16 + t] = 1;
        break;
    }
    p.out[t] = result;
}
