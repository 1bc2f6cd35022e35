// What the kernels that issue wgmma have in common (compute capability 9.0 alone).
#pragma once
#include "bulk_copy.cuh"
#include "gpt.cuh"

// As what lies in shared memory is described: rows of 128 bytes, swizzled, eight of them 1024 bytes from the next
// eight. The inner side is along the rows.
__device__ __forceinline__ u64 operand(const bf16 *rows) {
    const u64 address = (shared_address(rows) & 0x3ffff) >> 4;
    return address | 1ull << 16 | static_cast<u64>(1024 >> 4) << 32 | 1ull << 62;
}

// The same where the inner side is the slow one; what is more than 64 wide goes on in the next box.
__device__ __forceinline__ u64 turned_operand(const bf16 *boxes, u32 box_bytes) {
    const u64 address = (shared_address(boxes) & 0x3ffff) >> 4;
    return address | static_cast<u64>(box_bytes >> 4) << 16 | static_cast<u64>(1024 >> 4) << 32 |
           1ull << 62;
}

// The sums of a wgmma: as its text names them, and the registers, of which `AT` finds each.
#define WGMMA_NAMES_32                                                                             \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                       \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define WGMMA_NAMES_64                                                                             \
    WGMMA_NAMES_32                                                                                 \
    ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "           \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA_NAMES_96                                                                             \
    WGMMA_NAMES_64                                                                                 \
    ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "           \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define WGMMA_SUMS_8(AT, I)                                                                        \
    "+f"(AT(I)), "+f"(AT(I + 1)), "+f"(AT(I + 2)), "+f"(AT(I + 3)), "+f"(AT(I + 4)),               \
        "+f"(AT(I + 5)), "+f"(AT(I + 6)), "+f"(AT(I + 7))
#define WGMMA_SUMS_32(AT, I)                                                                       \
    WGMMA_SUMS_8(AT, I), WGMMA_SUMS_8(AT, I + 8), WGMMA_SUMS_8(AT, I + 16), WGMMA_SUMS_8(AT, I + 24)

__device__ __forceinline__ void group_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void group_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <u32 LEFT> __device__ __forceinline__ void group_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

// Sums that were waited for: nothing reads them earlier.
template <u32 COUNT> __device__ __forceinline__ void settle(float (&sums)[COUNT]) {
#pragma unroll
    for (u32 index = 0; index < COUNT; ++index) {
        asm volatile("" : "+f"(sums[index])::"memory");
    }
}

template <u32 ROWS, u32 COLUMNS>
__device__ __forceinline__ void settle(float (&sums)[ROWS][COLUMNS]) {
#pragma unroll
    for (u32 row = 0; row < ROWS; ++row) {
        settle(sums[row]);
    }
}

// Four 8 by 8 matrices as the tensor cores have them in registers, to the row of theirs that this lane names.
__device__ __forceinline__ void store_fragment(const u32 (&values)[4], bf16 *row) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     shared_address(row)),
                 "r"(values[0]), "r"(values[1]), "r"(values[2]), "r"(values[3])
                 : "memory");
}

// All threads of a group have so many registers from here on.
template <u32 COUNT> __device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

template <u32 COUNT> __device__ __forceinline__ void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

// The stage that comes next, and how often all of them were used before.
template <u32 STAGES> struct Ring {
    u32 slot = 0;
    u32 parity = 0;

    __device__ __forceinline__ void advance() {
        if (++slot == STAGES) {
            slot = 0;
            parity ^= 1;
        }
    }
};

// The barriers of a cluster's stages: each is filled by one thread and emptied by so many arrivals.
template <u32 STAGES>
__device__ __forceinline__ void begin_stages(u64 (&full)[STAGES], u64 (&empty)[STAGES], u32 arrivals) {
    if (threadIdx.x == 0) {
        for (u32 slot = 0; slot < STAGES; ++slot) {
            barrier_begin(&full[slot], 1);
            barrier_begin(&empty[slot], arrivals);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        show_shared();
    }
    cluster_sync();
}
