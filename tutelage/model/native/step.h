// Decode steps of the whole model, and prefill, where a job's rows are the tokens of prompts. All threads run decode() or prefill()
// together; each computes its part of every product and waits where the next part reads what others wrote.

template <class W> struct Scratch {
    using In = typename W::Input;
    size_t hidden, wide, qkv_width, inner_width, vocab;  // distances between rows
    float *x, *qkv, *gate, *up, *logits, *sums, *scores, *masses;
    In *normed, *second, *attended, *inner;
};

// Few rows: every thread normalises all of them for itself, which is faster than waiting for the others.
INLINE bool alone(const Job& job) { return job.rows <= 2; }

INLINE size_t distance(int n) { return (size_t)(n + 31) / 32 * 32 + 16; }  // no power of two, whose rows would share cache sets

// Lay the buffers out from `base` on (which may be null); returns the end.
template <class W> char* lay_out(const Model& m, const Job& job, char* base, Scratch<W>& s) {
    auto take = [&](auto*& p, size_t count) {
        p = (std::remove_reference_t<decltype(p)>)base;
        base += (count * sizeof(*p) + 63) / 64 * 64;
    };
    size_t rows = job.rows, sharing = m.heads / m.kv_heads;
    s.hidden = distance(m.hidden), s.wide = distance(m.heads * m.head_dim), s.inner_width = distance(m.inner);
    s.qkv_width = distance((m.heads + 2 * m.kv_heads) * m.head_dim), s.vocab = job.logits ? m.vocab : distance(m.vocab);
    size_t copies = alone(job) ? rows * job.threads : rows;
    take(s.x, rows * s.hidden);
    take(s.qkv, rows * s.qkv_width);
    take(s.gate, rows * s.inner_width);
    take(s.up, rows * s.inner_width);
    take(s.logits, job.logits || job.owners ? 0 : rows * s.vocab);
    take(s.sums, job.threads * distance(sharing * m.head_dim));
    take(s.scores, job.threads * distance(sharing * (job.capacity + 1)));
    take(s.masses, job.threads * distance(m.vocab / BLOCK + 1));
    take(s.normed, copies * s.hidden);
    take(s.second, m.parallel ? copies * s.hidden : 0);
    take(s.attended, rows * s.wide);
    take(s.inner, rows * s.inner_width);
    if (job.logits) s.logits = job.logits;
    return base;
}

// The part of a step that one thread does.
template <class W> struct Thread {
    using In = typename W::Input;
    const Model& m;
    const Job& job;
    const Scratch<W>& s;
    int index, count;
    In *normed, *second;

    Span part(int n) const { return split(n, index, count); }

    int position(int row, int step) const { return (int)job.lengths[row] + step; }

    // x = the embeddings of the input tokens, plus those of their positions where they are learned.
    void embed(int step) const {
        Span rows = part(job.rows);
        for (int r = rows.first; r < rows.last; r++) {
            int64_t token = step ? job.ids[r * job.steps + step - 1] : job.tokens[r];
            const float* row = m.embed + token * m.hidden;
            float* x = s.x + r * s.hidden;
            memcpy(x, row, sizeof(float) * m.hidden);
            if (!m.positions) continue;
            const float* place = m.positions + (size_t)position(r, step) * m.hidden;
            for (int i = 0; i < m.hidden; i++) x[i] += place[i];
        }
        wait_for_others();
    }

    void normalise(const Norm& norm, In* to) const {
        Span rows = alone(job) ? Span{0, job.rows} : part(job.rows);
        for (int r = rows.first; r < rows.last; r++) {
            In* y = to + r * s.hidden;
            norm_row(s.x + r * s.hidden, m.hidden, norm.weight, norm.bias, m.layernorm, m.eps, y);
            for (int i = m.hidden; i < even(m.hidden); i++) y[i] = In();
        }
    }

    void all_normalised() const {
        if (!alone(job)) wait_for_others();
    }

    void multiply(const Matrix& matrix, const In* x, size_t ldx, float* y, size_t ldy, bool add) const {
        matmul<W>(matrix, part(panels(matrix.rows)), x, ldx, job.rows, y, ldy, add);
    }

    // Where a row's keys of a layer are in the cache: those of one group of heads. Its values are stride[0] further on.
    template <class Cell> Cell* keys_of(int number, int row, int group) const {
        const int64_t* stride = job.strides;  // of sides, layers, rows and heads
        int64_t owner = job.owners ? job.owners[row] : row;
        return (Cell*)job.cache + number * stride[1] + owner * stride[2] + group * stride[3];
    }

    // Norms and rotation of one row's heads that share keys, and the new key and value into the cache.
    template <class Cell> void place(const Layer& layer, int number, int row, int group, int step) const {
        int e = m.head_dim, sharing = m.heads / m.kv_heads, at = position(row, step);
        float* qkv = s.qkv + row * s.qkv_width;
        float *q = qkv + group * sharing * e, *k = qkv + (m.heads + group) * e, *v = k + m.kv_heads * e;
        const float *cos = job.cos + (size_t)at * m.rotary / 2, *sin = job.sin + (size_t)at * m.rotary / 2;
        for (int h = 0; h <= sharing; h++) {
            float* head = h < sharing ? q + h * e : k;
            const float* weight = h < sharing ? layer.q_norm : layer.k_norm;
            if (weight) norm_row(head, e, weight, nullptr, false, m.eps, head);
            if (m.rotary) rotate(head, cos, sin, m.rotary / 2);
        }
        float scale = 1 / std::sqrt((float)e);
        for (int i = 0; i < sharing * e; i++) q[i] *= scale;
        Cell* keys = keys_of<Cell>(number, row, group) + (size_t)at * e;
        Cell* values = keys + job.strides[0];
        for (int i = 0; i < e; i += LANES) {
            store_upto(keys + i, load_upto(k + i, e - i), e - i);
            store_upto(values + i, load_upto(v + i, e - i), e - i);
        }
    }

    template <class Cell> void attend_group(const Layer& layer, int number, int row, int group, int step) const {
        int e = m.head_dim, sharing = m.heads / m.kv_heads, at = position(row, step);
        int first = layer.window ? std::max(0, at + 1 - layer.window) : 0;
        const Cell* keys = keys_of<Cell>(number, row, group) + (size_t)first * e;
        const float* q = s.qkv + row * s.qkv_width + group * sharing * e;
        float* scores = s.scores + index * distance(sharing * (job.capacity + 1));
        float* sums = s.sums + index * distance(sharing * e);
        In* out = s.attended + row * s.wide + group * sharing * e;
        attend(q, sharing, e, keys, keys + job.strides[0], at + 1 - first, scores, sums, out);
        if (group == m.kv_heads - 1)
            for (int i = m.heads * e; i < even(m.heads * e); i++) s.attended[row * s.wide + i] = In();
    }

    // Calls what(row, group) for this thread's share, dealt out in turns because later tokens of a prompt have more to attend to.
    template <class What> void for_my_groups(What what) const {
        for (int i = index; i < job.rows * m.kv_heads; i += count) what(i / m.kv_heads, i % m.kv_heads);
    }

    void keys_and_values(const Layer& layer, int number, int step) const {
        multiply(layer.qkv, normed, s.hidden, s.qkv, s.qkv_width, false);
        wait_for_others();
        for_my_groups([&](int row, int group) {
            if (job.cache_bf16) place<Bf16>(layer, number, row, group, step);
            else place<float>(layer, number, row, group, step);
        });
    }

    void attention(const Layer& layer, int number, int step) const {
        keys_and_values(layer, number, step);
        if (job.owners) wait_for_others();  // a prompt's tokens attend to each other
        for_my_groups([&](int row, int group) {
            if (job.cache_bf16) attend_group<Bf16>(layer, number, row, group, step);
            else attend_group<float>(layer, number, row, group, step);
        });
        wait_for_others();
        multiply(layer.out, s.attended, s.wide, s.x, s.hidden, true);
    }

    void mlp(const Layer& layer, const In* x) const {
        if (m.gated) multiply(layer.gate, x, s.hidden, s.gate, s.inner_width, false);
        multiply(layer.up, x, s.hidden, s.up, s.inner_width, false);
        Span mine = part(panels(m.inner));  // of what this thread has just multiplied
        int first = mine.first * PANEL, width = std::min(mine.last * PANEL, m.inner) - first;
        for (int r = 0; r < job.rows; r++) {
            size_t at = r * s.inner_width + first;
            In* inner = s.inner + at;
            if (m.gated) activate_row(m.activation, s.gate + at, s.up + at, width, inner);
            else activate_row(m.activation, s.up + at, (const float*)nullptr, width, inner);
            if (first + width == m.inner && width > 0 && m.inner % 2) inner[width] = In();
        }
        wait_for_others();
        multiply(layer.down, s.inner, s.inner_width, s.x, s.hidden, true);
        wait_for_others();
    }

    void layer(int number, int step) const {
        const Layer& layer = m.layers[number];
        normalise(layer.attention_norm, normed);
        if (m.parallel) normalise(layer.mlp_norm, second);
        all_normalised();
        attention(layer, number, step);
        if (!m.parallel) {
            wait_for_others();
            normalise(layer.mlp_norm, normed);
            all_normalised();
        }
        mlp(layer, m.parallel ? second : normed);
    }

    // The next token of every row; true if the caller is to look at them before another step.
    bool choose(int step) const {
        Span rows = part(job.rows);
        for (int r = rows.first; r < rows.last; r++) {
            size_t at = (size_t)r * job.steps + step;
            float* masses = s.masses + index * distance(m.vocab / BLOCK + 1);
            Sampled next = sample(s.logits + r * s.vocab, m.vocab, job.temperatures[r], job.uniforms[at], masses);
            job.ids[at] = next.id;
            job.logprobs[at] = next.logprob;
            const int64_t* stops = job.stops + (size_t)r * job.stops_per_row;
            bool stop = std::find(stops, stops + job.stops_per_row, next.id) != stops + job.stops_per_row;
            if (stop || next.logprob != next.logprob) *job.stopped = 1;
        }
        wait_for_others();
        return *job.stopped;
    }

    // Only keys and values are wanted, so the last layer ends with them.
    void prefill() const {
        embed(0);
        int last = m.num_layers - 1;
        for (int i = 0; i < last; i++) layer(i, 0);
        normalise(m.layers[last].attention_norm, normed);
        all_normalised();
        keys_and_values(m.layers[last], last, 0);
        if (index == 0) *job.done = 1;
    }

    void decode() const {
        for (int step = 0; step < job.steps; step++) {
            embed(step);
            for (int i = 0; i < m.num_layers; i++) layer(i, step);
            normalise(m.final_norm, normed);
            all_normalised();
            multiply(m.unembed, normed, s.hidden, s.logits, s.vocab, false);
            wait_for_others();
            if (index == 0) *job.done = step + 1;
            if (job.ids && choose(step)) break;
        }
    }
};

template <class W> size_t scratch_bytes(const Model& m, const Job& job) {
    Scratch<W> s;
    return (size_t)lay_out<W>(m, job, nullptr, s);
}

template <class W> void decode(const Model& m, const Job& job, int index, int count) {
    Scratch<W> s;
    lay_out<W>(m, job, job.scratch, s);
    size_t own = alone(job) ? index * job.rows * s.hidden : 0;
    Thread<W> thread{m, job, s, index, count, s.normed + own, s.second + own};
    if (job.owners) thread.prefill();
    else thread.decode();
}
