/* How a GPT runs, told a third time: in C, for speed. What each line means stands in numpy_engine.py.

   One call takes n tokens through the model: those of a prompt, one after the other, or the next one of n texts. Each has a
   place of its own (`positions`) and a memory (`keys`, `values`). Every weight is read once for all n of them.
   Compiled by native_engine.py, if there is a compiler; nothing else needs it. */

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef struct {           /* y = W x + bias; W (rows, cols) */
    const float *f;        /* float32, or none: then */
    const int8_t *q;       /* int8, */
    const float *scale;    /* times a scale for each row */
    const float *bias;     /* or none */
    int rows, cols;
} Matrix;

typedef struct {
    const float *norm_1, *norm_1_bias, *norm_2, *norm_2_bias, *q_norm, *k_norm;
    Matrix qkv, proj, up, down;
} Layer;

typedef struct {
    int n_layer, n_head, n_embd, block_size, modern;
    float eps;
    const float *tok_emb, *pos_emb, *norm, *norm_bias, *cos, *sin;
    Matrix head;
    const Layer *layers;
} Model;

static inline float dot(const float *restrict a, const float *restrict b, int n) {
    float sum = 0;
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static inline float dot_int8(const int8_t *restrict a, const float *restrict b, int n) {
    float sum = 0;
    for (int i = 0; i < n; i++) sum += (float)a[i] * b[i];
    return sum;
}

/* out (n, rows) = x (n, cols) Wᵀ + bias; or added to what is there. */
static void multiply(const Matrix *m, const float *x, float *out, int n, int add) {
#pragma omp for schedule(static)
    for (int r = 0; r < m->rows; r++)
        for (int i = 0; i < n; i++) {
            const float *in = x + (long)i * m->cols;
            long row = (long)r * m->cols;
            float y = m->f ? dot(m->f + row, in, m->cols) : m->scale[r] * dot_int8(m->q + row, in, m->cols);
            if (m->bias) y += m->bias[r];
            float *to = out + (long)i * m->rows + r;
            *to = add ? *to + y : y;
        }
}

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
#pragma omp for schedule(static)
    for (int i = 0; i < n; i++) norm_one(x + (long)i * size, weight, bias, eps, out + (long)i * size, size);
}

/* Normalise a head of a query or a key and turn it by its position: pairs of channels (c, c + half). */
static void turn(const Model *m, float *x, const float *weight, int position) {
    int half = m->n_embd / m->n_head / 2;
    const float *cosine = m->cos + (long)position * half, *sine = m->sin + (long)position * half;
    norm_one(x, weight, 0, m->eps, x, 2 * half);
    for (int c = 0; c < half; c++) {
        float left = x[c], right = x[c + half];
        x[c] = left * cosine[c] - right * sine[c];
        x[c + half] = right * cosine[c] + left * sine[c];
    }
}

/* A head of a token looks at all that its memory holds up to its own place. */
static void look(const float *q, const float *keys, const float *values, float *scores, float *out, int places, int hs) {
    float most = -INFINITY, sum = 0, scale = 1 / sqrtf(hs);
    for (int s = 0; s < places; s++) {
        scores[s] = dot(q, keys + (long)s * hs, hs) * scale;
        if (scores[s] > most) most = scores[s];
    }
    for (int s = 0; s < places; s++) sum += scores[s] = expf(scores[s] - most);
    memset(out, 0, hs * sizeof(float));
    for (int s = 0; s < places; s++) {
        float weight = scores[s] / sum;
        for (int c = 0; c < hs; c++) out[c] += weight * values[(long)s * hs + c];
    }
}

static void attend(const Model *m, int layer, float *qkv, const int *positions, float **keys, float **values, float *scores,
                   float *out, int n) {
    int nh = m->n_head, C = m->n_embd, hs = C / nh;
    const Layer *l = m->layers + layer;
#pragma omp for schedule(static)
    for (int j = 0; j < n * nh; j++) {
        int i = j / nh, h = j % nh;
        float *q = qkv + (long)i * 3 * C + h * hs, *k = q + C, *v = k + C;
        if (m->modern) {
            turn(m, q, l->q_norm, positions[i]);
            turn(m, k, l->k_norm, positions[i]);
        }
        long place = (((long)layer * nh + h) * m->block_size + positions[i]) * hs;
        memcpy(keys[i] + place, k, hs * sizeof(float));
        memcpy(values[i] + place, v, hs * sizeof(float));
    }
#pragma omp for schedule(static)
    for (int j = 0; j < n * nh; j++) {
        int i = j / nh, h = j % nh;
        long begin = ((long)layer * nh + h) * m->block_size * hs;
        look(qkv + (long)i * 3 * C + h * hs, keys[i] + begin, values[i] + begin, scores + (long)j * m->block_size,
             out + (long)i * C + h * hs, positions[i] + 1, hs);
    }
}

/* GELU in its tanh form; or silu of the first half times the second. x (n, width) or (n, 2 width) -> out (n, width). */
static void activate(const float *x, float *out, int n, int width, int modern) {
#pragma omp for schedule(static)
    for (int i = 0; i < n; i++)
        for (int c = 0; c < width; c++) {
            if (modern) {
                float gate = x[(long)i * 2 * width + c];
                out[(long)i * width + c] = gate / (1 + expf(-gate)) * x[(long)i * 2 * width + width + c];
            } else {
                float up = x[(long)i * width + c];
                out[(long)i * width + c] = 0.5f * up * (1 + tanhf(0.79788456f * (up + 0.044715f * up * up * up)));
            }
        }
}

/* Floats of room that `forward` needs for n tokens. */
long room(const Model *m, int n) {
    const Layer *l = m->layers;
    return (long)n * (6L * m->n_embd + l->up.rows + l->down.cols + (long)m->n_head * m->block_size);
}

/* Take n tokens through the model; the scores (V,) of the last `wanted` of them. */
void forward(const Model *m, int n, const int *tokens, const int *positions, float **keys, float **values, int wanted,
             float *scores, float *space, int threads) {
    int C = m->n_embd, width = m->layers->down.cols;
    float *x = space, *h = x + (long)n * C, *qkv = h + (long)n * C, *out = qkv + 3L * n * C;
    float *up = out + (long)n * C, *act = up + (long)n * m->layers->up.rows, *seen = act + (long)n * width;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int i = 0; i < n; i++)
            for (int c = 0; c < C; c++)
                x[(long)i * C + c] = m->tok_emb[(long)tokens[i] * C + c] +
                                     (m->modern ? 0 : m->pos_emb[(long)positions[i] * C + c]);
        for (int layer = 0; layer < m->n_layer; layer++) {
            const Layer *l = m->layers + layer;
            norm(x, l->norm_1, l->norm_1_bias, m->eps, h, n, C);
            multiply(&l->qkv, h, qkv, n, 0);
            attend(m, layer, qkv, positions, keys, values, seen, out, n);
            multiply(&l->proj, out, x, n, 1);
            norm(x, l->norm_2, l->norm_2_bias, m->eps, h, n, C);
            multiply(&l->up, h, up, n, 0);
            activate(up, act, n, width, m->modern);
            multiply(&l->down, act, x, n, 1);
        }
        norm(x + (long)(n - wanted) * C, m->norm, m->norm_bias, m->eps, h, wanted, C);
        multiply(&m->head, h, scores, wanted, 0);
    }
}
