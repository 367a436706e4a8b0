// The tensor cores' product of a warp, D[16, 8] += A[16, 16] B[16, 8], by the PTX manual's "Matrix fragments for mma.m16n8k16
// with floating point type". With g = lane / 4 and t = lane % 4, a lane has
//   of A: rows g (registers 0 and 2) and g + 8 (1 and 3), columns 2t and 2t + 1 (0 and 1) and 2t + 8 and 2t + 9 (2 and 3);
//   of B: rows 2t and 2t + 1 (register 0) and 2t + 8 and 2t + 9 (1), column g;
//   of D: row g (0 and 1) and row g + 8 (2 and 3), columns 2t and 2t + 1.
#pragma once

#include "lang.cuh"

// Two neighbours in one register, the first in its lower half.
template <class T>
__device__ inline uint32_t pair(float first, float second) {
    T halves[2];
    narrow(first, halves[0]);
    narrow(second, halves[1]);
    uint32_t both;
    memcpy(&both, halves, sizeof both);
    return both;
}

#ifdef __CUDACC__
// Four matrices of 8 x 8 halves from shared memory: lane l has where row l % 8 of matrix l / 8 begins, at a multiple of 16
// bytes. It gets of each matrix the elements 2t and 2t + 1 of row g.
__device__ inline void load_matrices(uint32_t (&out)[4], const void* row) {
    const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(at)
                 : "memory");
}

// The same of the transposed matrices: elements 2t and 2t + 1 of column g.
__device__ inline void load_transposed(uint32_t (&out)[4], const void* row) {
    const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(at)
                 : "memory");
}

// Begins to copy 16 bytes into shared memory, or zeros where they are not `there`; what was begun since the last `copies_end`
// is a group.
__device__ inline void copy16(void* to, const void* from, bool there) {
    const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(there ? 16 : 0) : "memory");
}
__device__ inline void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for this thread's groups, all but the last `LEFT`.
template <int LEFT>
__device__ inline void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

#define RERANKD_MMA(TYPE, NAME)                                                                                    \
    __device__ inline void mma(float(&d)[4], const uint32_t(&a)[4], uint32_t b0, uint32_t b1, TYPE) {              \
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." NAME "." NAME                                        \
                     ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                                  \
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                              \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                              \
    }
RERANKD_MMA(f16, "f16")
RERANKD_MMA(bf16, "bf16")
#undef RERANKD_MMA
#endif
