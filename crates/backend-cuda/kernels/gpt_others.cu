// What devices that share a step do together. Each reaches the others' memory: copies fill a place there for each of
// them, a word says that they have, and sums are taken by whoever was told, in the order of ranks, so that all
// devices have the same bits.
#include "gpt.cuh"

constexpr u32 MOST_DEVICES = 16;
constexpr u32 THREADS = 256;
constexpr u32 SHARE_THREADS = 1024;

struct Signal {
    u32 *heard;              // (devices): 1 once a device has told
    u32 *told[MOST_DEVICES]; // where each device hears this one
    u32 devices;
    u32 rank;
};

__device__ __forceinline__ void store_release(u32 *flag, u32 value) {
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}

__device__ __forceinline__ u32 load_acquire_of_system(const u32 *flag) {
    u32 value;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
    return value;
}

// Tells all others that what this stream had before is done.
extern "C" __global__ void __launch_bounds__(WARP) tell(const __grid_constant__ Signal run) {
    const u32 device = threadIdx.x;
    if (device < run.devices && device != run.rank) {
        store_release(run.told[device], 1);
    }
}

// Waits until all others have told. None tells again before it has heard of what comes after this.
extern "C" __global__ void __launch_bounds__(WARP) hear(const __grid_constant__ Signal run) {
    const u32 device = threadIdx.x;
    if (device < run.devices && device != run.rank) {
        while (load_acquire_of_system(run.heard + device) == 0) {
            __nanosleep(100);
        }
        run.heard[device] = 0;
    }
}

struct ShareSum {
    Signal signal;
    const float *parts;          // (count)
    float *shared[MOST_DEVICES]; // where each device has this one's sum
    u32 count;
    u32 unused;
};

// One block: tells the sum of `parts`.
extern "C" __global__ void __launch_bounds__(SHARE_THREADS)
    share_sum(const __grid_constant__ ShareSum run) {
    __shared__ float partial[WARP];
    float sum = 0.0f;
    for (u32 index = threadIdx.x; index < run.count; index += SHARE_THREADS) {
        sum += run.parts[index];
    }
    sum = block_sum(sum, partial);
    const u32 device = threadIdx.x;
    if (device < run.signal.devices) {
        *run.shared[device] = sum;
        if (device != run.signal.rank) {
            store_release(run.signal.told[device], 1);
        }
    }
}

struct SumDevices {
    float *gradient;       // ranges, a row of blocks each: +=
    const float *received; // (others, ranges, fours x 4): the same of the other devices
    float *squares;        // (ranges, blocks of each): of the sums; none if null
    u64 fours;             // of a range
    u64 first_out;         // after so many, in the gradient,
    u64 out;               // so many are left out
    u64 apart;             // from range to range in the gradient,
    u64 received_apart;    // in what was received,
    u64 place;             // and there from device to device
    u32 others;
    u32 rank;
};

extern "C" __global__ void __launch_bounds__(THREADS) sum_devices(const SumDevices run) {
    __shared__ float partial[WARP];
    float *gradient = run.gradient + 4 * run.apart * blockIdx.y;
    const float *received = run.received + 4 * run.received_apart * blockIdx.y;
    const u64 stride = static_cast<u64>(gridDim.x) * THREADS;
    float squares = 0.0f;
#pragma unroll 2
    for (u64 index = blockIdx.x * THREADS + threadIdx.x; index < run.fours; index += stride) {
        float *at = gradient + 4 * (index + (index < run.first_out ? 0 : run.out));
        const float4 own = load_four(at);
        float4 sum = make_float4(0, 0, 0, 0);
        for (u32 device = 0; device <= run.others; ++device) {
            float4 four = own;
            if (device != run.rank) {
                const u32 place = device - (device > run.rank ? 1 : 0);
                four = load_four(received + 4 * (place * run.place + index));
            }
            sum.x += four.x;
            sum.y += four.y;
            sum.z += four.z;
            sum.w += four.w;
        }
        store_four(at, sum);
        squares += sum.x * sum.x + sum.y * sum.y + (sum.z * sum.z + sum.w * sum.w);
    }
    if (run.squares != nullptr) {
        squares = block_sum(squares, partial);
        if (threadIdx.x == 0) {
            run.squares[blockIdx.y * gridDim.x + blockIdx.x] = squares;
        }
    }
}
