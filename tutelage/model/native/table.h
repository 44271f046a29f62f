// What decode.cpp calls of one instruction set: the steps, packing, and single kernels for the tests.

// The input of a product by weights of a kind, from floats: `room` [rows, distance(k)].
template <class W> void matmul_of_floats(const Matrix& m, const float* x, int rows, float* y, bool add, Span span, void* room) {
    auto in = (typename W::Input*)room;
    size_t ld = distance(m.cols);
    memset(room, 0, rows * ld * sizeof(*in));
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < m.cols; i += LANES)
            store_upto(in + r * ld + i, load_upto(x + (size_t)r * m.cols + i, m.cols - i), m.cols - i);
    matmul<W>(m, span, in, ld, rows, y, m.rows, add);
}

void attend_floats(const float* q, int heads, int e, const void* k, const void* v, bool bf16, int n, float* room, float* out) {
    float* sums = room + (size_t)heads * (n + 1);
    if (bf16) attend(q, heads, e, (const Bf16*)k, (const Bf16*)v, n, room, sums, out);
    else attend(q, heads, e, (const float*)k, (const float*)v, n, room, sums, out);
}

void activate_floats(int activation, const float* gate, const float* up, int n, float* out) {
    activate_row(activation, gate, up, n, out);
}

void norm_floats(const float* x, int n, const float* weight, const float* bias, bool centre, float eps, float* y) {
    norm_row(x, n, weight, bias, centre, eps, y);
}

void rotate_floats(float* x, const float* cos, const float* sin, int half) { rotate(x, cos, sin, half); }

int64_t sample_floats(float* logits, int n, float temperature, double u, float* masses, float* logprob) {
    Sampled next = sample(logits, n, temperature, u, masses);
    *logprob = next.logprob;
    return next.id;
}

const Kernels table = {
    PANEL,
    pack,
    {scratch_bytes<Fp32>, scratch_bytes<Bf16Weights>, scratch_bytes<Int8>},
    {decode<Fp32>, decode<Bf16Weights>, decode<Int8>},
    {matmul_of_floats<Fp32>, matmul_of_floats<Bf16Weights>, matmul_of_floats<Int8>},
    attend_floats,
    activate_floats,
    norm_floats,
    rotate_floats,
    sample_floats,
};
