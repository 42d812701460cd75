// The element-wise part of a decoder block, one pass over memory per function. reference.py says what each computes.
//
// Plain loops over rows, written so that the compiler vectorises the inner one; arithmetic is float32 whatever the
// storage. Rows are shared out to threads in fixed parts and no row is touched by two, so results do not depend on
// timing. Compiled once per machine by native.py.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

struct bf16 {
    uint16_t bits;
};

inline float up(float x) { return x; }

inline float up(bf16 x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline void put(float* to, float x) { *to = x; }

inline void put(bf16* to, float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    to->bits = static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);  // round to nearest even
}

// exp by range reduction to |r| <= ln 2 / 2 and a polynomial, within 2 units in the last place; libm's is a call.
inline float fast_exp(float x) {
    x = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
    const float n = std::floor(x * 1.44269504f + 0.5f);
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return p * power;
}

inline float fast_tanh(float x) { return 1.0f - 2.0f / (fast_exp(2.0f * x) + 1.0f); }

inline float sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

struct Bent {
    float value, slope;
};

template <bool Gelu>
inline Bent activate(float x) {
    if (Gelu) {
        const float t = fast_tanh(0.79788456f * (x + 0.044715f * x * x * x));
        return {0.5f * x * (1.0f + t),
                0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * 0.79788456f * (1.0f + 0.134145f * x * x)};
    }
    const float s = sigmoid(x);
    return {x * s, s * (1.0f + x * (1.0f - s))};
}

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
        const float normaliser = largest + static_cast<float>(std::log(sum));
        const float chosen = value(target);
        losses[row] = normaliser - chosen;
        if (!with_slope) continue;
#pragma omp simd
        for (long i = 0; i < width; i++) {
            const float x = value(i);
            put(&l[i], fast_exp(x - normaliser) * bend(x));
        }
        put(&l[target], (fast_exp(chosen - normaliser) - 1.0f) * bend(chosen));
    }
}

}  // namespace

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
