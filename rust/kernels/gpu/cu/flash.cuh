// Attention of packed sequences on tensor cores, for heads of D = 32 or 64 elements in f16 or bf16. One pass over the keys
// with an online softmax in f32 (Dao 2023, FlashAttention-2): a block has 64 queries, 16 a warp; scores, weights and results
// stay in registers, where the layout of a product's result is that of the next one's left operand.
#pragma once

#include "mma.cuh"

constexpr int KEYS = 64;  // keys and values in shared memory at a time
constexpr int PAD = 8;    // elements at a row's end: rows 4 banks apart, so that a warp's reads meet no bank twice

// A warp's running softmax of 16 rows: a lane has parts of rows g and g + 8.
struct Softmax {
    float most[2], total[2];
};

// scores [16, KEYS] of a warp become exp(scores - most), and what they shrink earlier results by is returned.
__device__ inline void soften(float (&scores)[KEYS / 8][4], Softmax& state, float (&shrink)[2]) {
    constexpr float LOG2_E = 1.44269504088896341f;
    for (int half = 0; half < 2; half++) {
        float most = state.most[half];
        for (int n = 0; n < KEYS / 8; n++) most = fmaxf(most, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
        // The four lanes of a row are neighbours.
        most = fmaxf(most, __shfl_xor_sync(ALL, most, 1));
        most = fmaxf(most, __shfl_xor_sync(ALL, most, 2));
        shrink[half] = exp2f((state.most[half] - most) * LOG2_E);
        state.most[half] = most;
        float sum = 0;
        for (int n = 0; n < KEYS / 8; n++) {
            for (int i = 2 * half; i < 2 * half + 2; i++) {
                scores[n][i] = exp2f((scores[n][i] - most) * LOG2_E);
                sum += scores[n][i];
            }
        }
        state.total[half] = state.total[half] * shrink[half] + sum;
    }
}

// Rows `from` to `from + KEYS` of a sequence's keys, and of its values by columns; zeros past its end.
template <class T, int D>
__device__ inline void fetch(const T* keys, size_t stride, int width, int from, int length, T (&k)[KEYS][D + PAD],
                             T (&v)[D][KEYS + PAD]) {
    struct alignas(16) Eight {
        T v[8];
    };
    for (int part = threadIdx.x; part < KEYS * D / 8; part += blockDim.x) {
        // Neighbouring lanes have neighbouring keys: their values are next to each other where they are written.
        const int key = part % KEYS, i = part / KEYS * 8;
        Eight eight[2];
        if (from + key < length) {
            const T* row = keys + size_t(from + key) * stride + i;
            eight[0] = *reinterpret_cast<const Eight*>(row);
            eight[1] = *reinterpret_cast<const Eight*>(row + width);
        } else {
            for (int j = 0; j < 8; j++) {
                narrow(0.0f, eight[0].v[j]);
                narrow(0.0f, eight[1].v[j]);
            }
        }
        *reinterpret_cast<Eight*>(&k[key][i]) = eight[0];
        for (int j = 0; j < 8; j++) v[i + j][key] = eight[1].v[j];
    }
}

// The queries of a warp, with their bias, as left operands; zeros past the sequence's end.
template <class T, int D>
__device__ inline void load_queries(const T* sequence, size_t stride, const float* bias, int row, int length,
                                    uint32_t (&q)[D / 16][4]) {
    const int t = threadIdx.x % 4;
    for (int kk = 0; kk < D / 16; kk++) {
        for (int part = 0; part < 4; part++) {
            const int r = row + 8 * (part % 2), i = 16 * kk + 2 * t + 8 * (part / 2);
            const T* at = sequence + size_t(r) * stride + i;
            q[kk][part] = r < length ? pair<T>(widen(at[0]) + bias[i], widen(at[1]) + bias[i + 1]) : 0;
        }
    }
}

// As `attention` (attention.cuh), biases included.
template <class T, int D>
__device__ inline void flash(const T* qkv, const float* bias, const uint32_t* tiles, int heads, T* out) {
    alignas(16) __shared__ T k[KEYS][D + PAD];
    alignas(16) __shared__ T v[D][KEYS + PAD];
    const uint32_t* tile = tiles + 3 * blockIdx.x;
    const int length = tile[1];
    const int lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    const int width = heads * D, at = blockIdx.y * D;
    const size_t stride = 3 * size_t(width);
    const T* sequence = qkv + tile[0] * stride + at;
    const int row = tile[2] + threadIdx.x / WARP * 16 + g;
    uint32_t q[D / 16][4];
    load_queries<T, D>(sequence, stride, bias + at, row, length, q);
    float results[D / 8][4] = {};
    Softmax state = {{-INFINITY, -INFINITY}, {0, 0}};
    for (int from = 0; from < length; from += KEYS) {
        __syncthreads();
        fetch<T, D>(sequence + width, stride, width, from, length, k, v);
        __syncthreads();
        float scores[KEYS / 8][4] = {};
        for (int n = 0; n < KEYS / 8; n++) {
            for (int kk = 0; kk < D / 16; kk++) {
                const T* b = &k[8 * n + g][16 * kk + 2 * t];
                mma(scores[n], q[kk], pair_at(b), pair_at(b + 8), T());
            }
            for (int i = 0; i < 4; i++) {
                if (from + 8 * n + 2 * t + i % 2 >= length) scores[n][i] = -INFINITY;
            }
        }
        float shrink[2];
        soften(scores, state, shrink);
        for (int n = 0; n < D / 8; n++) {
            for (int i = 0; i < 4; i++) results[n][i] *= shrink[i / 2];
        }
        for (int kk = 0; kk < KEYS / 16; kk++) {
            const float(&left)[4] = scores[2 * kk], (&right)[4] = scores[2 * kk + 1];
            const uint32_t p[4] = {pair<T>(left[0], left[1]), pair<T>(left[2], left[3]), pair<T>(right[0], right[1]),
                                   pair<T>(right[2], right[3])};
            for (int n = 0; n < D / 8; n++) {
                const T* b = &v[8 * n + g][16 * kk + 2 * t];
                mma(results[n], p, pair_at(b), pair_at(b + 8), T());
            }
        }
    }
    for (int half = 0; half < 2; half++) {
        float total = state.total[half];
        total += __shfl_xor_sync(ALL, total, 1);
        total += __shfl_xor_sync(ALL, total, 2);
        const int r = row + 8 * half;
        if (r >= length) continue;
        T* to = out + (size_t(tile[0]) + r) * width + at;
        for (int n = 0; n < D / 8; n++) {
            const int i = 8 * n + 2 * t;
            const float* b = bias + 2 * width + at + i;
            const float first = results[n][2 * half] / total + b[0], second = results[n][2 * half + 1] / total + b[1];
            *reinterpret_cast<uint32_t*>(to + i) = pair<T>(first, second);
        }
    }
}
