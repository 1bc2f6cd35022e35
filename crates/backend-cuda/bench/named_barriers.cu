// What compute-sanitizer's racecheck makes of barriers that parts of a block reach at different places.
//
//     nvcc -arch=native -lineinfo -std=c++17 named_barriers.cu -o named_barriers
//     compute-sanitizer --tool racecheck ./named_barriers
//
// In every kernel half of a block's warps write numbers to shared memory and the other half read them.
// All are right but `race`, which has no barrier and must be reported; what is reported of the others
// the tool does not understand. `part_meets_more_often` is what the fused CNN does. On an H100 only `race`
// was reported.
#include <cstdio>
#include <cstdlib>

typedef unsigned int u32;
constexpr u32 THREADS = 128, HALF = THREADS / 2;

__shared__ float numbers[HALF];

__device__ __forceinline__ void sync(u32 name, u32 threads) {
    asm volatile("barrier.cta.sync %0, %1;" ::"r"(name), "r"(threads) : "memory");
}
__device__ __forceinline__ void arrive(u32 name, u32 threads) {
    asm volatile("barrier.cta.arrive %0, %1;" ::"r"(name), "r"(threads) : "memory");
}
__device__ __forceinline__ void write() { numbers[threadIdx.x] = threadIdx.x; }
__device__ __forceinline__ void read(float *out) { out[threadIdx.x] = numbers[THREADS - 1 - threadIdx.x]; }

// All threads meet at one place.
__global__ void together_at_0(float *out) {
    if (threadIdx.x < HALF) write();
    sync(0, THREADS);
    if (threadIdx.x >= HALF) read(out);
}
__global__ void together_at_1(float *out) {
    if (threadIdx.x < HALF) write();
    sync(1, THREADS);
    if (threadIdx.x >= HALF) read(out);
}

// All threads meet, each half at its own place.
__global__ void apart_at_0(float *out) {
    if (threadIdx.x < HALF) {
        write();
        sync(0, THREADS);
    } else {
        sync(0, THREADS);
        read(out);
    }
}
__global__ void apart_at_1(float *out) {
    if (threadIdx.x < HALF) {
        write();
        sync(1, THREADS);
    } else {
        sync(1, THREADS);
        read(out);
    }
}

// Writers announce themselves, readers wait: the example of PTX's manual.
__global__ void arrive_and_wait(float *out) {
    if (threadIdx.x < HALF) {
        write();
        arrive(1, THREADS);
    } else {
        sync(1, THREADS);
        read(out);
    }
}

// Half of the block meets, and its first warp writes what its second reads.
__global__ void half_meets(float *out) {
    if (threadIdx.x < HALF) {
        if (threadIdx.x < HALF / 2) numbers[threadIdx.x] = threadIdx.x;
        sync(1, HALF);
        if (threadIdx.x >= HALF / 2) out[threadIdx.x] = numbers[HALF - 1 - threadIdx.x];
    }
}

// In each round half of the block meets once more than the other half, then all meet.
__global__ void part_meets_more_often(float *out) {
    for (u32 round = 0; round < 8; ++round) {
        if (threadIdx.x < HALF) {
            sync(1, HALF);
            write();
        }
        __syncthreads();
        if (threadIdx.x >= HALF) read(out);
        __syncthreads();
    }
}

__global__ void race(float *out) {
    if (threadIdx.x < HALF) {
        write();
    } else {
        read(out);
    }
}

int main() {
    float *out;
    if (cudaMalloc(&out, THREADS * sizeof(float)) != cudaSuccess) {
        fprintf(stderr, "no device\n");
        return 1;
    }
    void (*const kernels[])(float *) = {together_at_0, together_at_1,   apart_at_0, apart_at_1,
                                        arrive_and_wait, half_meets, part_meets_more_often, race};
    for (const auto kernel : kernels) {
        kernel<<<1, THREADS>>>(out);
    }
    const cudaError_t error = cudaDeviceSynchronize();
    puts(cudaGetErrorString(error));
    return error != cudaSuccess;
}
