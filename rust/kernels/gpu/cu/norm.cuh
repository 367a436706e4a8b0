// Rows and LayerNorm: one warp a row, statistics in f32, two-pass (a sum of squares loses digits where the mean is large).
#pragma once

#include "lang.cuh"

// Eights of a lane that `normalize8` keeps in registers: rows of up to 1024.
constexpr int EIGHTS = 4;

// out[i] = (x[i] - mean) / sqrt(variance + eps) * gamma[i] + beta[i], where x[i] is read(i, eight values), for a width that is
// a multiple of 8 and at most 8 * WARP * EIGHTS. A row is read once.
// out may be what `read` reads: a lane writes only what it alone has read.
template <class O, class Read>
__device__ inline void normalize8(Read read, const float* gamma, const float* beta, float eps, int width, O* out) {
    const int lane = threadIdx.x % WARP;
    float x[EIGHTS][8] = {};
    float sum = 0;
    for (int e = 0; e < EIGHTS; e++) {
        const int i = 8 * (lane + WARP * e);
        if (i < width) read(i, x[e]);
        for (int j = 0; j < 8; j++) sum += x[e][j];
    }
    const float mean = warp_sum(sum) / width;
    float squares = 0;
    for (int e = 0; e < EIGHTS; e++) {
        if (8 * (lane + WARP * e) >= width) break;
        for (int j = 0; j < 8; j++) squares += (x[e][j] - mean) * (x[e][j] - mean);
    }
    const float scale = 1.0f / sqrtf(warp_sum(squares) / width + eps);
    for (int e = 0; e < EIGHTS; e++) {
        const int i = 8 * (lane + WARP * e);
        if (i >= width) break;
        float g[8], b[8];
        load8(gamma + i, g);
        load8(beta + i, b);
        for (int j = 0; j < 8; j++) x[e][j] = (x[e][j] - mean) * scale * g[j] + b[j];
        store8(x[e], out + i);
    }
}

// The same for any width, from read(i, four values): a row is read three times, of which twice from the cache.
template <class O, class Read>
__device__ inline void normalize4(Read read, const float* gamma, const float* beta, float eps, int width, O* out) {
    const int lane = threadIdx.x % WARP;
    float x[4];
    float sum = 0;
    for (int i = 4 * lane; i < width; i += 4 * WARP) {
        read(i, x);
        sum += (x[0] + x[1]) + (x[2] + x[3]);
    }
    const float mean = warp_sum(sum) / width;
    float squares = 0;
    for (int i = 4 * lane; i < width; i += 4 * WARP) {
        read(i, x);
        for (int j = 0; j < 4; j++) squares += (x[j] - mean) * (x[j] - mean);
    }
    const float scale = 1.0f / sqrtf(warp_sum(squares) / width + eps);
    for (int i = 4 * lane; i < width; i += 4 * WARP) {
        float g[4], b[4];
        read(i, x);
        load4(gamma + i, g);
        load4(beta + i, b);
        for (int j = 0; j < 4; j++) x[j] = (x[j] - mean) * scale * g[j] + b[j];
        store4(x, out + i);
    }
}

// out [rows, width] = LayerNorm(x + bias + residual): what ends both halves of a layer. out may be x.
template <class T, class O>
__device__ inline void add_norm(const T* x, const float* bias, const T* residual, const float* gamma, const float* beta,
                                float eps, int rows, int width, O* out) {
    const int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (row >= rows) return;
    const size_t at = size_t(row) * width;
    if (width % 8 == 0 && width <= 8 * WARP * EIGHTS) {
        const auto read = [&](int i, float(&sum)[8]) {
            float b[8], r[8];
            load8(x + at + i, sum);
            load8(bias + i, b);
            load8(residual + at + i, r);
            for (int j = 0; j < 8; j++) sum[j] += b[j] + r[j];
        };
        return normalize8(read, gamma, beta, eps, width, out + at);
    }
    const auto read = [&](int i, float(&sum)[4]) {
        float b[4], r[4];
        load4(x + at + i, sum);
        load4(bias + i, b);
        load4(residual + at + i, r);
        for (int j = 0; j < 4; j++) sum[j] += b[j] + r[j];
    };
    normalize4(read, gamma, beta, eps, width, out + at);
}

// out [rows, width] = LayerNorm(words[ids] + positions[places] + types[kinds]); types is null where there are none.
template <class T>
__device__ inline void embed(const T* words, const T* positions, const T* types, const uint32_t* ids,
                             const uint32_t* places, const uint32_t* kinds, const float* gamma, const float* beta,
                             float eps, int rows, int width, T* out) {
    const int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (row >= rows) return;
    const T* word = words + size_t(ids[row]) * width;
    const T* position = positions + size_t(places[row]) * width;
    const T* type = types == nullptr ? nullptr : types + size_t(kinds[row]) * width;
    const auto read = [&](int i, float(&sum)[4]) {
        float more[4];
        load4(word + i, sum);
        load4(position + i, more);
        for (int j = 0; j < 4; j++) sum[j] += more[j];
        if (type == nullptr) return;
        load4(type + i, more);
        for (int j = 0; j < 4; j++) sum[j] += more[j];
    };
    normalize4(read, gamma, beta, eps, width, out + size_t(row) * width);
}

// out [sequences, width]: the first row of each sequence of x [tokens, width]; zeros for one that has none.
template <class T>
__device__ inline void gather(const T* x, const uint32_t* starts, int sequences, int width, T* out) {
    const int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (row >= sequences) return;
    const T* from = x + size_t(starts[row]) * width;
    const bool there = starts[row] < starts[row + 1];
    for (int i = 4 * (threadIdx.x % WARP); i < width; i += 4 * WARP) {
        float values[4] = {};
        if (there) load4(from + i, values);
        store4(values, out + size_t(row) * width + i);
    }
}
