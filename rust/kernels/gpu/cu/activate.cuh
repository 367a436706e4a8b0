// What follows a product, elementwise: the bias and an activation, in f32, in place.
#pragma once

#include "lang.cuh"

// As `Activation` of kernels/math.rs has them; the host passes these numbers.
enum Function { IDENTITY = 0, GELU = 1, GELU_TANH = 2, RELU = 3, TANH = 4 };

// x (1 + erf(x / sqrt 2)) / 2. For f32 by the library's erf.
template <class T>
struct Gelu {
    __device__ static float of(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }
};

// For halves without a branch: max(x, 0) - |x| erfc(|x| / sqrt 2) / 2, where erfc(z) is, within 1.5e-7, a polynomial of
// 1 / (1 + 0.3275911 z) times exp(-z^2) (Abramowitz and Stegun, 7.1.26). erff would take as long as the memory does.
__device__ inline float fast_gelu(float x) {
    const float size = fabsf(x);
    const float t = fast_reciprocal(1.0f + 0.23164190f * size);
    const float series = ((((0.5307027145f * t - 0.7265760135f) * t + 0.7107068705f) * t - 0.142248368f) * t + 0.127414796f) * t;
    return fmaxf(x, 0.0f) - size * series * fast_exp2(-0.72134752044f * x * x);
}
template <>
struct Gelu<f16> {
    __device__ static float of(float x) { return fast_gelu(x); }
};
template <>
struct Gelu<bf16> {
    __device__ static float of(float x) { return fast_gelu(x); }
};

template <class T, int FUNCTION>
__device__ inline float activation(float x) {
    if (FUNCTION == GELU) return Gelu<T>::of(x);
    if (FUNCTION == GELU_TANH) return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    if (FUNCTION == RELU) return fmaxf(x, 0.0f);
    if (FUNCTION == TANH) return tanhf(x);
    return x;
}

// Rows that a thread does together, so that their reads are on the way together and the bias is read once.
constexpr int ACTIVATE_ROWS = 4;

// As `activate`, of eight neighbours in each of a thread's rows.
template <class T, int FUNCTION>
__device__ inline void activate8(T* x, const float* bias, int rows, int width) {
    const int first = blockIdx.y * ACTIVATE_ROWS, at = 8 * (blockIdx.x * blockDim.x + threadIdx.x);
    if (at >= width) return;
    float b[8];
    load8(bias + at, b);
    Eight<T> eights[ACTIVATE_ROWS] = {};
    for (int i = 0; i < ACTIVATE_ROWS; i++) {
        if (first + i < rows) eights[i] = *reinterpret_cast<const Eight<T>*>(x + size_t(first + i) * width + at);
    }
    for (int i = 0; i < ACTIVATE_ROWS; i++) {
        float values[8];
        for (int j = 0; j < 8; j++) values[j] = activation<T, FUNCTION>(widen(eights[i].v[j]) + b[j]);
        if (first + i < rows) store8(values, x + size_t(first + i) * width + at);
    }
}

// As `activate`, where eight don't divide the width.
template <class T, int FUNCTION>
__device__ inline void activate4(T* x, const float* bias, int rows, int width) {
    const int first = blockIdx.y * ACTIVATE_ROWS;
    for (int at = 4 * (blockIdx.x * blockDim.x + threadIdx.x); at < width; at += 4 * int(blockDim.x * gridDim.x)) {
        float b[4], values[4];
        load4(bias + at, b);
        for (int row = first; row < first + ACTIVATE_ROWS && row < rows; row++) {
            load4(x + size_t(row) * width + at, values);
            for (int j = 0; j < 4; j++) values[j] = activation<T, FUNCTION>(values[j] + b[j]);
            store4(values, x + size_t(row) * width + at);
        }
    }
}

template <class T, int FUNCTION>
__device__ inline void activate_by(T* x, const float* bias, int rows, int width) {
    if (width % 8 == 0) {
        activate8<T, FUNCTION>(x, bias, rows, width);
    } else {
        activate4<T, FUNCTION>(x, bias, rows, width);
    }
}

// x [rows, width] = function(x + bias).
template <class T>
__device__ inline void activate(T* x, const float* bias, int function, int rows, int width) {
    switch (function) {
        case GELU:
            return activate_by<T, GELU>(x, bias, rows, width);
        case GELU_TANH:
            return activate_by<T, GELU_TANH>(x, bias, rows, width);
        case RELU:
            return activate_by<T, RELU>(x, bias, rows, width);
        case TANH:
            return activate_by<T, TANH>(x, bias, rows, width);
        default:
            return activate_by<T, IDENTITY>(x, bias, rows, width);
    }
}
