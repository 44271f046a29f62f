// Vectors of LANES floats in the compiler's own vector types, so that one text serves every instruction set: a 16-lane kernel runs,
// slowly, on any processor. Included once per instruction set, inside its namespace: see kernels.h.

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
typedef int8_t Bytes __attribute__((vector_size(LANES)));
typedef float Quad __attribute__((vector_size(16)));

INLINE Vec splat(float x) { return x - Vec{}; }  // x + 0 would be an addition, because of -0

INLINE Vec load(const float* p) {
    Vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE Words load_words(const void* p) {
    Words v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE Vec load(const Bf16* p) {  // bf16 is the upper half of a float
    Halves h;
    memcpy(&h, p, sizeof h);
    return (Vec)(__builtin_convertvector(h, Words) << 16);
}

INLINE Vec load(const int8_t* p) {
#if LANES == 8  // GCC 12 widens byte by byte, 6 times as slow
    return (Vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
#elif LANES == 16 && !EMULATE_AVX512
    return (Vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
#else
    Bytes b;
    memcpy(&b, p, sizeof b);
    return __builtin_convertvector(__builtin_convertvector(b, Ints), Vec);
#endif
}

INLINE void store(float* p, Vec v) { memcpy(p, &v, sizeof v); }

INLINE void store(Bf16* p, Vec v) {  // to the nearest, ties to even; NaN stays NaN
    Words w = (Words)v;
    Words rounded = (w + 0x7fff + ((w >> 16) & 1)) >> 16;
    rounded = v == v ? rounded : Words{} + 0x7fc0;
    Halves h = __builtin_convertvector(rounded, Halves);
    memcpy(p, &h, sizeof h);
}

// The first `count` < LANES elements, 0 behind them.
template <class T> INLINE Vec load_part(const T* p, int count) {
    T part[LANES] = {};
    for (int i = 0; i < count; i++) part[i] = p[i];
    return load(part);
}

template <class T> INLINE void store_part(T* p, Vec v, int count) {
    T part[LANES];
    store(part, v);
    for (int i = 0; i < count; i++) p[i] = part[i];
}

template <class T> INLINE Vec load_upto(const T* p, int count) { return count >= LANES ? load(p) : load_part(p, count); }

template <class T> INLINE void store_upto(T* p, Vec v, int count) {
    if (count >= LANES) store(p, v);
    else store_part(p, v, count);
}

INLINE Vec larger(Vec a, Vec b) { return a > b ? a : b; }

// The four quarters, halves or the whole of v, added: [4] partial sums.
INLINE Quad fold(Vec v) {
    Quad parts[LANES / 4];
    memcpy(parts, &v, sizeof v);
    for (int half = LANES / 8; half; half /= 2)
        for (int i = 0; i < half; i++) parts[i] += parts[i + half];
    return parts[0];
}

INLINE float sum(Vec v) {
    Quad q = fold(v);
    return (q[0] + q[1]) + (q[2] + q[3]);
}

INLINE float largest(Vec v) {
    float found = v[0];
    for (int i = 1; i < LANES; i++) found = v[i] > found ? v[i] : found;
    return found;
}

// acc + the products of pairs of bf16, one pair per lane: the instruction of AVX-512 BF16.
#if DOTS_BF16
INLINE Vec dot_pairs(Vec acc, Words a, Words b) {
#if EMULATE_AVX512
    Words high = Words{} + 0xffff0000;
    acc += (Vec)(a & high) * (Vec)(b & high);
    return acc + (Vec)(a << 16) * (Vec)(b << 16);
#else
    return (Vec)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b);
#endif
}
#endif
