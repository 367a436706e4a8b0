// What the kernels are written in: CUDA C++, less what the twin (twin.hpp) has no counterpart for. Each kernel is one text,
// compiled by nvcc for the GPU and by any C++ compiler for tests on a machine that has none.
#pragma once

#include <stdint.h>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
using f16 = __half;
using bf16 = __nv_bfloat16;
__device__ inline float widen(f16 x) { return __half2float(x); }
__device__ inline float widen(bf16 x) { return __bfloat162float(x); }
__device__ inline void narrow(float x, f16& out) { out = __float2half_rn(x); }
__device__ inline void narrow(float x, bf16& out) { out = __float2bfloat16_rn(x); }
// 2^x and 1/x as the hardware has them, within 2 units of the last place; a result too small for f32 is 0.
__device__ inline float fast_exp2(float x) {
    asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
    return x;
}
__device__ inline float fast_reciprocal(float x) {
    asm("rcp.approx.ftz.f32 %0, %0;" : "+f"(x));
    return x;
}
#else
#include "twin.hpp"
#endif

__device__ inline float widen(float x) { return x; }
__device__ inline void narrow(float x, float& out) { out = x; }

constexpr int WARP = 32;
constexpr unsigned ALL = 0xffffffffu;

// Rows of queries that one block of an attention kernel answers; the host cuts sequences into tiles of as many.
constexpr int TILE_ROWS = 64;

// Four neighbours, read or written at one go. Every width is a multiple of 4: the host refuses others.
template <class T>
struct alignas(4 * sizeof(T)) Four {
    T v[4];
};

template <class T>
__device__ inline void load4(const T* from, float (&out)[4]) {
    const Four<T> four = *reinterpret_cast<const Four<T>*>(from);
    for (int i = 0; i < 4; i++) out[i] = widen(four.v[i]);
}

template <class T>
__device__ inline void store4(const float (&values)[4], T* to) {
    Four<T> four;
    for (int i = 0; i < 4; i++) narrow(values[i], four.v[i]);
    *reinterpret_cast<Four<T>*>(to) = four;
}

// As `Four`, for widths that are a multiple of 8: 16 bytes of halves, the most that is read or written at one go.
template <class T>
struct alignas(16) Eight {
    T v[8];
};

template <class T>
__device__ inline void load8(const T* from, float (&out)[8]) {
    const Eight<T> eight = *reinterpret_cast<const Eight<T>*>(from);
    for (int i = 0; i < 8; i++) out[i] = widen(eight.v[i]);
}

template <class T>
__device__ inline void store8(const float (&values)[8], T* to) {
    Eight<T> eight;
    for (int i = 0; i < 8; i++) narrow(values[i], eight.v[i]);
    *reinterpret_cast<Eight<T>*>(to) = eight;
}

// The sum over a warp, in every lane, added in one order whatever the wave.
__device__ inline float warp_sum(float x) {
    for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(ALL, x, step);
    return x;
}

__device__ inline float warp_max(float x) {
    for (int step = WARP / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(ALL, x, step));
    return x;
}
