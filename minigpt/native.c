/* How a GPT runs, told a third time: in C, for speed. What each line means stands in numpy_engine.py.

   One call takes n tokens through the model: those of a prompt, one after the other, or the next one of n texts. Each has a
   position of its own and the memory of its text. Every weight is read once for several of them.

   Everything large lies in panels: the weights of SIDE rows side by side, column by column. So a product needs one
   multiplication of vectors for each column, and no sum across a vector. Keys lie so too, with a row for each place that is
   looked at, and values, with a row for each channel: to look is to multiply twice.
   Compiled by native_engine.py, if there is a compiler. The end is for training, where a compiler is at hand (fused.py). */

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_thread_num() 0
#define omp_get_num_threads() 1
#endif

#ifdef __AVX2__
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif
#define SIDE (2 * LANES)        /* rows in a panel */
#define TOGETHER (LANES / 2)    /* tokens that a weight is used for while it is at hand, as there are registers */
#define AHEAD 8192              /* bytes that are fetched before they are needed, of what is far */
#define PANELS(rows) (((rows) + SIDE - 1) / SIDE)

typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

typedef struct {           /* y = W x + bias; W (rows, cols) */
    const float *f;        /* its panels, float32, or none: then */
    const int8_t *q;       /* int8, */
    const float *scale;    /* times a scale for each row */
    const float *bias;     /* or none */
    int rows, cols, far;   /* far: the cache does not hold it until the next token */
} Matrix;

typedef struct {
    const float *norm_1, *norm_1_bias, *norm_2, *norm_2_bias, *q_norm, *k_norm;
    Matrix qkv, proj, gate, up, down;
} Layer;

typedef struct {
    int n_layer, n_head, n_embd, block_size, modern;
    float eps;
    const float *tok_emb, *pos_emb, *norm, *norm_bias;
    const double *frequencies; /* of the turns */
    Matrix head;
    const Layer *layers;
} Model;

typedef struct {          /* what a text has read: */
    float *keys, *values; /* of each head of each layer, */
    int places;           /* so many at most */
} Memory;

typedef enum { SET, ADD, GELU, SILU, TIMES } Then; /* what becomes of a product */

/* 1 if this was compiled for threads. */
int has_threads(void) {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

/* ---- panels --------------------------------------------------------------------------------------------------------- */

/* Numbers in the panels of a matrix. */
long panel_size(int rows, int cols) { return (long)PANELS(rows) * SIDE * cols; }

/* 1 for infinity and NaN. By the bits and never as a number, for this file is compiled as if there was neither. */
static inline int strange(const float *x) {
    uint32_t bits;
    memcpy(&bits, x, sizeof bits);
    return (bits & 0x7f800000) == 0x7f800000;
}

/* 1 if all n numbers are finite. */
int all_finite(const float *x, long n, int threads) {
    int found = 0;
#pragma omp parallel for num_threads(threads) reduction(| : found)
    for (long i = 0; i < n; i++) found |= strange(x + i);
    return !found;
}

/* A panel of `count` rows of W, where a step down or right in it is `down` or `right` numbers. Rows that fill up are 0. */
static inline void pack_panel(const float *w, long down, long right, int count, int cols, float *out) {
    for (int c = 0; c < cols; c++)
        for (int k = 0; k < SIDE; k++) out[(long)c * SIDE + k] = k < count ? w[k * down + c * right] : 0;
}

/* The same, rounded to int8: W is about q * scale, and the largest of a row is 127. */
static inline void round_panel(const float *w, long down, long right, int count, int cols, int8_t *q, float *scale) {
    float most[SIDE], turned[SIDE];
    for (int k = 0; k < SIDE; k++) most[k] = 1e-30f;
    for (int c = 0; c < cols; c++)
        for (int k = 0; k < count; k++) most[k] = fmaxf(most[k], fabsf(w[k * down + c * right]));
    for (int k = 0; k < count; k++) scale[k] = most[k] / 127;
    for (int k = 0; k < SIDE; k++) turned[k] = 127 / most[k];
    for (int c = 0; c < cols; c++)
        for (int k = 0; k < SIDE; k++)
            q[(long)c * SIDE + k] = k < count ? (int8_t)rintf(w[k * down + c * right] * turned[k]) : 0;
}

/* Lay W (rows, cols) out in panels: float32 in out, or where there is none, int8 in q and scale. */
void pack(const float *w, long down, long right, int rows, int cols, float *out, int8_t *q, float *scale, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int p = 0; p < PANELS(rows); p++) {
        int count = rows - p * SIDE < SIDE ? rows - p * SIDE : SIDE, whole = down == 1 && count == SIDE; /* vectors */
        long at = (long)p * SIDE * cols;
        const float *from = w + (long)p * SIDE * down;
        if (out && whole) pack_panel(from, 1, right, SIDE, cols, out + at);
        else if (out) pack_panel(from, down, right, count, cols, out + at);
        else if (whole) round_panel(from, 1, right, SIDE, cols, q + at, scale + p * SIDE);
        else round_panel(from, down, right, count, cols, q + at, scale + p * SIDE);
    }
}

/* LANES weights: float32, or none there, int8. */
static inline Floats weights(const float *f, const int8_t *q, long at) {
    if (f) return *(const Floats *)(f + at);
#if defined(__AVX512F__)
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(q + at))));
#elif defined(__AVX2__)
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(q + at))));
#else
    return (Floats){q[at], q[at + 1], q[at + 2], q[at + 3]};
#endif
}

/* A panel times one token: x (cols,) -> out (SIDE,). Four sums at once, so that none waits for the one before. */
static inline void times_one(const float *f, const float *x, int cols, float *out) {
    Floats a = {0}, b = {0}, a2 = {0}, b2 = {0};
    int c = 0;
    for (; c + 1 < cols; c += 2) {
        a += weights(f, 0, (long)c * SIDE) * x[c];
        b += weights(f, 0, (long)c * SIDE + LANES) * x[c];
        a2 += weights(f, 0, (long)c * SIDE + SIDE) * x[c + 1];
        b2 += weights(f, 0, (long)c * SIDE + SIDE + LANES) * x[c + 1];
    }
    if (c < cols) {
        a += weights(f, 0, (long)c * SIDE) * x[c];
        b += weights(f, 0, (long)c * SIDE + LANES) * x[c];
    }
    *(Floats *)out = a + a2;
    *(Floats *)(out + LANES) = b + b2;
}

/* The same for two panels, one `apart` behind the other, or for a lone one (apart 0): the sums in the order of the columns, as
   times_several takes them, so that a text gets the same bits alone and among others. out (2, SIDE). */
static inline void times_in_order(const float *f, const int8_t *q, long apart, const float *x, int cols, float *out, int far) {
    Floats a = {0}, b = {0}, a2 = {0}, b2 = {0};
    int size = (f ? sizeof *f : sizeof *q) * SIDE; /* of a column */
    for (int c = 0; c < cols; c++) {
        long at = (long)c * SIDE;
        if (far && (size >= 64 || c % 2 == 0)) {
            const char *soon = (f ? (const char *)(f + at) : (const char *)(q + at)) + AHEAD;
            for (int byte = 0; byte < size; byte += 64) {
                __builtin_prefetch(soon + byte);
                __builtin_prefetch(soon + byte + apart * (f ? sizeof *f : sizeof *q));
            }
        }
        a += weights(f, q, at) * x[c];
        b += weights(f, q, at + LANES) * x[c];
        if (!apart) continue;
        a2 += weights(f, q, apart + at) * x[c];
        b2 += weights(f, q, apart + at + LANES) * x[c];
    }
    *(Floats *)out = a;
    *(Floats *)(out + LANES) = b;
    *(Floats *)(out + SIDE) = a2;
    *(Floats *)(out + SIDE + LANES) = b2;
}

/* A panel times several tokens: x (TOGETHER, cols) -> out (TOGETHER, SIDE). Meanwhile the cache fetches what comes next, so
   many bytes a column: the memory is idle while a panel is multiplied again and again. */
static inline void times_several(const float *f, const int8_t *q, const float *x, int cols, float *out, const char *next,
                                 long bytes) {
    Floats a[TOGETHER] = {0}, b[TOGETHER] = {0};
    for (int c = 0; c < cols; c++) {
        __builtin_prefetch(next + c * bytes, 0, 2);
        Floats left = weights(f, q, (long)c * SIDE), right = weights(f, q, (long)c * SIDE + LANES);
        for (int i = 0; i < TOGETHER; i++) {
            a[i] += left * x[(long)i * cols + c];
            b[i] += right * x[(long)i * cols + c];
        }
    }
    for (int i = 0; i < TOGETHER; i++) {
        *(Floats *)(out + i * SIDE) = a[i];
        *(Floats *)(out + i * SIDE + LANES) = b[i];
    }
}

/* exp(x) = 2^n exp(r), by the first seven terms for |r| below 0.35: wrong by 1e-7 of itself at most. Many at once, which the
   library's is not; and never infinite, for the compiler may divide by it through its reciprocal. */
static inline float quick_exp(float x) {
    x = fminf(fmaxf(x, -87), 87);
    int32_t biased = x * 1.44269504f + 127.5f; /* n + 127, rounded down from something positive */
    float r = x - (biased - 127) * 0.693147181f;
    union { int32_t bits; float number; } power = {biased << 23};
    return power.number * (1 + r * (1 + r * (1 / 2.f + r * (1 / 6.f + r * (1 / 24.f + r * (1 / 120.f + r * (1 / 720.f)))))));
}

/* Scale and bias, then what is to become of the SIDE products from row r on: into `to`. */
static inline void finish(const Matrix *m, int r, float *restrict y, float *restrict to, Then then) {
    if (m->scale)
        for (int k = 0; k < SIDE; k++) y[k] *= m->scale[r + k];
    if (m->bias)
        for (int k = 0; k < SIDE; k++) y[k] += m->bias[r + k];
    if (then == GELU) /* in its tanh form: u (1 + tanh(z)) / 2 = u / (1 + exp(-2z)) */
        for (int k = 0; k < SIDE; k++) y[k] /= 1 + quick_exp(-1.5957691f * (y[k] + 0.044715f * y[k] * y[k] * y[k]));
    if (then == SILU)
        for (int k = 0; k < SIDE; k++) y[k] /= 1 + quick_exp(-y[k]);
    int count = m->rows - r < SIDE ? m->rows - r : SIDE;
    if (then == ADD)
        for (int k = 0; k < count; k++) to[k] += y[k];
    else if (then == TIMES)
        for (int k = 0; k < count; k++) to[k] *= y[k];
    else memcpy(to, y, count * sizeof *y);
}

/* x (n, cols) Wᵀ + bias, into out (n, rows). */
static void multiply(const Matrix *m, const float *x, float *out, int n, Then then) {
    int cols = m->cols, rows = m->rows, size = m->f ? SIDE * sizeof(float) : SIDE; /* bytes of a column of a panel */
    int threads = omp_get_num_threads(), me = omp_get_thread_num(), end = (long)PANELS(rows) * (me + 1) / threads;
    for (int p = (long)PANELS(rows) * me / threads, pair; p < end; p += pair) {
        pair = p + 1 < end ? 2 : 1;
        const float *f = m->f ? m->f + (long)p * SIDE * cols : 0;
        const int8_t *q = m->q + (long)p * SIDE * cols;
        const char *next = (f ? (const char *)f : (const char *)q) + (long)size * cols; /* panel */
        long panel = (long)SIDE * cols, each = size * TOGETHER / n;                     /* of its columns, for some tokens */
        float y[TOGETHER * SIDE];
        int together = n - n % TOGETHER;
        for (int k = 0; k < pair; k++, next += (long)size * cols)
            for (int i = 0; i < together; i += TOGETHER) {
                const float *from = x + (long)i * cols;
                if (f) times_several(f + k * panel, 0, from, cols, y, next + i / TOGETHER * each * cols, each);
                else times_several(0, q + k * panel, from, cols, y, next + i / TOGETHER * each * cols, each);
                for (int j = 0; j < TOGETHER; j++)
                    finish(m, (p + k) * SIDE, y + j * SIDE, out + (long)(i + j) * rows + (p + k) * SIDE, then);
            }
        for (int i = together; i < n; i++) {
            if (f) times_in_order(f, 0, pair > 1 ? panel : 0, x + (long)i * cols, cols, y, m->far);
            else times_in_order(0, q, pair > 1 ? panel : 0, x + (long)i * cols, cols, y, m->far);
            for (int k = 0; k < pair; k++)
                finish(m, (p + k) * SIDE, y + k * SIDE, out + (long)i * rows + (p + k) * SIDE, then);
        }
    }
#pragma omp barrier
}

/* ---- the parts of a model ------------------------------------------------------------------------------------------- */

/* RMS norm, or layer norm where there is a bias. */
static void norm_one(const float *x, const float *weight, const float *bias, float eps, float *out, int size) {
    float mean = 0, square = 0;
    if (bias) {
        for (int c = 0; c < size; c++) mean += x[c];
        mean /= size;
    }
    for (int c = 0; c < size; c++) square += (x[c] - mean) * (x[c] - mean);
    float scale = 1 / sqrtf(square / size + eps);
    for (int c = 0; c < size; c++) out[c] = (x[c] - mean) * scale * weight[c] + (bias ? bias[c] : 0);
}

static void norm(const float *x, const float *weight, const float *bias, float eps, float *out, int n, int size) {
    for (int i = 0; i < n; i++) norm_one(x + (long)i * size, weight, bias, eps, out + (long)i * size, size);
}

/* Normalise a head of a query or a key and turn it by the angles of its position: pairs of channels (c, c + half). */
static void turn(const Model *m, float *x, const float *weight, const float *cosine) {
    int half = m->n_embd / m->n_head / 2;
    const float *sine = cosine + half;
    norm_one(x, weight, 0, m->eps, x, 2 * half);
    for (int c = 0; c < half; c++) {
        float left = x[c], right = x[c + half];
        x[c] = left * cosine[c] - right * sine[c];
        x[c + half] = right * cosine[c] + left * sine[c];
    }
}

/* The cosines and sines (2, half) of a position; the angles are double, see modern.py. */
static void angles(const Model *m, int position, float *turns) {
    int half = m->n_embd / m->n_head / 2;
    for (int c = 0; c < half; c++) {
        turns[c] = cos(position * m->frequencies[c]);
        turns[half + c] = sin(position * m->frequencies[c]);
    }
}

/* Remember a key and a value (hs,): a row of the keys, a column of the values. */
static void remember(const float *k, const float *v, float *keys, float *values, int place, int hs, int places) {
    for (int c = 0; c < hs; c++) keys[((long)(place / SIDE) * hs + c) * SIDE + place % SIDE] = k[c];
    for (int c = 0; c < hs; c++) values[((long)(c / SIDE) * places + place) * SIDE + c % SIDE] = v[c];
}

/* A head of a token looks at the first `seen` places of its memory: q (hs,) -> out (hs,). */
static void look(const float *q, const float *keys, const float *values, float *scores, float *out, int seen, int hs,
                 int places) {
    float sum = 0, scale = 1 / sqrtf(hs), mixed[SIDE];
    for (int p = 0; p < PANELS(seen); p++) times_one(keys + (long)p * SIDE * hs, q, hs, scores + p * SIDE);
    float most = scores[0];
    for (int s = 1; s < seen; s++) most = fmaxf(most, scores[s]);
    for (int s = 0; s < seen; s++) sum += scores[s] = quick_exp((scores[s] - most) * scale);
    for (int p = 0; p < PANELS(hs); p++) {
        times_one(values + (long)p * SIDE * places, scores, seen, mixed);
        for (int c = p * SIDE; c < hs && c < (p + 1) * SIDE; c++) out[c] = mixed[c % SIDE] / sum;
    }
}

/* Each head has a thread to itself; of one text it takes the tokens in order, so that each finds those before. */
static void attend(const Model *m, int layer, float *qkv, const int *positions, const float *turns, Memory **memories,
                   float *scores, float *out, int n) {
    int C = m->n_embd, hs = C / m->n_head, all = m->block_size;
    const Layer *l = m->layers + layer;
#pragma omp for schedule(static)
    for (int h = 0; h < m->n_head; h++)
        for (int i = 0; i < n; i++) {
            float *q = qkv + (long)i * 3 * C + h * hs, *k = q + C, *v = k + C;
            long head = (long)layer * m->n_head + h, places = memories[i]->places;
            float *keys = memories[i]->keys + head * panel_size(places, hs);
            float *values = memories[i]->values + head * panel_size(hs, places);
            if (m->modern) {
                turn(m, q, l->q_norm, turns + (long)i * hs);
                turn(m, k, l->k_norm, turns + (long)i * hs);
            }
            remember(k, v, keys, values, positions[i] % all, hs, places); /* a ring */
            look(q, keys, values, scores + (long)h * PANELS(all) * SIDE, out + (long)i * C + h * hs,
                 positions[i] < all ? positions[i] + 1 : all, hs, places);
        }
}

/* Floats of room that `forward` needs for n tokens. */
long room(const Model *m, int n, int threads) {
    int hs = m->n_embd / m->n_head;
    long seen = (long)m->n_head * PANELS(m->block_size) * SIDE;
    return n * ((5L + threads) * m->n_embd + m->layers->down.cols + hs) + seen;
}

/* Take n tokens through the model; the scores (V,) of the last `wanted` of them. */
void forward(const Model *m, int n, const int *tokens, const int *positions, Memory **memories, int wanted, float *scores,
             float *space, int threads) {
    int C = m->n_embd, hs = C / m->n_head;
    float *x = space, *qkv = x + (long)n * C, *out = qkv + 3L * n * C, *act = out + (long)n * C;
    float *turns = act + (long)n * m->layers->down.cols, *seen = turns + (long)n * hs;
    float *own = seen + (long)m->n_head * PANELS(m->block_size) * SIDE;
#pragma omp parallel num_threads(threads)
    {
        float *h = own + (long)omp_get_thread_num() * n * C; /* normalised by each thread for itself: shorter than to wait */
#pragma omp for schedule(static)
        for (int i = 0; i < n; i++) {
            for (int c = 0; c < C; c++)
                x[(long)i * C + c] = m->tok_emb[(long)tokens[i] * C + c] +
                                     (m->modern ? 0 : m->pos_emb[(long)positions[i] * C + c]);
            if (m->modern) angles(m, positions[i], turns + (long)i * hs);
        }
        for (int layer = 0; layer < m->n_layer; layer++) {
            const Layer *l = m->layers + layer;
            norm(x, l->norm_1, l->norm_1_bias, m->eps, h, n, C);
            multiply(&l->qkv, h, qkv, n, SET);
            attend(m, layer, qkv, positions, turns, memories, seen, out, n);
            multiply(&l->proj, out, x, n, ADD);
            norm(x, l->norm_2, l->norm_2_bias, m->eps, h, n, C);
            if (m->modern) multiply(&l->gate, h, act, n, SILU);
            multiply(&l->up, h, act, n, m->modern ? TIMES : GELU);
            multiply(&l->down, act, x, n, ADD);
        }
        norm(x + (long)(n - wanted) * C, m->norm, m->norm_bias, m->eps, h, wanted, C);
        multiply(&m->head, h, scores, wanted, SET);
    }
}

/* ---- for training (fused.py) ----------------------------------------------------------------------------------------- */

/* y = f(x) where torch goes over the memory several times, and what the gradient dy of y is for x. Rows and numbers are
   shared out among the threads in equal parts. */

#define GELU_A 1.5957691f  /* 2 sqrt(2 / π) */
#define GELU_B 0.044715f

/* GPT-2's GELU of n numbers: u (1 + tanh(z)) / 2 = u / (1 + exp(-2z)). */
void gelu(const float *x, float *y, long n, int threads) {
#pragma omp parallel for num_threads(threads)
    for (long i = 0; i < n; i++) y[i] = x[i] / (1 + quick_exp(-GELU_A * (x[i] + GELU_B * x[i] * x[i] * x[i])));
}

void gelu_back(const float *x, const float *dy, float *dx, long n, int threads) {
#pragma omp parallel for num_threads(threads)
    for (long i = 0; i < n; i++) {
        float square = x[i] * x[i], s = 1 / (1 + quick_exp(-GELU_A * (x[i] + GELU_B * x[i] * square)));
        dx[i] = dy[i] * s * (1 + x[i] * (1 - s) * GELU_A * (1 + 3 * GELU_B * square));
    }
}

/* SwiGLU's product of n numbers: silu(gate) * up. */
void swiglu(const float *gate, const float *up, float *y, long n, int threads) {
#pragma omp parallel for num_threads(threads)
    for (long i = 0; i < n; i++) y[i] = gate[i] * up[i] / (1 + quick_exp(-gate[i]));
}

void swiglu_back(const float *gate, const float *up, const float *dy, float *dgate, float *dup, long n, int threads) {
#pragma omp parallel for num_threads(threads)
    for (long i = 0; i < n; i++) {
        float s = 1 / (1 + quick_exp(-gate[i]));
        dup[i] = dy[i] * gate[i] * s;
        dgate[i] = dy[i] * up[i] * s * (1 + gate[i] * (1 - s));
    }
}

/* Dropout of n numbers: 0 where the random bits are below `cut`, whatever stood there; else times `by`. */
void dropout(const float *x, const int16_t *bits, float *y, long n, int cut, float by, int threads) {
#pragma omp parallel for num_threads(threads)
    for (long i = 0; i < n; i++) y[i] = bits[i] < cut ? 0 : x[i] * by;
}

/* 1 if all numbers of `count` arrays are finite. */
int all_are_finite(const float **x, const long *n, int count, int threads) {
    int found = 0;
#pragma omp parallel num_threads(threads) reduction(| : found)
    for (int k = 0; k < count; k++) {
#pragma omp for nowait
        for (long i = 0; i < n[k]; i++) found |= strange(x[k] + i);
    }
    return !found;
}

/* RMS norm of rows (n, size). scale (n,): one over the root of each row's mean square. */
void rms_norm(const float *x, const float *weight, float eps, float *y, float *scale, long n, int size, int threads) {
#pragma omp parallel for num_threads(threads)
    for (long i = 0; i < n; i++) {
        const float *from = x + i * size;
        float *to = y + i * size, square = 0;
        for (int c = 0; c < size; c++) square += from[c] * from[c];
        scale[i] = 1 / sqrtf(square / size + eps);
        for (int c = 0; c < size; c++) to[c] = from[c] * scale[i] * weight[c];
    }
}

/* dweight (threads, size), which is 0: the sum of each thread. */
void rms_norm_back(const float *x, const float *weight, const float *scale, const float *dy, float *dx, float *dweight, long n,
                   int size, int threads) {
#pragma omp parallel for num_threads(threads)
    for (long i = 0; i < n; i++) {
        const float *from = x + i * size, *grad = dy + i * size;
        float *to = dx + i * size, *mine = dweight + (long)omp_get_thread_num() * size, along = 0, s = scale[i];
        for (int c = 0; c < size; c++) along += grad[c] * weight[c] * from[c];
        along *= s * s / size;
        for (int c = 0; c < size; c++) {
            mine[c] += grad[c] * from[c] * s;
            to[c] = s * (grad[c] * weight[c] - from[c] * along);
        }
    }
}

/* The same for each head of queries or keys, which then turn by their position: x (n tokens, heads, size), a step of `step`
   numbers from token to token, token i at position i % T. cosine, sine (T, half). y (n, heads, size), scale (n, heads). */
void norm_and_turn(const float *x, long step, const float *weight, float eps, const float *cosine, const float *sine, float *y,
                   float *scale, long n, int T, int heads, int size, int threads) {
    int half = size / 2;
#pragma omp parallel for num_threads(threads)
    for (long i = 0; i < n; i++) {
        const float *c = cosine + i % T * half, *s = sine + i % T * half;
        for (int h = 0; h < heads; h++) {
            const float *left = x + i * step + h * size, *right = left + half;
            float *to = y + (i * heads + h) * size, square = 0;
            for (int k = 0; k < size; k++) square += left[k] * left[k];
            float by = scale[i * heads + h] = 1 / sqrtf(square / size + eps);
            for (int k = 0; k < half; k++) {
                float l = left[k] * by * weight[k], r = right[k] * by * weight[half + k];
                to[k] = l * c[k] - r * s[k];
                to[half + k] = r * c[k] + l * s[k];
            }
        }
    }
}

void norm_and_turn_back(const float *x, long step, const float *weight, const float *scale, const float *cosine, const float *sine,
                        const float *dy, float *dx, float *dweight, long n, int T, int heads, int size, int threads) {
    int half = size / 2;
#pragma omp parallel for num_threads(threads)
    for (long i = 0; i < n; i++) {
        const float *c = cosine + i % T * half, *s = sine + i % T * half;
        float *mine = dweight + (long)omp_get_thread_num() * size;
        for (int h = 0; h < heads; h++) {
            const float *left = x + i * step + h * size, *right = left + half, *grad = dy + (i * heads + h) * size;
            float *to = dx + (i * heads + h) * size, by = scale[i * heads + h], along = 0;
            for (int k = 0; k < half; k++) { /* turned back; */
                float l = grad[k] * c[k] + grad[half + k] * s[k], r = grad[half + k] * c[k] - grad[k] * s[k];
                mine[k] += l * left[k] * by;
                mine[half + k] += r * right[k] * by;
                to[k] = l * weight[k];
                to[half + k] = r * weight[half + k];
                along += to[k] * left[k] + to[half + k] * right[k];
            }
            along *= by * by / size;
            for (int k = 0; k < size; k++) to[k] = by * (to[k] - left[k] * along);
        }
    }
}
