// Attention of one query per head over a row's keys and values in the cache.

constexpr int KEYS = 32;  // keys (values) that the heads of a group read in turn while they are in the first-level cache

// The products of q with 4 keys, `e` apart.
template <class Cell> INLINE Quad dot4(const float* q, const Cell* k, int e) {
    Vec a = {}, b = {}, c = {}, d = {};
    int i = 0;
    for (; i + LANES <= e; i += LANES) {
        Vec x = load(q + i);
        a += x * load(k + i);
        b += x * load(k + e + i);
        c += x * load(k + 2 * e + i);
        d += x * load(k + 3 * e + i);
    }
    if (i < e) {
        Vec x = load_part(q + i, e - i);
        a += x * load_part(k + i, e - i);
        b += x * load_part(k + e + i, e - i);
        c += x * load_part(k + 2 * e + i, e - i);
        d += x * load_part(k + 3 * e + i, e - i);
    }
    Quad fa = fold(a), fb = fold(b), fc = fold(c), fd = fold(d);
    Quad low = {fa[0] + fa[1], fb[0] + fb[1], fc[0] + fc[1], fd[0] + fd[1]};
    Quad high = {fa[2] + fa[3], fb[2] + fb[3], fc[2] + fc[3], fd[2] + fd[3]};
    return low + high;
}

template <class Cell> INLINE float dot(const float* q, const Cell* k, int e) {
    Vec a = {};
    for (int i = 0; i < e; i += LANES) a += load_upto(q + i, e - i) * load_upto(k + i, e - i);
    return sum(a);
}

// scores = e^(scores - their maximum); returns their sum.
INLINE float exponentiate(float* scores, int n) {
    Vec peaks = splat(scores[0]);
    int i = 0;
    for (; i + LANES <= n; i += LANES) peaks = larger(load(scores + i), peaks);
    float peak = largest(peaks);
    for (; i < n; i++) peak = std::max(peak, scores[i]);
    Vec total = {};
    for (i = 0; i + LANES <= n; i += LANES) {
        Vec p = exp(load(scores + i) - peak);
        store(scores + i, p);
        total += p;
    }
    float result = sum(total);
    if (i < n) {
        store_part(scores + i, exp(load_part(scores + i, n - i) - peak), n - i);
        for (; i < n; i++) result += scores[i];
    }
    return result;
}

// out [e] += sum over n values of p[j] v[j], VECS vectors at a time.
template <int VECS, class Cell> INLINE void add_values(const float* p, const Cell* v, int n, int e, float* out) {
    Vec acc[VECS];
    for (int c = 0; c < VECS; c++) acc[c] = load(out + c * LANES);
    for (int j = 0; j < n; j++)
        for (int c = 0; c < VECS; c++) acc[c] += p[j] * load(v + (size_t)j * e + c * LANES);
    for (int c = 0; c < VECS; c++) store(out + c * LANES, acc[c]);
}

template <class Cell> INLINE void weigh_values(const float* p, const Cell* v, int n, int e, float* out) {
    int i = 0;
    for (; i + 8 * LANES <= e; i += 8 * LANES) add_values<8>(p, v + i, n, e, out + i);
    for (; i + 4 * LANES <= e; i += 4 * LANES) add_values<4>(p, v + i, n, e, out + i);
    for (; i + LANES <= e; i += LANES) add_values<1>(p, v + i, n, e, out + i);
    if (i == e) return;
    Vec acc = load_part(out + i, e - i);
    for (int j = 0; j < n; j++) acc += p[j] * load_part(v + (size_t)j * e + i, e - i);
    store_part(out + i, acc, e - i);
}

// softmax(q k') v of `heads` queries q [heads, e], already scaled, that share n keys k and values v [n, e] -> out [heads, e].
// scores: room for heads * (n + 1); sums: for heads * e.
template <class Cell, class In>
void attend(const float* q, int heads, int e, const Cell* k, const Cell* v, int n, float* scores, float* sums, In* out) {
    for (int start = 0; start < n; start += KEYS)
        for (int h = 0; h < heads; h++) {
            int j = start, stop = std::min(start + KEYS, n);
            float* into = scores + (size_t)h * n;
            for (; j + 4 <= stop; j += 4) {
                Quad products = dot4(q + h * e, k + (size_t)j * e, e);
                memcpy(into + j, &products, sizeof products);
            }
            for (; j < stop; j++) into[j] = dot(q + h * e, k + (size_t)j * e, e);
        }
    memset(sums, 0, sizeof(float) * heads * e);
    float* totals = scores + (size_t)heads * n;
    for (int h = 0; h < heads; h++) totals[h] = exponentiate(scores + (size_t)h * n, n);
    for (int start = 0; start < n; start += KEYS)
        for (int h = 0; h < heads; h++)
            weigh_values(scores + (size_t)h * n + start, v + (size_t)start * e, std::min(KEYS, n - start), e, sums + h * e);
    for (int h = 0; h < heads; h++)
        for (int i = 0; i < e; i += LANES)
            store_upto(out + h * e + i, load_upto(sums + h * e + i, e - i) * (1.0f / totals[h]), e - i);
}
