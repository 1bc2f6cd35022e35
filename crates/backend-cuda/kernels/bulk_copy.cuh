// The bulk copy engine and the barriers that count its bytes (compute capability 9.0).
#pragma once
#include "device.cuh"

struct __align__(64) TensorMap {
    u64 opaque[16];
};

__device__ __forceinline__ u32 shared_address(const void *pointer) {
    return static_cast<u32>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ void barrier_begin(u64 *barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
                 "r"(arrivals)
                 : "memory");
}

__device__ __forceinline__ void barrier_arrive(u64 *barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
                 : "memory");
}

__device__ __forceinline__ void barrier_expect(u64 *barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                     shared_address(barrier)),
                 "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void barrier_wait(u64 *barrier, u32 parity) {
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}" ::"r"(shared_address(barrier)),
                 "r"(parity)
                 : "memory");
}

// Copies the box of the map at this place, and counts its bytes at the barrier.
__device__ __forceinline__ void copy_box(void *to, const TensorMap &map, u32 column, u32 row,
                                         u64 *barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(to)),
                 "l"(&map), "r"(column), "r"(row), "r"(shared_address(barrier))
                 : "memory");
}

// The same, to this place in all blocks of the cluster whose bits are in `ranks`, at the barrier of each.
__device__ __forceinline__ void copy_box_to(u32 ranks, void *to, const TensorMap &map, u32 column,
                                            u32 row, u64 *barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(to)),
                 "l"(&map), "r"(column), "r"(row), "r"(shared_address(barrier)),
                 "h"(static_cast<unsigned short>(ranks))
                 : "memory");
}

// Arrives at the barrier that the block `rank` of the cluster has in this place, in the order of this block: to
// order what the whole cluster sees would take a microsecond, and whoever waits only writes what was read.
__device__ __forceinline__ void barrier_arrive_at(u32 rank, u64 *barrier) {
    asm volatile("{\n"
                 ".reg .b32 remote;\n"
                 "mapa.shared::cluster.u32 remote, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [remote];\n"
                 "}" ::"r"(shared_address(barrier)),
                 "r"(rank)
                 : "memory");
}

// Writes a box to the map's matrix. What this thread wrote is grouped by `bulk_commit`; the sources of all but the
// last `LEFT` groups may be written again after `bulk_wait_read`, and live until `bulk_wait`.
__device__ __forceinline__ void store_box(const TensorMap &map, u32 column, u32 row,
                                          const void *from) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(
                     &map),
                 "r"(column), "r"(row), "r"(shared_address(from))
                 : "memory");
}

__device__ __forceinline__ void bulk_commit() {
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

template <u32 LEFT> __device__ __forceinline__ void bulk_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(LEFT) : "memory");
}

__device__ __forceinline__ void bulk_wait() {
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

// Lets the bulk copy engine and the tensor cores see what this thread wrote to shared memory.
__device__ __forceinline__ void show_shared() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
