// One token from one row of logits, as tutelage.generate.sampler does it: greedy, or the inverse of the cumulative distribution.

struct Sampled {
    int64_t id;
    float logprob;
};

// logits /= temperature, in place; returns the largest, or NaN if one is not finite.
INLINE float scale_logits(float* logits, int n, float temperature) {
    Vec peaks = splat(-INFINITY), spoiled = {};
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        Vec v = load(logits + i) / temperature;
        store(logits + i, v);
        peaks = larger(v, peaks);
        spoiled += v - v;  // NaN for NaN and infinities
    }
    float peak = largest(peaks), wrong = sum(spoiled);
    for (; i < n; i++) {
        logits[i] /= temperature;
        peak = std::max(peak, logits[i]);
        wrong += logits[i] - logits[i];
    }
    return peak + wrong;
}

// logits become weights e^(logits - peak), in place; masses [n / BLOCK, rounded up]: the sums of their blocks. Returns the sum of all.
INLINE double to_weights(float* logits, int n, float peak, float* masses) {
    double total = 0;
    for (int start = 0; start < n; start += BLOCK) {
        float *block = logits + start, mass = 0;
        int i = 0, count = std::min(BLOCK, n - start);
        Vec sums = {};
        for (; i + LANES <= count; i += LANES) {
            Vec weights = exp(load(block + i) - peak);
            store(block + i, weights);
            sums += weights;
        }
        if (i < count) store_part(block + i, exp(load_part(block + i, count - i) - peak), count - i);
        for (; i < count; i++) mass += block[i];
        masses[start / BLOCK] = mass + sum(sums);
        total += masses[start / BLOCK];
    }
    return total;
}

// The first token whose cumulative weight exceeds the share u of all.
INLINE int64_t inverse_cdf(const float* weights, int n, const float* masses, double total, double u) {
    int blocks = (n + BLOCK - 1) / BLOCK, block = 0;
    double target = u * total, upto = masses[0];
    while (upto <= target && block + 1 < blocks) upto += masses[++block];
    double share = 1 - (upto - target) / masses[block];
    share = std::min(std::max(share, 0.0), 1 - 0x1p-53);
    int start = block * BLOCK, stop = std::min(start + BLOCK, n);
    double within = 0, running = 0;
    for (int i = start; i < stop; i++) within += weights[i];
    for (int i = start; i < stop; i++) {
        running += weights[i];
        if (running > share * within) return i;
    }
    return stop - 1;
}

// logits [n] are overwritten; masses: room for n / BLOCK, rounded up. temperature 0: the first of the largest logits, with its
// log-probability at temperature 1. The log-probability is NaN where logits are not finite.
Sampled sample(float* logits, int n, float temperature, double u, float* masses) {
    bool greedy = temperature == 0;
    float peak = scale_logits(logits, n, greedy ? 1.0f : temperature);
    if (peak != peak) return {0, NAN};
    int64_t id = greedy ? std::find(logits, logits + n, peak) - logits : 0;
    double total = to_weights(logits, n, peak, masses);
    if (!greedy) id = inverse_cdf(logits, n, masses, total, u);
    return {id, (float)std::log(logits[id] / total)};
}
