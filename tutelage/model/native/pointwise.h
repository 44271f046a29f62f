// Functions of single numbers and rows: exp, the MLP's nonlinearities, norms and rotary positions.

// e^x to 2 units in the last place (Cephes' expf). 0 below -87.3, where the result would be denormal; at most 2.4e38; NaN for NaN.
INLINE Vec exp(Vec x) {
    const float log2e = 1.44269504f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
    const float to_integer = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, whose bits are then at the bottom
    Ints tiny = x < -87.3f;
    x = x < -87.3f ? splat(-87.3f) : x;
    x = x > 88.37f ? splat(88.37f) : x;
    Vec shifted = x * log2e + to_integer;
    Vec n = shifted - to_integer;
    Vec r = x - n * ln2_high - n * ln2_low;
    Vec p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    Vec y = p * (r * r) + r + 1.0f;
    Ints scale = ((Ints)shifted - 0x4b400000 + 127) << 23;
    return tiny ? Vec{} : y * (Vec)scale;
}

// x * Phi(x), with erfc of Abramowitz and Stegun 7.1.26, whose error is below 1.5e-7.
INLINE Vec gelu(Vec x) {
    Vec z = (x < 0.0f ? -x : x) * 0.70710678f;
    Vec t = 1.0f / (1.0f + 0.3275911f * z);
    Vec p = splat(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    Vec half_tail = 0.5f * p * t * exp(-z * z);
    return x * (x < 0.0f ? half_tail : 1.0f - half_tail);
}

INLINE Vec activate(int activation, Vec x) {
    switch (activation) {
        case SILU: return x / (1.0f + exp(-x));
        case GELU: return gelu(x);
        // 0.5 x (1 + tanh y) = x / (1 + e^(-2y))
        case GELU_TANH: return x / (1.0f + exp(-1.59576912f * (x + 0.044715f * x * x * x)));
        default: return x < 0.0f ? Vec{} : x;  // relu; NaN stays
    }
}

// inner = act(gate) * up, or act(gate) if up is null; n elements.
template <class In> void activate_row(int activation, const float* gate, const float* up, int n, In* inner) {
    for (int i = 0; i < n; i += LANES) {
        Vec x = activate(activation, load_upto(gate + i, n - i));
        if (up) x *= load_upto(up + i, n - i);
        store_upto(inner + i, x, n - i);
    }
}

INLINE float sum_of_squares(const float* x, int n, float mean) {
    Vec total = {};
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        Vec v = load(x + i) - mean;
        total += v * v;
    }
    float result = sum(total);
    for (; i < n; i++) result += (x[i] - mean) * (x[i] - mean);
    return result;
}

// RMSNorm (bias is null and `centre` false) or LayerNorm of one row; y may be x.
template <class In>
void norm_row(const float* x, int n, const float* weight, const float* bias, bool centre, float eps, In* y) {
    float mean = 0;
    if (centre) {
        Vec total = {};
        for (int i = 0; i < n; i += LANES) total += load_upto(x + i, n - i);
        mean = sum(total) / n;
    }
    float inverse = 1.0f / std::sqrt(sum_of_squares(x, n, mean) / n + eps);
    for (int i = 0; i < n; i += LANES) {
        int rest = n - i;
        Vec v = (load_upto(x + i, rest) - mean) * inverse * load_upto(weight + i, rest);
        if (bias) v += load_upto(bias + i, rest);
        store_upto(y + i, v, rest);
    }
}

// (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin) in place, where x1 and x2 are the halves of the first 2 * half elements.
INLINE void rotate(float* x, const float* cos, const float* sin, int half) {
    for (int i = 0; i < half; i += LANES) {
        int rest = half - i;
        Vec a = load_upto(x + i, rest), b = load_upto(x + half + i, rest);
        Vec c = load_upto(cos + i, rest), s = load_upto(sin + i, rest);
        store_upto(x + i, a * c - b * s, rest);
        store_upto(x + half + i, b * c + a * s, rest);
    }
}
