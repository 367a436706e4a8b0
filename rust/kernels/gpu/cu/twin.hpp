// The twin of a GPU: what lang.cuh's kernels ask of CUDA C++, on one core of any machine. The threads of a block are fibers,
// which run one after another up to where they wait for each other; blocks run one after another too. A test runs every
// kernel in several orders of its threads: where one forgets to wait, the results differ.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <array>
#include <functional>
#include <utility>

#define __device__
#define __shared__ static

namespace twin {

struct Index {
    unsigned x, y, z;
};

// A kernel by its name, as the driver's cuLaunchKernel finds and calls it: arguments by their addresses.
class Kernel {
public:
    template <class... A>
    Kernel(const char* name, unsigned threads, void (*run)(A...)) {
        enlist(name, threads, [run](void** arguments) { apply(run, arguments, std::index_sequence_for<A...>()); });
    }

private:
    template <class... A, size_t... I>
    static void apply(void (*run)(A...), void** arguments, std::index_sequence<I...>) {
        run(*static_cast<A*>(arguments[I])...);
    }
    static void enlist(const char* name, unsigned threads, std::function<void(void**)> run);
};

// Waits until all threads of the block are here, or all of the warp.
void wait_block();
void wait_warp();

// One word from every lane to every lane of the warp; all of them take part. Valid until the next exchange but one.
const std::array<uint64_t, 32>& exchange(uint64_t word);

// Copies that a thread has begun are made when it waits for them, and not before.
void copy16(void* to, const void* from, bool there);
void copies_end();
void copies_wait(unsigned left);

uint16_t to_f16(float x);
float of_f16(uint16_t bits);
uint16_t to_bf16(float x);

}  // namespace twin

extern twin::Index threadIdx, blockIdx, blockDim, gridDim;

struct f16 {
    uint16_t bits;
};
struct bf16 {
    uint16_t bits;
};

inline float widen(f16 x) { return twin::of_f16(x.bits); }
inline float widen(bf16 x) {
    const uint32_t bits = uint32_t(x.bits) << 16;
    float out;
    memcpy(&out, &bits, sizeof out);
    return out;
}
inline void narrow(float x, f16& out) { out.bits = twin::to_f16(x); }
inline void narrow(float x, bf16& out) { out.bits = twin::to_bf16(x); }

inline float fast_exp2(float x) { return exp2f(x); }
inline float fast_reciprocal(float x) { return 1.0f / x; }

inline void __syncthreads() { twin::wait_block(); }
inline void __syncwarp() { twin::wait_warp(); }

inline float __shfl_sync(unsigned, float x, int lane) {
    uint64_t word = 0;
    memcpy(&word, &x, sizeof x);
    word = twin::exchange(word)[lane];
    memcpy(&x, &word, sizeof x);
    return x;
}

inline float __shfl_xor_sync(unsigned mask, float x, int flip) {
    return __shfl_sync(mask, x, int(threadIdx.x % 32) ^ flip);
}

using twin::copies_end;
using twin::copy16;
template <int LEFT>
void copies_wait() {
    twin::copies_wait(LEFT);
}

inline void load_matrices(uint32_t (&out)[4], const void* row) {
    const std::array<uint64_t, 32> rows = twin::exchange(reinterpret_cast<uintptr_t>(row));
    const unsigned lane = threadIdx.x % 32;
    for (unsigned i = 0; i < 4; i++) {
        memcpy(&out[i], reinterpret_cast<const char*>(rows[8 * i + lane / 4]) + lane % 4 * 4, sizeof out[i]);
    }
}

inline void load_transposed(uint32_t (&out)[4], const void* row) {
    const std::array<uint64_t, 32> rows = twin::exchange(reinterpret_cast<uintptr_t>(row));
    const unsigned lane = threadIdx.x % 32;
    for (unsigned i = 0; i < 4; i++) {
        uint16_t halves[2];
        for (unsigned j = 0; j < 2; j++) {
            memcpy(&halves[j], reinterpret_cast<const char*>(rows[8 * i + lane % 4 * 2 + j]) + lane / 4 * 2, 2);
        }
        memcpy(&out[i], halves, sizeof halves);
    }
}

// mma.m16n8k16 by the manual's formulas, which mma.cuh tells: a lane finds each element by the lane that has it.
template <class T>
void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, T) {
    const auto half = [](uint64_t word, int which) {
        T one;
        one.bits = uint16_t(word >> (16 * which));
        return widen(one);
    };
    const std::array<uint64_t, 32> low = twin::exchange(uint64_t(a[0]) | uint64_t(a[1]) << 32);
    const std::array<uint64_t, 32> high = twin::exchange(uint64_t(a[2]) | uint64_t(a[3]) << 32);
    const std::array<uint64_t, 32> b = twin::exchange(uint64_t(b0) | uint64_t(b1) << 32);
    const int lane = int(threadIdx.x % 32);
    for (int i = 0; i < 4; i++) {
        const int row = lane / 4 + (i >= 2 ? 8 : 0), column = lane % 4 * 2 + i % 2;
        float sum = 0;
        for (int k = 0; k < 16; k++) {
            // Row `row` of A is with the group row % 8, column `column` of B with the group `column`; eight k in each half.
            const int of_a = row % 8 * 4 + k % 8 / 2, of_b = column * 4 + k % 8 / 2;
            const float left = half((k < 8 ? low : high)[of_a], row / 8 * 2 + k % 2);
            sum += left * half(b[of_b], k / 8 * 2 + k % 2);
        }
        d[i] += sum;
    }
}
