// Attention of packed sequences for any head of up to HEAD elements, without tensor cores: f32, and small models' heads.
// One warp answers one query at a time: a lane has a key while scores are made, and an element of the result while values
// are summed. The softmax is online, in f32.
#pragma once

#include "lang.cuh"

constexpr int HEAD = 128;
constexpr int PER_LANE = HEAD / WARP;

// What one query has got of some keys and values: a lane has elements l, l + 32, ... of the sum of values, each weighed by
// exp(score - most), and the sum of those weights.
struct Attended {
    float most, total, sum[PER_LANE];
};

// What one query (in shared memory) gets of keys and values, rows `stride` apart: of WARP of them from `from` on, and then
// every `step`, up to `length`.
template <class T>
__device__ inline Attended attend(const float* query, const T* keys, const T* values, size_t stride, int from, int step,
                                  int length, int head_dim) {
    const int lane = threadIdx.x % WARP;
    Attended got = {-INFINITY, 0, {}};
    for (int first = from; first < length; first += step) {
        const int key = first + lane;
        float score = -INFINITY;
        if (key < length) {
            score = 0;
            const T* row = keys + size_t(key) * stride;
            for (int i = 0; i < head_dim; i += 4) {
                float k[4];
                load4(row + i, k);
                for (int j = 0; j < 4; j++) score += query[i + j] * k[j];
            }
        }
        const float higher = fmaxf(got.most, warp_max(score));
        const float shrink = expf(got.most - higher);
        const float weight = expf(score - higher);
        got.most = higher;
        got.total = got.total * shrink + warp_sum(weight);
        for (int j = 0; j < PER_LANE; j++) got.sum[j] *= shrink;
        const int there = length - first < WARP ? length - first : WARP;
        for (int other = 0; other < there; other++) {
            const float p = __shfl_sync(ALL, weight, other);
            const T* row = values + size_t(first + other) * stride;
            for (int j = 0; j < PER_LANE; j++) {
                const int element = lane + j * WARP;
                if (element < head_dim) got.sum[j] += p * widen(row[element]);
            }
        }
    }
    return got;
}

// out [tokens, heads, head_dim] from qkv [tokens, 3, heads, head_dim], to which no bias has been added yet: that of the
// queries is added here; the keys' adds the same to all scores of a query, and drops out; the values' can be added to the
// result, for the weights sum to 1. tiles [gridDim.x, 3]: where a sequence starts, its length, and the tile's first row in it.
template <class T>
__device__ inline void attention(const T* qkv, const float* bias, const uint32_t* tiles, int heads, int head_dim, T* out) {
    __shared__ float queries[4][HEAD];
    const uint32_t* tile = tiles + 3 * blockIdx.x;
    const int length = tile[1], first = tile[2];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int width = heads * head_dim, at = blockIdx.y * head_dim;
    const size_t stride = 3 * size_t(width);
    const T* sequence = qkv + tile[0] * stride + at;
    for (int row = first + warp; row < length && row < first + TILE_ROWS; row += blockDim.x / WARP) {
        for (int i = lane; i < head_dim; i += WARP) queries[warp][i] = widen(sequence[row * stride + i]) + bias[at + i];
        __syncwarp();
        const Attended got =
            attend(queries[warp], sequence + width, sequence + 2 * width, stride, 0, WARP, length, head_dim);
        for (int j = 0; j < PER_LANE; j++) {
            const int i = lane + j * WARP;
            if (i < head_dim) {
                narrow(got.sum[j] / got.total + bias[2 * width + at + i], out[(size_t(tile[0]) + row) * width + at + i]);
            }
        }
        __syncwarp();
    }
}

// The last layer's, of each sequence's first row alone: out [sequences, heads, head_dim] from q of the same shape, with its
// bias, and kv [tokens, 2, heads, head_dim] without. starts [sequences + 1]. A block for a sequence (x) and a head (y), whose
// warps share the keys. A sequence of no tokens gets nothing.
template <class T>
__device__ inline void cls_attention(const T* q, const T* kv, const float* value_bias, const uint32_t* starts, int heads,
                                     int head_dim, T* out) {
    constexpr int WARPS = 4;
    __shared__ float query[HEAD], sums[WARPS][HEAD], most[WARPS], total[WARPS];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int sequence = blockIdx.x, width = heads * head_dim, at = blockIdx.y * head_dim;
    const size_t stride = 2 * size_t(width), row = size_t(sequence) * width;
    const int length = starts[sequence + 1] - starts[sequence];
    if (length == 0) return;
    for (int i = threadIdx.x; i < head_dim; i += blockDim.x) query[i] = widen(q[row + at + i]);
    __syncthreads();
    const T* keys = kv + starts[sequence] * stride + at;
    const Attended got = attend(query, keys, keys + width, stride, WARP * warp, WARP * WARPS, length, head_dim);
    for (int j = 0; j < PER_LANE; j++) sums[warp][lane + j * WARP] = got.sum[j];
    if (lane == 0) {
        most[warp] = got.most;
        total[warp] = got.total;
    }
    __syncthreads();
    // The first warp has the first key, so that `highest` is a number. One without keys weighs nothing.
    float highest = most[0];
    for (int w = 1; w < WARPS; w++) highest = fmaxf(highest, most[w]);
    for (int i = threadIdx.x; i < head_dim; i += blockDim.x) {
        float sum = 0, weights = 0;
        for (int w = 0; w < WARPS; w++) {
            const float scale = expf(most[w] - highest);
            sum += scale * sums[w][i];
            weights += scale * total[w];
        }
        narrow(sum / weights + value_bias[at + i], out[row + at + i]);
    }
}
