// Decoding on CPUs: one new token per row and step, for every decoder that model/decoder.py describes, and before that the prompts.
// Called from Python through ctypes (decoder.py beside this file); allocates nothing. The same kernels are compiled for three
// instruction sets; LEVELS has their tables.
//
// Each of a step's products reads all weights once, so weights are packed once, in the order in which they are read. Rows are
// computed independently: a row's logits are the same bits in any batch and with any number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

#ifndef EMULATE_AVX512
#define EMULATE_AVX512 0  // 1 in tests: only the 16-lane kernels, in AVX2's instructions, for processors without AVX-512
#endif
#define INLINE static inline __attribute__((always_inline))

struct Bf16 {
    uint16_t bits;
};

INLINE Bf16 to_bf16(float x) {  // to the nearest, ties to even
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return {(uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

enum { FP32, BF16, INT8 };
enum { SILU, GELU, GELU_TANH, RELU };
constexpr int GROUP = 64;  // weights that share a scale in int8
constexpr int BLOCK = 64;  // probabilities that are summed first when sampling, as in generate/sampler.py

// The structures below are mirrored in structures.py.
struct Matrix {
    const void* weights;
    const float *scales, *bias;  // scales: of int8 weights alone
    int32_t rows, cols;          // outputs and inputs
};

struct Norm {
    const float *weight, *bias;
};

struct Layer {
    Norm attention_norm, mlp_norm;
    const float *q_norm, *k_norm;
    Matrix qkv, out, gate, up, down;
    int32_t window;  // tokens that one attends to; 0: all
};

struct Model {
    int32_t kind, vocab, hidden, num_layers, heads, kv_heads, head_dim, rotary, inner;
    int32_t layernorm, activation, gated, parallel;
    float eps;
    const float *embed, *positions;
    Norm final_norm;
    Matrix unembed;
    const Layer* layers;
};

struct Job {
    int32_t rows, steps, threads, capacity, table, cache_bf16, stops_per_row;  // table: positions that cos and sin have
    const int64_t *tokens, *lengths, *strides;
    const int64_t* owners;  // prefill: the row of the cache that each token belongs to; null: decode, and row i's is i
    void* cache;
    const float *cos, *sin;
    char* scratch;
    float* logits;  // one step without sampling: the result
    int64_t* ids;   // steps with sampling: the result, and what it needs
    float* logprobs;
    const double* uniforms;
    const float* temperatures;
    const int64_t* stops;
    int32_t *done, *stopped;
};

struct Span {
    int first, last;
};

INLINE Span split(int n, int index, int count) {
    return {(int)((int64_t)n * index / count), (int)((int64_t)n * (index + 1) / count)};
}

inline void wait_for_others() {
#ifdef _OPENMP
#pragma omp barrier
#endif
}

struct Kernels {
    int panel;
    void (*pack)(int kind, const float*, int n, int k, Span, void* weights, float* scales);
    size_t (*scratch_bytes[3])(const Model&, const Job&);
    void (*decode[3])(const Model&, const Job&, int index, int count);
    void (*matmul[3])(const Matrix&, const float* x, int rows, float* y, bool add, Span, void* room);
    void (*attend)(const float* q, int heads, int e, const void* k, const void* v, bool bf16, int n, float* room, float* out);
    void (*activate)(int activation, const float* gate, const float* up, int n, float* out);
    void (*norm)(const float* x, int n, const float* weight, const float* bias, bool centre, float eps, float* y);
    void (*rotate)(float* x, const float* cos, const float* sin, int half);
    int64_t (*sample)(float* logits, int n, float temperature, double u, float* masses, float* logprob);
};

#if !EMULATE_AVX512
#define LEVEL portable
#define LANES 4
#define DOTS_BF16 0
#include "kernels.h"
#endif

#if defined(__x86_64__)
// EMULATE_AVX512: the tests run the 16-lane kernels on processors without AVX-512.

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#if !EMULATE_AVX512
#define LEVEL avx2
#define LANES 8
#define DOTS_BF16 0
#include "kernels.h"
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,prefer-vector-width=512")
#endif
#endif
#define LEVEL avx512
#define LANES 16
#define DOTS_BF16 1
#include "kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

const Kernels* const LEVELS[] = {
#if EMULATE_AVX512
    nullptr, nullptr, &avx512::table,
#elif defined(__x86_64__)
    &portable::table, &avx2::table, &avx512::table,
#else
    &portable::table,
#endif
};

template <class Function> void in_parallel([[maybe_unused]] int threads, Function function) {
#ifdef _OPENMP
    if (threads > 1) {
#pragma omp parallel num_threads(threads)
        function(omp_get_thread_num(), omp_get_num_threads());
        return;
    }
#endif
    function(0, 1);
}

enum { BAD_TOKEN = -1, CACHE_FULL = -2, TABLE_SHORT = -3 };

int check(const Model& m, const Job& job) {
    for (int r = 0; r < job.rows; r++) {
        if (job.tokens[r] < 0 || job.tokens[r] >= m.vocab) return BAD_TOKEN;
        if (job.lengths[r] < 0 || job.lengths[r] + job.steps > job.capacity) return CACHE_FULL;
        if (job.lengths[r] + job.steps > job.table) return TABLE_SHORT;
    }
    return 0;
}

}  // namespace

extern "C" {

// The best instruction set that this processor has: 0 portable, 1 AVX2 and FMA, 2 AVX-512 with bf16 products.
int best_level() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bf16");
    return EMULATE_AVX512 || (avx2 && avx512) ? 2 : avx2;
#else
    return 0;
#endif
}

int panel_size(int level) { return LEVELS[level]->panel; }

void pack_matrix(int level, int kind, const float* source, int n, int k, int threads, void* weights, float* scales) {
    const Kernels& kernels = *LEVELS[level];
    int panels = (n + kernels.panel - 1) / kernels.panel;
    in_parallel(threads, [&](int t, int count) { kernels.pack(kind, source, n, k, split(panels, t, count), weights, scales); });
}

size_t scratch_size(int level, const Model* m, const Job* job) { return LEVELS[level]->scratch_bytes[m->kind](*m, *job); }

// Decode up to job->steps tokens per row, or prefill. 0, or what is wrong, before anything is written.
int decode_steps(int level, const Model* m, const Job* job) {
    if (int wrong = check(*m, *job)) return wrong;
    auto decode = LEVELS[level]->decode[m->kind];
    *job->stopped = 0;
    // The team may be smaller than asked for; buffers are laid out for job->threads.
    in_parallel(job->threads, [&](int t, int count) { decode(*m, *job, t, count); });
    return 0;
}

// Single kernels, for the tests.

void test_matmul(int level, int kind, const Matrix* m, const float* x, int rows, float* y, int add, int threads, void* room) {
    const Kernels& kernels = *LEVELS[level];
    int panels = (m->rows + kernels.panel - 1) / kernels.panel;
    for (int t = 0; t < threads; t++) kernels.matmul[kind](*m, x, rows, y, add, split(panels, t, threads), room);
}

void test_attend(int level, const float* q, int heads, int e, const void* k, const void* v, int bf16, int n, float* room, float* out) {
    LEVELS[level]->attend(q, heads, e, k, v, bf16, n, room, out);
}

void test_activate(int level, int activation, const float* gate, const float* up, int n, float* out) {
    LEVELS[level]->activate(activation, gate, up, n, out);
}

void test_norm(int level, const float* x, int n, const float* weight, const float* bias, int centre, float eps, float* y) {
    LEVELS[level]->norm(x, n, weight, bias, centre, eps, y);
}

void test_rotate(int level, float* x, const float* cos, const float* sin, int half) { LEVELS[level]->rotate(x, cos, sin, half); }

int64_t test_sample(int level, float* logits, int n, float temperature, double u, float* masses, float* logprob) {
    return LEVELS[level]->sample(logits, n, temperature, u, masses, logprob);
}
}
