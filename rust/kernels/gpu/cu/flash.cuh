// Attention of packed sequences on tensor cores, for heads of D = 32 or 64 elements in f16 or bf16. One pass over the keys
// with an online softmax in f32 (Dao 2023, FlashAttention-2): a block has 64 queries, 16 a warp; scores, weights and results
// stay in registers, where the layout of a product's result is that of the next one's left operand. Keys and values are
// copied one step ahead of where they are used.
#pragma once

#include "mma.cuh"

constexpr int KEYS = 64;  // keys and values in shared memory at a time, twice
constexpr int PAD = 8;    // elements at a row's end: rows 4 banks apart, so that eight rows' reads meet no bank twice
constexpr float LOG2_E = 1.44269504088896341f;

// A warp's running softmax of 16 rows: a lane has parts of rows g and g + 8.
struct Softmax {
    float most[2], total[2];
};

// scores [16, there] of a warp, in units of log 2, become 2^(scores - most), and 0 from `there` on; what they shrink earlier
// results by is returned.
__device__ inline void soften(float (&scores)[KEYS / 8][4], int there, Softmax& state, float (&shrink)[2]) {
    for (int half = 0; half < 2; half++) {
        float most = state.most[half];
        for (int n = 0; n < KEYS / 8; n++) most = fmaxf(most, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
        // The four lanes of a row are neighbours.
        most = fmaxf(most, __shfl_xor_sync(ALL, most, 1));
        most = fmaxf(most, __shfl_xor_sync(ALL, most, 2));
        shrink[half] = fast_exp2(state.most[half] - most);
        state.most[half] = most;
        float sum = 0;
        for (int n = 0; n < KEYS / 8; n++) {
            for (int i = 2 * half; i < 2 * half + 2; i++) {
                scores[n][i] = 8 * n < there ? fast_exp2(scores[n][i] - most) : 0;
                sum += scores[n][i];
            }
        }
        state.total[half] = state.total[half] * shrink[half] + sum;
    }
}

// Begins to copy rows `from` to `from + KEYS` of a sequence's keys and values; zeros past its end.
template <class T, int D>
__device__ inline void fetch(const T* keys, size_t stride, int width, int from, int length, T (&k)[KEYS][D + PAD],
                             T (&v)[KEYS][D + PAD]) {
    for (int part = threadIdx.x; part < KEYS * D / 8; part += blockDim.x) {
        const int key = part / (D / 8), i = part % (D / 8) * 8;
        const bool there = from + key < length;
        const T* row = there ? keys + size_t(from + key) * stride + i : keys;
        copy16(&k[key][i], row, there);
        copy16(&v[key][i], row + width, there);
    }
}

// Begins to copy a block's queries; zeros past the sequence's end.
template <class T, int D>
__device__ inline void fetch_queries(const T* sequence, size_t stride, int first, int length, T (&q)[TILE_ROWS][D + PAD]) {
    for (int part = threadIdx.x; part < TILE_ROWS * D / 8; part += blockDim.x) {
        const int row = part / (D / 8), i = part % (D / 8) * 8;
        const bool there = first + row < length;
        copy16(&q[row][i], there ? sequence + size_t(first + row) * stride + i : sequence, there);
    }
}

// A warp's 16 queries as left operands, with their bias and in units of log 2.
template <class T, int D>
__device__ inline void load_queries(const T (*rows)[D + PAD], const float* bias, uint32_t (&q)[D / 16][4]) {
    const int lane = threadIdx.x % WARP, t = lane % 4;
    for (int kk = 0; kk < D / 16; kk++) {
        uint32_t raw[4];
        load_matrices(raw, &rows[lane % 16][16 * kk + lane / 16 * 8]);
        for (int part = 0; part < 4; part++) {
            const float* b = bias + 16 * kk + 2 * t + 8 * (part / 2);
            T halves[2];
            memcpy(halves, &raw[part], sizeof halves);
            q[kk][part] = pair<T>((widen(halves[0]) + b[0]) * LOG2_E, (widen(halves[1]) + b[1]) * LOG2_E);
        }
    }
}

// scores [16, KEYS] = q k^T, and minus infinity from `there` on.
template <class T, int D>
__device__ inline void score(const uint32_t (&q)[D / 16][4], const T (&k)[KEYS][D + PAD], int there,
                             float (&scores)[KEYS / 8][4]) {
    const int lane = threadIdx.x % WARP;
    for (int n = 0; n < KEYS / 8; n++) {
        for (int i = 0; i < 4; i++) scores[n][i] = 0;
        if (8 * n < there) {
            for (int kk = 0; kk < D / 16; kk += 2) {
                uint32_t b[4];
                load_matrices(b, &k[8 * n + lane % 8][16 * kk + lane / 8 * 8]);
                mma(scores[n], q[kk], b[0], b[1], T());
                mma(scores[n], q[kk + 1], b[2], b[3], T());
            }
        }
        for (int i = 0; i < 4; i++) {
            if (8 * n + lane % 4 * 2 + i % 2 >= there) scores[n][i] = -INFINITY;
        }
    }
}

// results [16, D] += weights [16, KEYS] v, of which `there` rows.
template <class T, int D>
__device__ inline void gather_values(const float (&weights)[KEYS / 8][4], const T (&v)[KEYS][D + PAD], int there,
                                     float (&results)[D / 8][4]) {
    const int lane = threadIdx.x % WARP;
    for (int kk = 0; kk < KEYS / 16; kk++) {
        if (16 * kk >= there) break;
        const float(&left)[4] = weights[2 * kk], (&right)[4] = weights[2 * kk + 1];
        const uint32_t p[4] = {pair<T>(left[0], left[1]), pair<T>(left[2], left[3]), pair<T>(right[0], right[1]),
                               pair<T>(right[2], right[3])};
        for (int n = 0; n < D / 8; n += 2) {
            uint32_t b[4];
            load_transposed(b, &v[16 * kk + lane % 16][8 * n + lane / 16 * 8]);
            mma(results[n], p, b[0], b[1], T());
            mma(results[n + 1], p, b[2], b[3], T());
        }
    }
}

// A warp's rows of out, divided by their weights' sum, with the values' bias: through shared memory (`rows`, the warp's own), so
// that 16 bytes are written at one go.
template <class T, int D>
__device__ inline void store_results(const float (&results)[D / 8][4], const Softmax& state, const float* bias,
                                     T (*rows)[D + PAD], T* out, size_t stride, int count) {
    const int lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    for (int half = 0; half < 2; half++) {
        float total = state.total[half];
        total += __shfl_xor_sync(ALL, total, 1);
        total += __shfl_xor_sync(ALL, total, 2);
        const float scale = 1.0f / total;
        for (int n = 0; n < D / 8; n++) {
            const int i = 8 * n + 2 * t;
            const uint32_t both = pair<T>(results[n][2 * half] * scale + bias[i], results[n][2 * half + 1] * scale + bias[i + 1]);
            *reinterpret_cast<uint32_t*>(&rows[g + 8 * half][i]) = both;
        }
    }
    __syncwarp();
    for (int part = lane; part < 16 * D / 8; part += WARP) {
        const int r = part / (D / 8), i = part % (D / 8) * 8;
        if (r < count) {
            *reinterpret_cast<Eight<T>*>(out + r * stride + i) = *reinterpret_cast<const Eight<T>*>(&rows[r][i]);
        }
    }
}

// As `attention` (attention.cuh), biases included.
template <class T, int D>
__device__ inline void flash(const T* qkv, const float* bias, const uint32_t* tiles, int heads, T* out) {
    alignas(16) __shared__ T k[2][KEYS][D + PAD];
    alignas(16) __shared__ T v[2][KEYS][D + PAD];
    alignas(16) __shared__ T rows[TILE_ROWS][D + PAD];  // the queries, and in the end the results
    const uint32_t* tile = tiles + 3 * blockIdx.x;
    const int length = tile[1];
    if (length == 0) return;
    const int warp = threadIdx.x / WARP, first = tile[2] + 16 * warp;  // the warp's first row
    const int width = heads * D, at = blockIdx.y * D;
    const size_t stride = 3 * size_t(width);
    const T* sequence = qkv + tile[0] * stride + at;
    fetch_queries<T, D>(sequence, stride, tile[2], length, rows);
    fetch<T, D>(sequence + width, stride, width, 0, length, k[0], v[0]);
    copies_end();
    uint32_t q[D / 16][4];
    float results[D / 8][4] = {};
    Softmax state = {{-INFINITY, -INFINITY}, {0, 0}};
    for (int from = 0, stage = 0; from < length; from += KEYS, stage ^= 1) {
        const int next = from + KEYS;
        if (next < length) fetch<T, D>(sequence + width, stride, width, next, length, k[stage ^ 1], v[stage ^ 1]);
        copies_end();
        copies_wait<1>();
        __syncthreads();
        // Of a short sequence not every warp has rows.
        if (first < length) {
            if (from == 0) load_queries<T, D>(&rows[16 * warp], bias + at, q);
            const int there = length - from < KEYS ? length - from : KEYS;
            float scores[KEYS / 8][4], shrink[2];
            score<T, D>(q, k[stage], there, scores);
            soften(scores, there, state, shrink);
            for (int n = 0; n < D / 8; n++) {
                for (int i = 0; i < 4; i++) results[n][i] *= shrink[i / 2];
            }
            gather_values<T, D>(scores, v[stage], there, results);
        }
        __syncthreads();
    }
    if (first >= length) return;
    const size_t row = size_t(tile[0]) + first;
    store_results<T, D>(results, state, bias + 2 * width + at, &rows[16 * warp], out + row * width + at, width, length - first);
}
