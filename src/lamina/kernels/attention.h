// Attention between its matrix products: heads cut, turned and laid side by side; softmax over what a query may see.
#pragma once

#include <vector>

#include "blocks.h"

namespace {

constexpr long widest = 1024;  // of a head; fused.py checks it

struct Heads {
    long heads, groups, width, turned;  // turned: how many of a head's numbers the rotary embedding turns
    float eps;
};

template <class T>
inline void turn(const T* from, T* to, const float* cosine, const float* sine, const float* weight, const Heads& h) {
    const long half = h.turned / 2;
    float head[widest];
    if (weight) {
        const float r = root_mean_square(from, h.width, h.eps);
#pragma omp simd
        for (long i = 0; i < h.width; i++) head[i] = up(from[i]) * r * weight[i];
    } else {
#pragma omp simd
        for (long i = 0; i < h.width; i++) head[i] = up(from[i]);
    }
#pragma omp simd
    for (long i = 0; i < half; i++) {
        put(&to[i], head[i] * cosine[i] - head[half + i] * sine[i]);
        put(&to[half + i], head[half + i] * cosine[half + i] + head[i] * sine[half + i]);
    }
    for (long i = h.turned; i < h.width; i++) put(&to[i], head[i]);
}

template <class T>
inline void turn_back(const T* g, const T* from, T* to, const float* cosine, const float* sine, const float* weight,
                      const Heads& h) {
    const long half = h.turned / 2;
#pragma omp simd
    for (long i = 0; i < half; i++) {
        const float a = up(g[i]), b = up(g[half + i]);
        put(&to[i], a * cosine[i] + b * sine[half + i]);
        put(&to[half + i], b * cosine[half + i] - a * sine[i]);
    }
    for (long i = h.turned; i < h.width; i++) put(&to[i], up(g[i]));
    if (weight) norm_slope<T>(to, from, weight, nullptr, to, nullptr, h.width, h.eps);
}

// Which token stands at each place of a row, -1 where there is none. The first `prefix` places hold tokens that all
// rows share: they are looked at and do not look, so queries and outputs have length - prefix places.
struct Places {
    const int64_t* tokens;
    long rows, length, prefix;

    long looking() const { return length - prefix; }
};

template <class T>
void split(const T* qkv, const float* cosine, const float* sine, const float* q_weight, const float* k_weight, T* q,
           T* k, T* v, Places p, Heads h) {
    const long shared = h.heads / h.groups, line = (h.heads + 2 * h.groups) * h.width;
#pragma omp parallel for collapse(2) schedule(static)
    for (long row = 0; row < p.rows; row++) {
        for (long place = 0; place < p.length; place++) {
            const int64_t token = p.tokens[row * p.length + place];
            const T* from = qkv + token * line;
            const float *c = cosine + token * h.turned, *s = sine + token * h.turned;
            for (long group = 0; group < h.groups; group++) {
                const long batch = row * h.groups + group, at = (batch * p.length + place) * h.width;
                for (long j = 0; j < shared && place >= p.prefix; j++) {
                    T* to = q + ((batch * shared + j) * p.looking() + place - p.prefix) * h.width;
                    if (token < 0) std::memset(to, 0, h.width * sizeof(T));
                    else turn(from + (group * shared + j) * h.width, to, c, s, q_weight, h);
                }
                if (token < 0) {
                    std::memset(k + at, 0, h.width * sizeof(T));
                    std::memset(v + at, 0, h.width * sizeof(T));
                } else {
                    turn(from + (h.heads + group) * h.width, k + at, c, s, k_weight, h);
                    std::memcpy(v + at, from + (h.heads + h.groups + group) * h.width, h.width * sizeof(T));
                }
            }
        }
    }
}

template <class T>
void split_backward(const T* dq, const T* dk, const T* dv, const T* qkv, const float* cosine, const float* sine,
                    const float* q_weight, const float* k_weight, T* dqkv, Places p, Heads h) {
    const long shared = h.heads / h.groups, line = (h.heads + 2 * h.groups) * h.width;
#pragma omp parallel for collapse(2) schedule(static)
    for (long row = 0; row < p.rows; row++) {
        for (long place = p.prefix; place < p.length; place++) {
            const int64_t token = p.tokens[row * p.length + place];
            if (token < 0) continue;
            const T* from = qkv + token * line;
            T* to = dqkv + token * line;
            const float *c = cosine + token * h.turned, *s = sine + token * h.turned;
            for (long group = 0; group < h.groups; group++) {
                const long batch = row * h.groups + group, at = (batch * p.length + place) * h.width;
                for (long j = 0; j < shared; j++) {
                    const long head = (group * shared + j) * h.width;
                    turn_back(dq + ((batch * shared + j) * p.looking() + place - p.prefix) * h.width, from + head,
                              to + head, c, s, q_weight, h);
                }
                const long key = (h.heads + group) * h.width;
                turn_back(dk + at, from + key, to + key, c, s, k_weight, h);
                std::memcpy(to + key + h.groups * h.width, dv + at, h.width * sizeof(T));
            }
        }
    }
    // A shared token hears from every row; the rows are summed by one thread, in their order.
#pragma omp parallel for schedule(static)
    for (long place = 0; place < p.prefix; place++) {
        const int64_t token = p.tokens[place];
        for (long group = 0; group < h.groups; group++) {
            T summed[widest], turned[widest];
            for (long part = 0; part < 2; part++) {
                const T* d = part ? dv : dk;
                const long key = (h.heads + part * h.groups + group) * h.width;
                for (long i = 0; i < h.width; i++) {
                    float sum = 0.0f;
                    for (long row = 0; row < p.rows; row++)
                        sum += up(d[((row * h.groups + group) * p.length + place) * h.width + i]);
                    put(&summed[i], sum);
                }
                if (part == 0)
                    turn_back(summed, qkv + token * line + key, turned, cosine + token * h.turned,
                              sine + token * h.turned, k_weight, h);
                T* to = dqkv + token * line + key;
                for (long i = 0; i < h.width; i++) put(&to[i], up(to[i]) + up(part ? summed[i] : turned[i]));
            }
        }
    }
}

template <class T>
void gather(T* flat, T* padded, Places p, Heads h, bool back) {
    const long shared = h.heads / h.groups;
#pragma omp parallel for collapse(2) schedule(static)
    for (long row = 0; row < p.rows; row++) {
        for (long place = p.prefix; place < p.length; place++) {
            const int64_t token = p.tokens[row * p.length + place];
            for (long head = 0; head < h.heads; head++) {
                const long batch = row * h.groups + head / shared, j = head % shared;
                T* b = padded + ((batch * shared + j) * p.looking() + place - p.prefix) * h.width;
                T* a = flat + (token * h.heads + head) * h.width;
                if (token < 0) {
                    if (back) std::memset(b, 0, h.width * sizeof(T));
                } else if (back) {
                    std::memcpy(b, a, h.width * sizeof(T));
                } else {
                    std::memcpy(a, b, h.width * sizeof(T));
                }
            }
        }
    }
}

// scores: (batches, shared, queries, keys); query t of a row stands at place first_query + t, key c at first_key + c.
struct Mask {
    long batches, shared, queries, keys, first_query, first_key, window;

    void span(long t, long* low, long* high) const {
        const long place = first_query + t;
        const long from = window ? place - window + 1 - first_key : 0;
        *low = from < 0 ? 0 : from;
        *high = place + 1 - first_key < keys ? place + 1 - first_key : keys;
    }
};

template <class T>
void softmax(T* scores, T* slopes, Mask m, float scale, float cap) {
#pragma omp parallel
    {
        std::vector<float> line(m.keys);  // exponentials are costly; each is computed once and kept here
        float* e = line.data();
#pragma omp for schedule(dynamic, 8)
        for (long row = 0; row < m.batches * m.shared * m.queries; row++) {
            T* s = scores + row * m.keys;
            long low, high;
            m.span(row % m.queries, &low, &high);
            float largest = -INFINITY, sum = 0.0f;
            if (slopes) {
                T* slope = slopes + row * m.keys;
#pragma omp simd reduction(max : largest)
                for (long i = low; i < high; i++) {
                    const float t = fast_tanh(up(s[i]) * scale / cap);
                    put(&slope[i], 1.0f - t * t);
                    e[i] = cap * t;
                    largest = e[i] > largest ? e[i] : largest;
                }
            } else {
#pragma omp simd reduction(max : largest)
                for (long i = low; i < high; i++) {
                    e[i] = up(s[i]) * scale;
                    largest = e[i] > largest ? e[i] : largest;
                }
            }
#pragma omp simd reduction(+ : sum)
            for (long i = low; i < high; i++) {
                e[i] = fast_exp(e[i] - largest);
                sum += e[i];
            }
            const float inverse = 1.0f / sum;
            std::memset(s, 0, low * sizeof(T));
#pragma omp simd
            for (long i = low; i < high; i++) put(&s[i], e[i] * inverse);
            std::memset(s + high, 0, (m.keys - high) * sizeof(T));
        }
    }
}

template <class T>
void softmax_backward(const T* weights, T* g, const T* slopes, Mask m, float scale) {
#pragma omp parallel for schedule(dynamic, 8)
    for (long row = 0; row < m.batches * m.shared * m.queries; row++) {
        const T* p = weights + row * m.keys;
        T* d = g + row * m.keys;
        const T* slope = slopes ? slopes + row * m.keys : nullptr;
        long low, high;
        m.span(row % m.queries, &low, &high);
        float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
        for (long i = low; i < high; i++) dot += up(p[i]) * up(d[i]);
        std::memset(d, 0, low * sizeof(T));
        if (slope) {
#pragma omp simd
            for (long i = low; i < high; i++) put(&d[i], up(p[i]) * (up(d[i]) - dot) * scale * up(slope[i]));
        } else {
#pragma omp simd
            for (long i = low; i < high; i++) put(&d[i], up(p[i]) * (up(d[i]) - dot) * scale);
        }
        std::memset(d + high, 0, (m.keys - high) * sizeof(T));
    }
}

}  // namespace
