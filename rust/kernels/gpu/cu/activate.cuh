// What follows a product, elementwise: the bias and an activation, in f32, in place.
#pragma once

#include "lang.cuh"

// As `Activation` of kernels/math.rs has them; the host passes these numbers.
enum Function { IDENTITY = 0, GELU = 1, GELU_TANH = 2, RELU = 3, TANH = 4 };

__device__ inline float activation(float x, int function) {
    switch (function) {
        case GELU:
            return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
        case GELU_TANH:
            return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
        case RELU:
            return fmaxf(x, 0.0f);
        case TANH:
            return tanhf(x);
        default:
            return x;
    }
}

// x [rows, width] = function(x + bias); a thread does four neighbours.
template <class T>
__device__ inline void activate(T* x, const float* bias, int function, int rows, int width) {
    const size_t four = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const size_t quarter = width / 4;
    if (four >= size_t(rows) * quarter) return;
    float values[4], b[4];
    load4(x + 4 * four, values);
    load4(bias + 4 * (four % quarter), b);
    for (int j = 0; j < 4; j++) values[j] = activation(values[j] + b[j], function);
    store4(values, x + 4 * four);
}
