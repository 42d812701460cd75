// Norm, gate and cross-entropy: one row at a time.
#pragma once

#include "numbers.h"

namespace {

template <class T>
inline float root_mean_square(const T* x, long width, float eps) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (long i = 0; i < width; i++) sum += up(x[i]) * up(x[i]);
    return 1.0f / std::sqrt(sum / width + eps);
}

template <class T>
void norm(const T* x, const float* weight, const T* add, T* out, long rows, long width, float eps) {
#pragma omp parallel for schedule(static)
    for (long row = 0; row < rows; row++) {
        const T* a = x + row * width;
        T* o = out + row * width;
        const float r = root_mean_square(a, width, eps);
        if (add) {
            const T* b = add + row * width;
#pragma omp simd
            for (long i = 0; i < width; i++) put(&o[i], up(b[i]) + up(a[i]) * r * weight[i]);
        } else {
#pragma omp simd
            for (long i = 0; i < width; i++) put(&o[i], up(a[i]) * r * weight[i]);
        }
    }
}

template <class T>
inline void norm_slope(const T* g, const T* x, const float* weight, const T* add, T* dx, T* again, long width, float eps) {
    const float r = root_mean_square(x, width, eps);
    float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
    for (long i = 0; i < width; i++) dot += up(g[i]) * weight[i] * up(x[i]);
    const float share = dot * r * r / width;
    if (again) {
#pragma omp simd
        for (long i = 0; i < width; i++) put(&again[i], up(x[i]) * r * weight[i]);
    }
    if (add) {
#pragma omp simd
        for (long i = 0; i < width; i++) put(&dx[i], up(add[i]) + r * (up(g[i]) * weight[i] - up(x[i]) * share));
    } else {
#pragma omp simd
        for (long i = 0; i < width; i++) put(&dx[i], r * (up(g[i]) * weight[i] - up(x[i]) * share));
    }
}

template <class T>
void norm_backward(const T* g, const T* x, const float* weight, const T* add, T* dx, T* again, long rows, long width,
                   float eps) {
#pragma omp parallel for schedule(static)
    for (long row = 0; row < rows; row++) {
        const long at = row * width;
        norm_slope(g + at, x + at, weight, add ? add + at : nullptr, dx + at, again ? again + at : nullptr, width, eps);
    }
}

template <class T, bool Gelu>
void gate(const T* both, T* out, long rows, long width) {
#pragma omp parallel for schedule(static)
    for (long row = 0; row < rows; row++) {
        const T* a = both + row * 2 * width;
        T* o = out + row * width;
#pragma omp simd
        for (long i = 0; i < width; i++) put(&o[i], activate<Gelu>(up(a[i])).value * up(a[width + i]));
    }
}

template <class T, bool Gelu>
void gate_backward(T* both, const T* g, T* again, long rows, long width) {
#pragma omp parallel for schedule(static)
    for (long row = 0; row < rows; row++) {
        T* a = both + row * 2 * width;
        const T* d = g + row * width;
        T* o = again + row * width;
#pragma omp simd
        for (long i = 0; i < width; i++) {
            const float u = up(a[width + i]), e = up(d[i]);
            const Bent h = activate<Gelu>(up(a[i]));
            put(&o[i], h.value * u);
            put(&a[i], e * u * h.slope);
            put(&a[width + i], e * h.value);
        }
    }
}

template <class T, bool Capped>
void cross_entropy(T* logits, const int64_t* targets, float* losses, long rows, long width, float factor, float cap,
                   bool with_slope) {
#pragma omp parallel for schedule(static)
    for (long row = 0; row < rows; row++) {
        T* l = logits + row * width;
        const long target = targets[row];
        auto value = [&](long i) { return Capped ? cap * fast_tanh(up(l[i]) * factor / cap) : up(l[i]) * factor; };
        auto bend = [&](float x) { return Capped ? (1.0f - (x / cap) * (x / cap)) * factor : factor; };
        float largest = -INFINITY;
#pragma omp simd reduction(max : largest)
        for (long i = 0; i < width; i++) {
            const float x = value(i);
            largest = x > largest ? x : largest;
        }
        // Sums of blocks: a single float32 sum over a whole vocabulary would lose digits.
        double sum = 0.0;
        for (long start = 0; start < width; start += 4096) {
            const long end = start + 4096 < width ? start + 4096 : width;
            float part = 0.0f;
#pragma omp simd reduction(+ : part)
            for (long i = start; i < end; i++) part += fast_exp(value(i) - largest);
            sum += part;
        }
        const float chosen = value(target);
        // Distances to the largest logit, never to a rounded log-sum-exp: where logits are large and the loss is small,
        // a difference of two large numbers has no digits left.
        losses[row] = static_cast<float>(std::log(sum) + (static_cast<double>(largest) - chosen));
        if (!with_slope) continue;
        const float share = static_cast<float>(1.0 / sum);
#pragma omp simd
        for (long i = 0; i < width; i++) {
            const float x = value(i);
            put(&l[i], fast_exp(x - largest) * share * bend(x));
        }
        put(&l[target], (fast_exp(chosen - largest) * share - 1.0f) * bend(chosen));
    }
}

}  // namespace
