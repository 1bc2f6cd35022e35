// What the device can do at best, for the floors under the kernels' times: how fast it copies, how
// fast it multiplies, how long blocks take to tell each other something; and how long its clock takes to
// rise after a pause, and how many clusters it holds.
//
//     nvcc -arch=native -O3 -std=c++17 floor.cu -o floor && ./floor
//
// One JSON line. Latencies are medians over repeats of a launch with many rounds.
#include <algorithm>
#include <chrono>
#include <cooperative_groups.h>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

namespace cg = cooperative_groups;
typedef unsigned int u32;
typedef unsigned long long u64;

#define CHECK(call)                                                                                \
    do {                                                                                           \
        cudaError_t error = (call);                                                                \
        if (error != cudaSuccess) {                                                                \
            fprintf(stderr, "%s: %s\n", #call, cudaGetErrorString(error));                         \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

constexpr u32 ROUNDS = 2000;

// Sixteen independent chains of multiply-adds in each thread.
__global__ void multiply_add(float *out, u32 rounds, float factor) {
    float sums[16];
#pragma unroll
    for (u32 index = 0; index < 16; ++index) {
        sums[index] = threadIdx.x + index;
    }
    for (u32 round = 0; round < rounds; ++round) {
#pragma unroll
        for (u32 index = 0; index < 16; ++index) {
            sums[index] = fmaf(sums[index], factor, 1.0f);
        }
    }
    float total = 0.0f;
#pragma unroll
    for (u32 index = 0; index < 16; ++index) {
        total += sums[index];
    }
    if (total == 12345.0f) {
        out[0] = total;
    }
}

__device__ __forceinline__ void put(u32 *word, u32 value) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(word), "r"(value) : "memory");
}
__device__ __forceinline__ u32 get(const u32 *word) {
    u32 value;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
    return value;
}

// Block 0 and the last block answer each other; a round is there and back.
__global__ void ping_pong(u32 *words) {
    const u32 last = gridDim.x - 1;
    if (threadIdx.x != 0 || (blockIdx.x != 0 && blockIdx.x != last)) {
        return;
    }
    for (u32 round = 1; round <= ROUNDS; ++round) {
        if (blockIdx.x == 0) {
            put(words, round);
            while (get(words + 64) != round) {
            }
        } else {
            while (get(words) != round) {
            }
            put(words + 64, round);
        }
    }
}

// Every block raises a flag of its own and waits for all flags: one warp, a few flags a lane.
__global__ void flags_of_all(u32 *flags, u32 stride) {
    for (u32 round = 1; round <= ROUNDS; ++round) {
        if (threadIdx.x == 0) {
            put(flags + blockIdx.x * stride, round);
        }
        bool ready;
        do {
            ready = true;
            for (u32 from = threadIdx.x; from < gridDim.x; from += 32) {
                ready = ready && get(flags + from * stride) >= round;
            }
        } while (!__all_sync(~0u, ready));
    }
}

// The barrier that CUDA offers.
__global__ void grid_barrier() {
    cg::grid_group grid = cg::this_grid();
    for (u32 round = 0; round < ROUNDS; ++round) {
        grid.sync();
    }
}

__global__ void cluster_barrier() {
    for (u32 round = 0; round < ROUNDS; ++round) {
        asm volatile("barrier.cluster.arrive.aligned;\n barrier.cluster.wait.aligned;" ::: "memory");
    }
}

// Blocks 0 and 1 of a cluster answer each other through their shared memory.
__global__ void cluster_ping_pong() {
    __shared__ volatile u32 word;
    cg::cluster_group cluster = cg::this_cluster();
    word = 0;
    cluster.sync();
    const u32 rank = cluster.block_rank();
    if (rank < 2 && threadIdx.x == 0) {
        volatile u32 *other = cluster.map_shared_rank(const_cast<u32 *>(&word), 1 - rank);
        for (u32 round = 1; round <= ROUNDS; ++round) {
            if (rank == 0) {
                *other = round;
                while (word != round) {
                }
            } else {
                while (word != round) {
                }
                *other = round;
            }
        }
    }
    cluster.sync();
}

// Blocks of a cluster read each other's shared memory, `len` words each time, from the next block.
__global__ void cluster_read(float *out, u32 rounds) {
    extern __shared__ float4 own[];
    cg::cluster_group cluster = cg::this_cluster();
    const u32 len = 4096; // 64 KiB
    for (u32 index = threadIdx.x; index < len; index += blockDim.x) {
        own[index] = float4{1.0f, 2.0f, 3.0f, float(index)};
    }
    cluster.sync();
    const float4 *other =
        cluster.map_shared_rank(own, (cluster.block_rank() + 1) % cluster.num_blocks());
    float4 sum{};
    for (u32 round = 0; round < rounds; ++round) {
#pragma unroll 8
        for (u32 index = threadIdx.x; index < len; index += blockDim.x) {
            const float4 four = other[index];
            sum.x += four.x;
            sum.y += four.y;
            sum.z += four.z;
            sum.w += four.w;
        }
    }
    if (sum.x + sum.y + sum.z + sum.w == 12345.0f) {
        out[0] = sum.x;
    }
    cluster.sync();
}

// What the time and the cycles are, every half a millisecond.
struct Moment {
    u64 ns, cycles;
};
constexpr u32 MOMENTS = 800;
constexpr u64 BETWEEN_NS = 500000;

__device__ __forceinline__ u64 now_ns() {
    u64 ns;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns)::"memory");
    return ns;
}

__global__ void watch_clock(Moment *moments) {
    const u64 start = now_ns();
    for (u32 index = 0; index < MOMENTS; ++index) {
        u64 ns;
        do {
            ns = now_ns();
        } while (ns - start < index * BETWEEN_NS);
        if (blockIdx.x == 0 && threadIdx.x == 0) {
            moments[index] = Moment{ns, u64(clock64())};
        }
    }
}

// A block that fills a multiprocessor, as those of the fused attention model.
__global__ void fill() { extern __shared__ float4 own[]; own[threadIdx.x] = float4{}; }

// An empty step of launches.
__global__ void nothing() {}

static float milliseconds(const std::function<void()> &work, int repeats) {
    cudaEvent_t begin, end;
    CHECK(cudaEventCreate(&begin));
    CHECK(cudaEventCreate(&end));
    std::vector<float> times;
    for (int repeat = 0; repeat <= repeats; ++repeat) {
        CHECK(cudaEventRecord(begin));
        work();
        CHECK(cudaEventRecord(end));
        CHECK(cudaEventSynchronize(end));
        CHECK(cudaGetLastError());
        float time;
        CHECK(cudaEventElapsedTime(&time, begin, end));
        if (repeat > 0) { // the first warms up
            times.push_back(time);
        }
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
}

// After a pause: the clock at first and at last, and when it had risen to within 2 % of that.
struct Rise {
    double first_mhz, last_mhz, ms;
};

static Rise watch_rise(u32 blocks) {
    Moment *moments;
    CHECK(cudaMalloc(&moments, sizeof(Moment) * MOMENTS));
    CHECK(cudaDeviceSynchronize());
    std::this_thread::sleep_for(std::chrono::seconds(4));
    watch_clock<<<blocks, 128>>>(moments);
    std::vector<Moment> seen(MOMENTS);
    CHECK(cudaMemcpy(seen.data(), moments, sizeof(Moment) * MOMENTS, cudaMemcpyDeviceToHost));
    CHECK(cudaFree(moments));
    const auto mhz = [&](u32 from, u32 to) {
        return 1e3 * double(seen[to].cycles - seen[from].cycles) / double(seen[to].ns - seen[from].ns);
    };
    const double last = mhz(MOMENTS - MOMENTS / 8, MOMENTS - 1);
    u32 slow = 0; // intervals up to the last one that was slow
    for (u32 index = 0; index + 1 < MOMENTS; ++index) {
        slow = mhz(index, index + 1) < 0.98 * last ? index + 1 : slow;
    }
    return Rise{mhz(0, 1), last, slow * BETWEEN_NS * 1e-6};
}

// How many clusters of so many blocks, each with a multiprocessor for itself, are resident at once.
static int clusters_held(u32 size) {
    cudaLaunchConfig_t config{};
    config.gridDim = size * 64;
    config.blockDim = 640;
    config.dynamicSmemBytes = 200 * 1024;
    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {size, 1, 1};
    config.attrs = &attribute;
    config.numAttrs = 1;
    const int bytes = 200 * 1024;
    CHECK(cudaFuncSetAttribute(fill, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    int count = 0;
    CHECK(cudaOccupancyMaxActiveClusters(&count, fill, &config));
    return count;
}

static void launch_cluster(const void *kernel, u32 blocks, u32 size, u32 threads, u32 shared,
                           void **arguments) {
    cudaLaunchConfig_t config{};
    config.gridDim = blocks;
    config.blockDim = threads;
    config.dynamicSmemBytes = shared;
    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {size, 1, 1};
    config.attrs = &attribute;
    config.numAttrs = 1;
    if (size > 8) {
        CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
    }
    CHECK(cudaLaunchKernelExC(&config, kernel, arguments));
}

int main() {
    cudaDeviceProp device;
    CHECK(cudaGetDeviceProperties(&device, 0));
    const u32 blocks = device.multiProcessorCount;
    const Rise rise = watch_rise(blocks);
    u32 *words;
    CHECK(cudaMalloc(&words, 1 << 20));
    float *out = reinterpret_cast<float *>(words);

    const size_t bytes = size_t(4) << 30;
    char *large;
    CHECK(cudaMalloc(&large, 2 * bytes));
    CHECK(cudaMemset(large, 1, 2 * bytes));
    const float copy_ms = milliseconds(
        [&] { CHECK(cudaMemcpyAsync(large + bytes, large, bytes, cudaMemcpyDeviceToDevice)); }, 9);
    CHECK(cudaFree(large));

    const u32 rounds = 20000;
    const float fma_ms =
        milliseconds([&] { multiply_add<<<blocks * 2, 1024>>>(out, rounds, 0.999f); }, 9);
    const double flop = 2.0 * 16 * rounds * 1024.0 * blocks * 2;

    const auto fresh = [&] { CHECK(cudaMemsetAsync(words, 0, 1 << 20)); };
    const auto per_round = [&](const std::function<void()> &work) {
        const float with = milliseconds([&] { fresh(); work(); }, 5);
        const float without = milliseconds([&] { fresh(); nothing<<<1, 1>>>(); }, 5);
        return (with - without) * 1e6 / ROUNDS; // ns
    };
    u32 stride = 32, one = 1;
    void *strided[] = {&words, &stride}, *dense[] = {&words, &one}, *none[] = {nullptr};
    const double ping = per_round([&] { ping_pong<<<blocks, 32>>>(words); });
    const double flags = per_round([&] {
        CHECK(cudaLaunchCooperativeKernel((void *)flags_of_all, dim3(128), dim3(32), strided, 0, 0));
    });
    const double dense_flags = per_round([&] {
        CHECK(cudaLaunchCooperativeKernel((void *)flags_of_all, dim3(128), dim3(32), dense, 0, 0));
    });
    const double grid = per_round([&] {
        CHECK(cudaLaunchCooperativeKernel((void *)grid_barrier, dim3(128), dim3(256), none, 0, 0));
    });
    double cluster[2] = {0, 0}, cluster_ping = 0, read_gbs[3] = {0, 0, 0};
    int held[2] = {0, 0};
    if (device.major >= 9) {
        held[0] = clusters_held(3);
        held[1] = clusters_held(4);
        const u32 sizes[2] = {4, 16};
        for (int index = 0; index < 2; ++index) {
            cluster[index] = per_round([&] {
                launch_cluster((void *)cluster_barrier, sizes[index] * 4, sizes[index], 512, 0, none);
            });
        }
        cluster_ping =
            per_round([&] { launch_cluster((void *)cluster_ping_pong, 4, 4, 32, 0, none); });
        const u32 reading[3] = {1, 4, 16};
        for (int index = 0; index < 3; ++index) {
            u32 times = 200;
            void *arguments[] = {&out, &times};
            CHECK(cudaFuncSetAttribute((void *)cluster_read,
                                       cudaFuncAttributeMaxDynamicSharedMemorySize, 65536));
            const u32 size = reading[index], count = 112 / size * size;
            const float ms = milliseconds(
                [&] {
                    launch_cluster((void *)cluster_read, count, size, 512, 65536, arguments);
                },
                5);
            read_gbs[index] = 65536.0 * times / (ms * 1e6); // per block
        }
    }
    // A graph of a thousand launches that depend on each other.
    cudaStream_t stream;
    CHECK(cudaStreamCreate(&stream));
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int launch = 0; launch < 1000; ++launch) {
        nothing<<<blocks, 128, 0, stream>>>();
    }
    cudaGraph_t graph;
    CHECK(cudaStreamEndCapture(stream, &graph));
    cudaGraphExec_t executable;
    CHECK(cudaGraphInstantiate(&executable, graph, 0));
    const float graph_ms = milliseconds([&] { CHECK(cudaGraphLaunch(executable, 0)); }, 9);
    const float launch_ms = milliseconds(
        [&] {
            for (int launch = 0; launch < 1000; ++launch) {
                nothing<<<blocks, 128>>>();
            }
        },
        9);

    printf("{\"device\": \"%s\", \"multiprocessors\": %u, \"copy_gb_per_s\": %.0f, "
           "\"float32_tflop_per_s\": %.1f, \"ping_pong_ns\": %.0f, \"flags_of_all_ns\": %.0f, "
           "\"dense_flags_of_all_ns\": %.0f, \"grid_sync_ns\": %.0f, \"cluster_4_barrier_ns\": %.0f, "
           "\"cluster_16_barrier_ns\": %.0f, \"cluster_ping_pong_ns\": %.0f, "
           "\"shared_read_gb_per_s_alone\": %.0f, \"shared_read_gb_per_s_cluster_4\": %.0f, "
           "\"shared_read_gb_per_s_cluster_16\": %.0f, \"graph_launch_ns\": %.0f, "
           "\"stream_launch_ns\": %.0f, \"clock_mhz_after_a_pause\": %.0f, \"clock_mhz\": %.0f, "
           "\"clock_rise_ms\": %.1f, \"clusters_of_3\": %d, \"clusters_of_4\": %d}\n",
           device.name, blocks, 2.0 * bytes / (copy_ms * 1e6), flop / (fma_ms * 1e9), ping, flags,
           dense_flags, grid, cluster[0], cluster[1], cluster_ping, read_gbs[0], read_gbs[1],
           read_gbs[2], graph_ms * 1e3, launch_ms * 1e3, rise.first_mhz, rise.last_mhz, rise.ms,
           held[0], held[1]);
}
