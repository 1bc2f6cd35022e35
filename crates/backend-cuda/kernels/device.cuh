// What the kernels ask of the machine: sizes of the data, barriers, asynchronous copies, fragments
// of the tensor cores. All inline assembly is here. It needs compute capability 8.0.
#pragma once

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

constexpr u32 SIDE = 28;
constexpr u32 PIXELS = SIDE * SIDE; // bytes of an image; rows of 49 x 16 bytes
constexpr u32 CLASSES = 10;
constexpr u32 CLASS_STRIDE = 12; // classes padded to whole words of three, and of four
constexpr u32 WARP = 32;
constexpr u32 ALL_LANES = 0xffffffffu;

// A byte as a pixel's value.
constexpr float PIXEL_SCALE = 1.0f / 255.0f;

// Progress of a run of steps, in device memory, so that no launch carries a number that changes.
// `current` is `next` as the last kernel of a step may read it while it advances `next`.
struct Progress {
    u32 next;
    u32 current;
    u32 samples; // of the whole run: the last step may be short
    float learning_rate;
};

// The samples of one step: `count` of them, from `first` in the order.
struct Batch {
    u32 first;
    u32 count;
};

__device__ __forceinline__ Batch batch_of(u32 step, u32 batch_size, u32 samples) {
    const u32 first = step * batch_size;
    const u32 left = first < samples ? samples - first : 0;
    return Batch{first, left < batch_size ? left : batch_size};
}

// The block's dynamic shared memory. Kernels lay it out themselves.
__device__ __forceinline__ u8 *shared_arena() {
    extern __shared__ __align__(16) u8 arena[];
    return arena;
}

// The thread's and the block's index, read once: the compiler would rather read the special register
// again and again.
__device__ __forceinline__ u32 thread_index() {
    u32 index;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
    return index;
}

// Hides how a number was found, so that the compiler finds it here and keeps it instead of finding it
// again, or later, when there is no time.
__device__ __forceinline__ void keep(u32 &number) { asm volatile("" : "+r"(number)); }

template <class T> __device__ __forceinline__ void keep(T *&pointer) {
    u64 address = reinterpret_cast<u64>(pointer);
    asm volatile("" : "+l"(address));
    pointer = reinterpret_cast<T *>(address);
}

__device__ __forceinline__ u32 block_index() {
    u32 index;
    asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(index));
    return index;
}

// A number that all lanes of a warp have, so that the compiler knows that they do: what is decided by it
// is decided for whole warps, and after it no shuffle, vote or barrier begins with a test whether all lanes
// are there.
__device__ __forceinline__ u32 uniform(u32 number) { return __shfl_sync(ALL_LANES, number, 0); }

// Named barriers (1 to 15), reached by whole warps: `threads` counts those that wait and those that only
// arrive.
__device__ __forceinline__ void barrier_sync(u32 name, u32 threads) {
    asm volatile("barrier.cta.sync %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

__device__ __forceinline__ void barrier_arrive(u32 name, u32 threads) {
    asm volatile("barrier.cta.arrive %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

// Copies 16 bytes to shared memory without passing through registers; `bytes` of 0 writes zeros.
__device__ __forceinline__ void copy_async(void *shared, const void *global, u32 bytes) {
    const u32 address = static_cast<u32>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global),
                 "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void copy_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most `GROUPS` of this thread's committed groups are still under way.
template <int GROUPS> __device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
}

__device__ __forceinline__ void prefetch_to_l2(const void *global) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(global));
}

// Four 8x8 matrices of 16-bit elements, transposed: lane l names row (l % 8) of matrix (l / 8), and
// receives of each matrix the elements (row 2 (l % 4) and the next one, column l / 4).
__device__ __forceinline__ void load_matrices_transposed(u32 (&out)[4], const void *shared_row) {
    const u32 address = static_cast<u32>(__cvta_generic_to_shared(shared_row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
}

// sums (16, 8) += a (16, 16) b (16, 8) in bf16 with float32 sums; fragments as PTX's
// mma.m16n8k16 has them. Subnormal operands count: they are not flushed to zero.
__device__ __forceinline__ void multiply_add_bf16(float (&sums)[4], const u32 (&a)[4], u32 b0,
                                                  u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 2^value; results below 2^-126 are 0. The error is that of the machine's instruction, 2^-22.5, which
// is also all that CUDA's expf has.
__device__ __forceinline__ float power_of_two(float value) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(value));
    return power;
}

__device__ __forceinline__ bool all_lanes(bool value) { return __all_sync(ALL_LANES, value); }

// Dot product of four unsigned bytes each, added to `sum`.
__device__ __forceinline__ u32 dot_bytes(u32 a, u32 b, u32 sum) { return __dp4a(a, b, sum); }

// 16 bytes that are written and read whole, at the device's scope (PTX ISA 8.3, `.b128`).
__device__ __forceinline__ void store_whole(void *global, u64 low, u64 high) {
    asm volatile("{ .reg .b128 whole; mov.b128 whole, {%1, %2};"
                 " st.relaxed.gpu.global.b128 [%0], whole; }" ::"l"(global),
                 "l"(low), "l"(high)
                 : "memory");
}

__device__ __forceinline__ void load_whole(const void *global, u64 &low, u64 &high) {
    asm volatile("{ .reg .b128 whole; ld.relaxed.gpu.global.b128 whole, [%2];"
                 " mov.b128 {%0, %1}, whole; }"
                 : "=l"(low), "=l"(high)
                 : "l"(global)
                 : "memory");
}

// A count of blocks whose writes to global memory before a barrier of theirs are done, and its
// readers' side.
__device__ __forceinline__ void add_release(u32 *count, u32 value) {
    asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(count), "r"(value) : "memory");
}

__device__ __forceinline__ u32 load_acquire(const u32 *flag) {
    u32 value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
    return value;
}

// What another block wrote in this launch: not from this multiprocessor's own cache.
__device__ __forceinline__ float load_fresh(const float *value) { return __ldcg(value); }

// Where a peer of the cluster has what is at `own` in this block's shared memory (compute capability 9.0).
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
template <class T> __device__ __forceinline__ T *in_peer(T *own, u32 rank) {
    u64 address;
    asm("mapa.u64 %0, %1, %2;" : "=l"(address) : "l"(own), "r"(rank));
    return reinterpret_cast<T *>(address);
}

__device__ __forceinline__ u32 cluster_rank() {
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// All threads of the cluster wait for each other, and see what each other wrote.
__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\n"
                 "barrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
}
#endif

// The four bytes of `word` as floats, lowest first. 0x4B0000bb is 2^23 + bb, so no conversion
// instruction is needed, of which the machine does only a few per clock.
__device__ __forceinline__ void floats_of_bytes(float (&out)[4], u32 word) {
    const float offset = 8388608.0f; // 2^23
    out[0] = __uint_as_float(__byte_perm(word, 0x4B000000u, 0x7440)) - offset;
    out[1] = __uint_as_float(__byte_perm(word, 0x4B000000u, 0x7441)) - offset;
    out[2] = __uint_as_float(__byte_perm(word, 0x4B000000u, 0x7442)) - offset;
    out[3] = __uint_as_float(__byte_perm(word, 0x4B000000u, 0x7443)) - offset;
}

// Keeps NaN, which `fmaxf` would hide.
__device__ __forceinline__ float relu(float value) { return value < 0.0f ? 0.0f : value; }

// 1 / value to about a unit in the last place, without the branches of a division; for values from 1
// to 10.
__device__ __forceinline__ float reciprocal(float value) {
    const float guess = __fdividef(1.0f, value);
    return fmaf(guess, fmaf(-value, guess, 1.0f), guess);
}

// Sum over the lanes of a warp; the same bits in every lane and every time.
__device__ __forceinline__ float warp_sum(float value) {
    for (u32 distance = WARP / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(ALL_LANES, value, distance);
    }
    return value;
}
