// Products with packed weights: y [rows, n] = x [rows, k] W' for W [n, k].
//
// W is stored in panels of PANEL = 2 * LANES outputs, k by k, so that a panel is read from front to back. bf16 weights lie in pairs
// of k, which is what the dot product of AVX-512 reads; elsewhere a pair is expanded to two floats by a shift and a mask. int8 weights
// have one scale per output and GROUP of k. Every output is one sum over k in order, however many rows are multiplied at once, by
// however many threads: a row's result does not depend on the others. Where there are few rows, several panels are multiplied
// at once, because an addition must wait for the one before it.

constexpr int PANEL = 2 * LANES;

// MOST_ROWS of a tile: what the registers hold, two vectors per row, beside those of weights and inputs (32 with AVX-512, else 16).
// STEP: products between two requests for the next panel, see Block; 0: none, for int8 weights are small beside their products.
struct Fp32 {
    using Weight = float;
    using Input = float;
    static constexpr int STEP = 16;
    static constexpr int MOST_ROWS = LANES == 16 ? 8 : 6;
};
struct Bf16Weights {
    using Weight = Bf16;
    static constexpr int STEP = 32;
#if DOTS_BF16
    using Input = Bf16;
    static constexpr int MOST_ROWS = 8;
#else
    using Input = float;
    static constexpr int MOST_ROWS = 5;  // 6 would spill: 20% slower
#endif
};
struct Int8 {
    using Weight = int8_t;
    using Input = float;
    static constexpr int STEP = 0;
    static constexpr int MOST_ROWS = LANES == 16 ? 8 : 6;
};

// acc [ROWS][2 * PANELS] += x W' for the panels from w on, `apart` weights from each other.
template <int ROWS, int PANELS>
INLINE void multiply(Fp32, const float* x, size_t ldx, const float* w, size_t apart, const float*, size_t, int k,
                     Vec (&acc)[ROWS][2 * PANELS]) {
    for (int i = 0; i < k; i++, w += PANEL)
        for (int p = 0; p < PANELS; p++) {
            Vec w0 = load(w + p * apart), w1 = load(w + p * apart + LANES);
            for (int r = 0; r < ROWS; r++) {
                acc[r][2 * p] += w0 * x[r * ldx + i];
                acc[r][2 * p + 1] += w1 * x[r * ldx + i];
            }
        }
}

#if DOTS_BF16
template <int ROWS, int PANELS>
INLINE void multiply(Bf16Weights, const Bf16* x, size_t ldx, const Bf16* w, size_t apart, const float*, size_t, int k,
                     Vec (&acc)[ROWS][2 * PANELS]) {
    for (int i = 0; i < k; i += 2, w += 2 * PANEL)
        for (int p = 0; p < PANELS; p++) {
            Words w0 = load_words(w + p * apart), w1 = load_words(w + p * apart + PANEL);
            for (int r = 0; r < ROWS; r++) {
                uint32_t pair;
                memcpy(&pair, x + r * ldx + i, sizeof pair);
                acc[r][2 * p] = dot_pairs(acc[r][2 * p], Words{} + pair, w0);
                acc[r][2 * p + 1] = dot_pairs(acc[r][2 * p + 1], Words{} + pair, w1);
            }
        }
}
#else
template <int ROWS, int PANELS>
INLINE void multiply(Bf16Weights, const float* x, size_t ldx, const Bf16* w, size_t apart, const float*, size_t, int k,
                     Vec (&acc)[ROWS][2 * PANELS]) {
    for (int i = 0; i < k; i += 2, w += 2 * PANEL)
        for (int p = 0; p < PANELS; p++) {
            Words w0 = load_words(w + p * apart), w1 = load_words(w + p * apart + PANEL);
            Vec even0 = (Vec)(w0 << 16), even1 = (Vec)(w1 << 16);
            for (int r = 0; r < ROWS; r++) {
                acc[r][2 * p] += even0 * x[r * ldx + i];
                acc[r][2 * p + 1] += even1 * x[r * ldx + i];
            }
            Vec odd0 = (Vec)(w0 & 0xffff0000), odd1 = (Vec)(w1 & 0xffff0000);
            for (int r = 0; r < ROWS; r++) {
                acc[r][2 * p] += odd0 * x[r * ldx + i + 1];
                acc[r][2 * p + 1] += odd1 * x[r * ldx + i + 1];
            }
        }
}
#endif

template <int ROWS, int PANELS>
INLINE void multiply(Int8, const float* x, size_t ldx, const int8_t* w, size_t apart, const float* scales, size_t scales_apart,
                     int k, Vec (&acc)[ROWS][2 * PANELS]) {
    for (int start = 0; start < k; start += GROUP, scales += PANEL) {
        Vec part[ROWS][2 * PANELS] = {};
        int stop = std::min(start + GROUP, k);
        for (int i = start; i < stop; i++, w += PANEL)
            for (int p = 0; p < PANELS; p++) {
                Vec w0 = load(w + p * apart), w1 = load(w + p * apart + LANES);
                for (int r = 0; r < ROWS; r++) {
                    part[r][2 * p] += w0 * x[r * ldx + i];
                    part[r][2 * p + 1] += w1 * x[r * ldx + i];
                }
            }
        for (int p = 0; p < PANELS; p++)
            for (int j = 0; j < 2; j++) {
                Vec scale = load(scales + p * scales_apart + j * LANES);
                for (int r = 0; r < ROWS; r++) acc[r][2 * p + j] += part[r][2 * p + j] * scale;
            }
    }
}

INLINE int even(int k) { return k + (k & 1); }
INLINE int groups(int k) { return (k + GROUP - 1) / GROUP; }
INLINE int panels(int n) { return (n + PANEL - 1) / PANEL; }

// Which block of rows of how many is at work. Each asks for its share of the next panel, a little at a time: memory would have nothing
// to do in all blocks but the first. With fp32 weights beyond the cache (1536 x 576, AVX2, one core) products of 12 and 16 rows gain 25%,
// of 64 rows 7%; with bf16 weights 8% and nothing. A single block is at the pace of memory anyway, and asking costs it 10%.
struct Block {
    int number = 0, of = 1;
    void fetch(const void* next, size_t from, size_t bytes, size_t all) const {
        auto p = (const char*)next + (number * all + from) / of;
        for (size_t i = 0; i < bytes / of; i += 64) __builtin_prefetch(p + i, 0, 2);
    }
};

// One tile of the result: ROWS rows by PANELS panels from `panel` on, plus bias, plus what is there if `add`.
template <class W, int ROWS, int PANELS>
void tile(const Matrix& m, int panel, const typename W::Input* x, size_t ldx, float* y, size_t ldy, bool add, Block block = {}) {
    Vec acc[ROWS][2 * PANELS] = {};
    size_t apart = (size_t)even(m.cols) * PANEL, scales_apart = (size_t)groups(m.cols) * PANEL;
    auto w = (const typename W::Weight*)m.weights + panel * apart;
    auto scales = m.scales + panel * scales_apart;
    bool fetching = block.of > 1 && W::STEP;
    size_t per_k = PANEL * sizeof(*w);
    for (int i = 0, step = fetching ? W::STEP : m.cols; i < m.cols; i += step) {
        if (fetching) block.fetch(w + apart, i * per_k, step * per_k, apart * sizeof(*w));
        multiply<ROWS, PANELS>(W(), x + i, ldx, w + i * PANEL, apart, scales, scales_apart, std::min(step, m.cols - i), acc);
    }
    for (int j = 0; j < 2 * PANELS; j++) {
        int first = panel * PANEL + j * LANES, rest = m.rows - first;
        if (rest <= 0) return;
        Vec bias = m.bias ? load_upto(m.bias + first, rest) : Vec{};
        for (int r = 0; r < ROWS; r++) {
            float* out = y + r * ldy + first;
            Vec v = acc[r][j] + bias;
            if (add) v += load_upto(out, rest);
            store_upto(out, v, rest);
        }
    }
}

template <class W>
void tile_of(int rows, const Matrix& m, int panel, const typename W::Input* x, size_t ldx, float* y, size_t ldy, bool add,
             Block block) {
    switch (rows) {
        case 1: return tile<W, 1, 1>(m, panel, x, ldx, y, ldy, add, block);
        case 2: return tile<W, 2, 1>(m, panel, x, ldx, y, ldy, add, block);
        case 3: return tile<W, 3, 1>(m, panel, x, ldx, y, ldy, add, block);
        case 4: return tile<W, 4, 1>(m, panel, x, ldx, y, ldy, add, block);
        case 5: return tile<W, 5, 1>(m, panel, x, ldx, y, ldy, add, block);
        case 6: return tile<W, 6, 1>(m, panel, x, ldx, y, ldy, add, block);
#if LANES == 16
        case 7: return tile<W, 7, 1>(m, panel, x, ldx, y, ldy, add, block);
        case 8: return tile<W, 8, 1>(m, panel, x, ldx, y, ldy, add, block);
#endif
    }
}

// Panels first..last of the result.
template <class W>
void matmul(const Matrix& m, Span span, const typename W::Input* x, size_t ldx, int rows, float* y, size_t ldy, bool add) {
    int panel = span.first;
    if (rows == 1)
        for (; panel + 4 <= span.last; panel += 4) tile<W, 1, 4>(m, panel, x, ldx, y, ldy, add);
    if (rows <= 2)
        for (; panel + 2 <= span.last; panel += 2) {
            if (rows == 1) tile<W, 1, 2>(m, panel, x, ldx, y, ldy, add);
            if (rows == 2) tile<W, 2, 2>(m, panel, x, ldx, y, ldy, add);
        }
    int blocks = (rows + W::MOST_ROWS - 1) / W::MOST_ROWS;  // of nearly equal size: 16 rows are 6 + 5 + 5, which is faster than 6 + 6 + 4
    for (; panel < span.last; panel++)
        for (int number = 0; number < blocks; number++) {
            Span r = split(rows, number, blocks);
            tile_of<W>(r.last - r.first, m, panel, x + r.first * ldx, ldx, y + r.first * ldy, ldy, add, {number, blocks});
        }
}

// Row-major fp32 weights [n, k] -> panels first..last of the packed form. Where k is odd and for outputs beyond n, the weights are 0.
void pack(int kind, const float* source, int n, int k, Span span, void* weights, float* scales) {
    for (int panel = span.first; panel < span.last; panel++)
        for (int j = 0; j < PANEL; j++) {
            int row = panel * PANEL + j;
            const float* w = source + (size_t)row * k;
            size_t start = (size_t)panel * even(k) * PANEL;
            for (int g = 0; g < groups(k); g++) {
                int stop = std::min((g + 1) * GROUP, k);
                float peak = 0;
                for (int i = g * GROUP; i < stop && row < n; i++) peak = std::max(peak, std::fabs(w[i]));
                if (kind == INT8) scales[((size_t)panel * groups(k) + g) * PANEL + j] = peak / 127;
                for (int i = g * GROUP; i < (g + 1 == groups(k) ? even(k) : stop); i++) {
                    float value = row < n && i < k ? w[i] : 0;
                    if (kind == FP32) ((float*)weights)[start + (size_t)i * PANEL + j] = value;
                    if (kind == INT8) ((int8_t*)weights)[start + (size_t)i * PANEL + j] = peak ? (int8_t)std::nearbyint(value / peak * 127) : 0;
                    if (kind == BF16) ((Bf16*)weights)[start + (size_t)(i / 2 * PANEL + j) * 2 + i % 2] = to_bf16(value);
                }
            }
        }
}
