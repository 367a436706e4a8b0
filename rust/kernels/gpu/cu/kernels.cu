// The kernels by name, one for each precision: `embed_f16`. All in one module, so that loading is one call.

#include "activate.cuh"
#include "attention.cuh"
#include "flash.cuh"
#include "norm.cuh"

#ifdef __CUDACC__
#define KERNEL(NAME, THREADS, PARAMETERS, CALL) \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME PARAMETERS { CALL; }
#else
#define KERNEL(NAME, THREADS, PARAMETERS, CALL) \
    static void NAME PARAMETERS { CALL; }       \
    static const twin::Kernel twin_##NAME(#NAME, THREADS, &NAME);
#endif

// T: the precision of hidden rows; every bias, and what LayerNorm multiplies and adds, is f32.
#define KERNELS(T)                                                                                                     \
    KERNEL(embed_##T, 128,                                                                                             \
           (const T* words, const T* positions, const T* types, const uint32_t* ids, const uint32_t* places,          \
            const uint32_t* kinds, const float* gamma, const float* beta, float eps, int rows, int width, T* out),     \
           embed(words, positions, types, ids, places, kinds, gamma, beta, eps, rows, width, out))                     \
    KERNEL(add_norm_##T, 128,                                                                                          \
           (const T* x, const float* bias, const T* residual, const float* gamma, const float* beta, float eps,        \
            int rows, int width, T* out),                                                                              \
           add_norm(x, bias, residual, gamma, beta, eps, rows, width, out))                                            \
    KERNEL(add_norm_wide_##T, 128,                                                                                     \
           (const T* x, const float* bias, const T* residual, const float* gamma, const float* beta, float eps,        \
            int rows, int width, float* out),                                                                          \
           add_norm(x, bias, residual, gamma, beta, eps, rows, width, out))                                            \
    KERNEL(gather_##T, 128, (const T* x, const uint32_t* starts, int sequences, int width, T* out),                    \
           gather(x, starts, sequences, width, out))                                                                   \
    KERNEL(activate_##T, 128, (T * x, const float* bias, int function, int rows, int width),                           \
           activate(x, bias, function, rows, width))                                                                   \
    KERNEL(attention_##T, 128,                                                                                         \
           (const T* qkv, const float* bias, const uint32_t* tiles, int heads, int head_dim, T* out),                  \
           attention(qkv, bias, tiles, heads, head_dim, out))                                                          \
    KERNEL(cls_attention_##T, 128,                                                                                     \
           (const T* q, const T* kv, const float* value_bias, const uint32_t* starts, int heads, int head_dim,         \
            T* out),                                                                                                   \
           cls_attention(q, kv, value_bias, starts, heads, head_dim, out))

#define FLASH(T, D)                                                                                     \
    KERNEL(flash_##D##_##T, 128,                                                                        \
           (const T* qkv, const float* bias, const uint32_t* tiles, int heads, int head_dim, T* out),   \
           (static_cast<void>(head_dim), flash<T, D>(qkv, bias, tiles, heads, out)))

using f32 = float;
KERNELS(f32)
KERNELS(f16)
KERNELS(bf16)
FLASH(f16, 32)
FLASH(f16, 64)
FLASH(bf16, 32)
FLASH(bf16, 64)
