// The element-wise part of a decoder block, one pass over memory per function. reference.py says what each computes.
//
// Plain loops over rows, written so that the compiler vectorises the inner one; arithmetic is float32 whatever the
// storage. Rows are shared out to threads in fixed parts and no row is touched by two, so results do not depend on
// timing. Compiled once per machine by native.py.

#include "attention.h"
#include "blocks.h"

#define EXPORT(T, S)                                                                                                   \
    extern "C" void norm_##S(const T* x, const float* w, const T* add, T* out, long rows, long width, float eps) {     \
        norm(x, w, add, out, rows, width, eps);                                                                        \
    }                                                                                                                  \
    extern "C" void norm_backward_##S(const T* g, const T* x, const float* w, const T* add, T* dx, T* again,           \
                                      long rows, long width, float eps) {                                              \
        norm_backward(g, x, w, add, dx, again, rows, width, eps);                                                      \
    }                                                                                                                  \
    extern "C" void gate_##S(const T* both, T* out, long rows, long width, int gelu) {                                 \
        gelu ? gate<T, true>(both, out, rows, width) : gate<T, false>(both, out, rows, width);                         \
    }                                                                                                                  \
    extern "C" void gate_backward_##S(T* both, const T* g, T* again, long rows, long width, int gelu) {                \
        gelu ? gate_backward<T, true>(both, g, again, rows, width)                                                     \
             : gate_backward<T, false>(both, g, again, rows, width);                                                   \
    }                                                                                                                  \
    extern "C" void split_##S(const T* qkv, const float* c, const float* s, const float* qw, const float* kw,          \
                              const int64_t* tokens, T* q, T* k, T* v, long rows, long length, long prefix,            \
                              long heads, long groups, long width, long turned, float eps) {                           \
        split(qkv, c, s, qw, kw, q, k, v, Places{tokens, rows, length, prefix},                                        \
              Heads{heads, groups, width, turned, eps});                                                               \
    }                                                                                                                  \
    extern "C" void split_backward_##S(const T* dq, const T* dk, const T* dv, const T* qkv, const float* c,            \
                                       const float* s, const float* qw, const float* kw, const int64_t* tokens,        \
                                       T* dqkv, long rows, long length, long prefix, long heads, long groups,          \
                                       long width, long turned, float eps) {                                           \
        split_backward(dq, dk, dv, qkv, c, s, qw, kw, dqkv, Places{tokens, rows, length, prefix},                      \
                       Heads{heads, groups, width, turned, eps});                                                      \
    }                                                                                                                  \
    extern "C" void gather_##S(T* flat, T* padded, const int64_t* tokens, long rows, long length, long prefix,         \
                               long heads, long groups, long width, int back) {                                        \
        gather(flat, padded, Places{tokens, rows, length, prefix}, Heads{heads, groups, width, 0, 0.0f}, back);        \
    }                                                                                                                  \
    extern "C" void softmax_##S(T* scores, T* slopes, long batches, long shared, long queries, long keys,              \
                                long first_query, long first_key, long window, float scale, float cap) {               \
        softmax(scores, slopes, Mask{batches, shared, queries, keys, first_query, first_key, window}, scale, cap);     \
    }                                                                                                                  \
    extern "C" void softmax_backward_##S(const T* weights, T* g, const T* slopes, long batches, long shared,           \
                                         long queries, long keys, long first_query, long first_key, long window,       \
                                         float scale) {                                                                \
        softmax_backward(weights, g, slopes,                                                                           \
                         Mask{batches, shared, queries, keys, first_query, first_key, window}, scale);                 \
    }                                                                                                                  \
    extern "C" void cross_entropy_##S(T* logits, const int64_t* targets, float* losses, long rows, long width,         \
                                      float factor, float cap, int with_slope) {                                       \
        cap > 0.0f ? cross_entropy<T, true>(logits, targets, losses, rows, width, factor, cap, with_slope)             \
                   : cross_entropy<T, false>(logits, targets, losses, rows, width, factor, cap, with_slope);           \
    }

EXPORT(float, float32)
EXPORT(bf16, bfloat16)
