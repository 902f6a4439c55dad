/* The functions that to_c writes into a header: those that a network needs, in this order, with dn_ and DN_ replaced by
 * the file's own prefix. A line "//-- name" begins the part of that name. Maps are laid out row by row, channels last.
 */

//-- windows
/* Where windows stand on a map (E6): H x W x C units, P x Q windows with D results each, k1 x k2 taps; window (p, q)
 * reads unit (p*s1 + m*r1 - top, q*s2 + n*r2 - left) for its tap (m, n). What lies beside the map is padding. */
typedef struct {
    int H, W, C, P, Q, D, k1, k2, s1, s2, r1, r2, top, left, bottom, right, groups;
} dn_windows;

/* The unit under a tap as a place in the map; -1 beside the map. */
static inline int dn_row(const dn_windows *at, int p, int m)
{
    const int i = p * at->s1 + m * at->r1 - at->top;
    return i < at->H ? i : -1;
}

static inline int dn_column(const dn_windows *at, int q, int n)
{
    const int j = q * at->s2 + n * at->r2 - at->left;
    return j < at->W ? j : -1;
}

//-- conv2d
/* E6  y[p,q,d] = b[d] + sum over m, n, c of w[m,n,c,d] x[row(p,m), column(q,n), c], for one group after another */
static inline void dn_conv2d(const float *x, float *y, const float *w, const float *b, const dn_windows *at)
{
    const int Cg = at->C / at->groups, Dg = at->D / at->groups;
    int p, q, m, n, g, c, d;
    for (p = 0; p < at->P; p++)
        for (q = 0; q < at->Q; q++, y += at->D) {
            for (d = 0; d < at->D; d++) y[d] = b ? b[d] : 0.0f;
            for (m = 0; m < at->k1; m++)
                for (n = 0; n < at->k2; n++) {
                    const int i = dn_row(at, p, m), j = dn_column(at, q, n);
                    if (i < 0 || j < 0) continue; /* padding is 0 */
                    for (g = 0; g < at->groups; g++)
                        for (c = 0; c < Cg; c++) {
                            const float unit = x[((size_t)i * at->W + j) * at->C + g * Cg + c];
                            const float *row = w + ((size_t)(m * at->k2 + n) * Cg + c) * at->D + g * Dg;
                            for (d = 0; d < Dg; d++) y[g * Dg + d] += unit * row[d];
                        }
                }
        }
}

//-- conv2d_backward
/* E13  dx[i,j,c] += sum of w[m,n,c,d] dy[p,q,d];  E11  dw[m,n,c,d] = sum of x[i,j,c] dy[p,q,d];  E12  db[d] = sum of
 * dy[p,q,d].  E17  w -= lr dw, b -= lr db, when dx is known. Without dx (NULL) nobody asks for it. */
static inline void dn_conv2d_backward(const float *x, const float *dy, float *dx, float *w, float *b,
                                      const dn_windows *at, float lr)
{
    const int Cg = at->C / at->groups, Dg = at->D / at->groups;
    int p, q, m, n, g, c, d;
    for (m = 0; m < at->k1; m++)
        for (n = 0; n < at->k2; n++)
            for (g = 0; g < at->groups; g++)
                for (c = 0; c < Cg; c++) {
                    float *row = w + ((size_t)(m * at->k2 + n) * Cg + c) * at->D + g * Dg;
                    float *dw = dn_gradient; /* of this row */
                    for (d = 0; d < Dg; d++) dw[d] = 0.0f;
                    for (p = 0; p < at->P; p++)
                        for (q = 0; q < at->Q; q++) {
                            const int i = dn_row(at, p, m), j = dn_column(at, q, n);
                            const float *delta = dy + ((size_t)p * at->Q + q) * at->D + g * Dg;
                            size_t place;
                            float sum = 0.0f;
                            if (i < 0 || j < 0) continue;
                            place = ((size_t)i * at->W + j) * at->C + g * Cg + c;
                            for (d = 0; d < Dg; d++) {
                                sum += row[d] * delta[d];     /* E13 */
                                dw[d] += x[place] * delta[d]; /* E11 */
                            }
                            if (dx) dx[place] += sum;
                        }
                    for (d = 0; d < Dg; d++) row[d] -= lr * dw[d]; /* E17: no other row needs this one */
                }
    if (!b) return;
    for (d = 0; d < at->D; d++) {
        float sum = 0.0f;
        for (p = 0; p < at->P * at->Q; p++) sum += dy[(size_t)p * at->D + d]; /* E12 */
        b[d] -= lr * sum;                                                     /* E17 */
    }
}

//-- conv2d_transpose
/* The adjoint of a convolution from a map H x W x C to P x Q x D, used forward: every unit x[p,q,d] adds its filter
 * to the map (E13), which starts as the bias. */
static inline void dn_conv2d_transpose(const float *x, float *y, const float *w, const float *b, const dn_windows *at)
{
    const int Cg = at->C / at->groups, Dg = at->D / at->groups;
    int p, q, m, n, g, c, d;
    for (p = 0; p < at->H * at->W; p++)
        for (c = 0; c < at->C; c++) y[(size_t)p * at->C + c] = b ? b[c] : 0.0f;
    for (p = 0; p < at->P; p++)
        for (q = 0; q < at->Q; q++, x += at->D)
            for (m = 0; m < at->k1; m++)
                for (n = 0; n < at->k2; n++) {
                    const int i = dn_row(at, p, m), j = dn_column(at, q, n);
                    if (i < 0 || j < 0) continue; /* it would fall beside the map */
                    for (g = 0; g < at->groups; g++)
                        for (c = 0; c < Cg; c++) {
                            const float *row = w + ((size_t)(m * at->k2 + n) * Cg + c) * at->D + g * Dg;
                            float sum = 0.0f;
                            for (d = 0; d < Dg; d++) sum += x[g * Dg + d] * row[d];
                            y[((size_t)i * at->W + j) * at->C + g * Cg + c] += sum;
                        }
                }
}

//-- max_pool
/* E8  the largest unit of every window; padding never wins, and a NaN wins over any number */
static inline void dn_max_pool(const float *x, float *y, const dn_windows *at)
{
    int p, q, m, n, c;
    for (p = 0; p < at->P; p++)
        for (q = 0; q < at->Q; q++)
            for (c = 0; c < at->C; c++) {
                float largest = -INFINITY;
                for (m = 0; m < at->k1; m++)
                    for (n = 0; n < at->k2; n++) {
                        const int i = dn_row(at, p, m), j = dn_column(at, q, n);
                        if (i >= 0 && j >= 0) {
                            const float unit = x[((size_t)i * at->W + j) * at->C + c];
                            if (unit > largest || unit != unit) largest = unit;
                        }
                    }
                *y++ = largest;
            }
}

//-- max_pool_backward
/* E15  the whole error of a window goes to its largest unit, the first of equals */
static inline void dn_max_pool_backward(const float *x, const float *dy, float *dx, const dn_windows *at)
{
    int p, q, m, n, c;
    for (p = 0; p < at->P; p++)
        for (q = 0; q < at->Q; q++)
            for (c = 0; c < at->C; c++) {
                size_t winner = 0;
                int found = 0;
                for (m = 0; m < at->k1; m++)
                    for (n = 0; n < at->k2; n++) {
                        const int i = dn_row(at, p, m), j = dn_column(at, q, n);
                        if (i >= 0 && j >= 0) {
                            const size_t place = ((size_t)i * at->W + j) * at->C + c;
                            if (!found || x[place] > x[winner]) winner = place;
                            found = 1;
                        }
                    }
                dx[winner] += *dy++;
            }
}

//-- units_of
/* M, the number of units in a window: those on the map; with its padding too if that counts as part of the map. */
static inline int dn_units_of(const dn_windows *at, int p, int q, int count_include_pad)
{
    const int pad = count_include_pad ? 1 : 0;
    int m, n, rows = 0, columns = 0;
    for (m = 0; m < at->k1; m++) {
        const int i = p * at->s1 + m * at->r1 - at->top;
        rows += i >= -pad * at->top && i < at->H + pad * at->bottom;
    }
    for (n = 0; n < at->k2; n++) {
        const int j = q * at->s2 + n * at->r2 - at->left;
        columns += j >= -pad * at->left && j < at->W + pad * at->right;
    }
    return rows * columns;
}

//-- average_pool
/* E8  the mean of every window */
static inline void dn_average_pool(const float *x, float *y, const dn_windows *at, int count_include_pad)
{
    int p, q, m, n, c;
    for (p = 0; p < at->P; p++)
        for (q = 0; q < at->Q; q++) {
            const float M = (float)dn_units_of(at, p, q, count_include_pad);
            for (c = 0; c < at->C; c++) {
                float sum = 0.0f;
                for (m = 0; m < at->k1; m++)
                    for (n = 0; n < at->k2; n++) {
                        const int i = dn_row(at, p, m), j = dn_column(at, q, n);
                        if (i >= 0 && j >= 0) sum += x[((size_t)i * at->W + j) * at->C + c];
                    }
                *y++ = sum / M;
            }
        }
}

//-- average_pool_backward
/* E15  every unit of a window gets 1 / M of its error */
static inline void dn_average_pool_backward(const float *dy, float *dx, const dn_windows *at, int count_include_pad)
{
    int p, q, m, n, c;
    for (p = 0; p < at->P; p++)
        for (q = 0; q < at->Q; q++) {
            const float M = (float)dn_units_of(at, p, q, count_include_pad);
            for (c = 0; c < at->C; c++, dy++)
                for (m = 0; m < at->k1; m++)
                    for (n = 0; n < at->k2; n++) {
                        const int i = dn_row(at, p, m), j = dn_column(at, q, n);
                        if (i >= 0 && j >= 0) dx[((size_t)i * at->W + j) * at->C + c] += *dy / M;
                    }
        }
}

//-- l2_pool
/* E8  the Euclidean length of every window, measured in its largest unit, so that no square overflows or vanishes */
static inline void dn_l2_pool(const float *x, float *y, const dn_windows *at)
{
    int p, q, m, n, c, again;
    for (p = 0; p < at->P; p++)
        for (q = 0; q < at->Q; q++)
            for (c = 0; c < at->C; c++) {
                float largest = 0.0f, squares = 0.0f;
                for (again = 0; again < 2; again++) {
                    for (m = 0; m < at->k1; m++)
                        for (n = 0; n < at->k2; n++) {
                            const int i = dn_row(at, p, m), j = dn_column(at, q, n);
                            if (i >= 0 && j >= 0) {
                                const float unit = fabsf(x[((size_t)i * at->W + j) * at->C + c]);
                                if (again) squares += (unit / largest) * (unit / largest);
                                else if (unit > largest) largest = unit;
                            }
                        }
                    if (largest == 0.0f || largest > FLT_MAX) largest = 1.0f;
                }
                *y++ = largest * sqrtf(squares);
            }
}

//-- global_average_pool
/* E8  the mean of every channel, row by row */
static inline void dn_global_average_pool(const float *x, float *y, int H, int W, int C)
{
    int i, j, c;
    for (c = 0; c < C; c++) {
        float sum = 0.0f;
        for (i = 0; i < H; i++) {
            float row = 0.0f;
            for (j = 0; j < W; j++) row += x[((size_t)i * W + j) * C + c];
            sum += row / (float)W;
        }
        y[c] = sum / (float)H;
    }
}

//-- global_average_pool_backward
/* E15  every unit gets 1 / (H W) of its channel's error */
static inline void dn_global_average_pool_backward(const float *dy, float *dx, int H, int W, int C)
{
    int i, c;
    for (i = 0; i < H * W; i++)
        for (c = 0; c < C; c++) dx[(size_t)i * C + c] += dy[c] / (float)(H * W);
}

//-- global_max_pool
/* E8  the largest unit of every channel */
static inline void dn_global_max_pool(const float *x, float *y, int H, int W, int C)
{
    int i, c;
    for (c = 0; c < C; c++) {
        y[c] = x[c];
        for (i = 1; i < H * W; i++) {
            const float unit = x[(size_t)i * C + c];
            if (unit > y[c] || (unit != unit && y[c] == y[c])) y[c] = unit;
        }
    }
}

//-- global_max_pool_backward
/* E15  the whole error goes to the largest unit, the first of equals */
static inline void dn_global_max_pool_backward(const float *x, const float *dy, float *dx, int H, int W, int C)
{
    int i, c;
    for (c = 0; c < C; c++) {
        size_t winner = (size_t)c;
        for (i = 1; i < H * W; i++)
            if (x[(size_t)i * C + c] > x[winner]) winner = (size_t)i * C + c;
        dx[winner] += dy[c];
    }
}

//-- dense
/* E9  y[u] = b[u] + sum over k of x[k] w[k,u], for every row of x */
static inline void dn_dense(const float *x, float *y, const float *w, const float *b, int rows, int K, int units)
{
    int r, k, u;
    for (r = 0; r < rows; r++, x += K, y += units) {
        for (u = 0; u < units; u++) y[u] = b ? b[u] : 0.0f;
        for (k = 0; k < K; k++)
            for (u = 0; u < units; u++) y[u] += x[k] * w[(size_t)k * units + u];
    }
}

//-- dense_backward
/* E16  dx[k] += sum of w[k,u] dy[u];  dw[k,u] = x[k] dy[u];  db[u] = dy[u], summed over rows.  E17  w -= lr dw */
static inline void dn_dense_backward(const float *x, const float *dy, float *dx, float *w, float *b, int rows, int K,
                                     int units, float lr)
{
    int r, k, u;
    for (k = 0; k < K; k++) {
        float *row = w + (size_t)k * units;
        for (r = 0; dx && r < rows; r++) {
            float sum = 0.0f;
            for (u = 0; u < units; u++) sum += row[u] * dy[(size_t)r * units + u]; /* E16 */
            dx[(size_t)r * K + k] += sum;
        }
        for (u = 0; u < units; u++) {
            float sum = 0.0f;
            for (r = 0; r < rows; r++) sum += x[(size_t)r * K + k] * dy[(size_t)r * units + u]; /* E16 */
            row[u] -= lr * sum;                                                                 /* E17 */
        }
    }
    for (u = 0; b && u < units; u++) {
        float sum = 0.0f;
        for (r = 0; r < rows; r++) sum += dy[(size_t)r * units + u]; /* E16 */
        b[u] -= lr * sum;                                            /* E17 */
    }
}

//-- relu
/* E7  max(0, x); NaN stays NaN */
static inline void dn_relu(const float *x, float *y, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) y[i] = x[i] < 0.0f ? 0.0f : x[i];
}

//-- relu_backward
/* E14  dy where y > 0 */
static inline void dn_relu_backward(const float *y, const float *dy, float *dx, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++)
        if (y[i] > 0.0f) dx[i] += dy[i];
}

//-- leaky_relu
/* E7  x above zero, alpha x below */
static inline void dn_leaky_relu(const float *x, float *y, size_t n, float alpha)
{
    size_t i;
    for (i = 0; i < n; i++) y[i] = x[i] < 0.0f ? (alpha > 0.0f ? alpha * x[i] : 0.0f) : x[i];
}

//-- leaky_relu_backward
/* E14  dy where y > 0, else alpha dy */
static inline void dn_leaky_relu_backward(const float *y, const float *dy, float *dx, size_t n, float alpha)
{
    size_t i;
    for (i = 0; i < n; i++) dx[i] += y[i] > 0.0f ? dy[i] : (alpha > 0.0f ? alpha * dy[i] : 0.0f);
}

//-- elu
/* E7  x above zero, alpha (e^x - 1) below */
static inline void dn_elu(const float *x, float *y, size_t n, float alpha)
{
    size_t i;
    for (i = 0; i < n; i++) y[i] = x[i] < 0.0f ? alpha * expm1f(x[i]) : x[i];
}

//-- elu_backward
/* E14  dy where y > 0, else dy (y + alpha) */
static inline void dn_elu_backward(const float *y, const float *dy, float *dx, size_t n, float alpha)
{
    size_t i;
    for (i = 0; i < n; i++) dx[i] += y[i] > 0.0f ? dy[i] : (alpha > 0.0f ? dy[i] * (y[i] + alpha) : 0.0f);
}

//-- logistic
/* 1 / (1 + e^-x), with a power that does not overflow */
static inline float dn_logistic(float x)
{
    const float e = expf(-fabsf(x));
    return (x > 0.0f ? 1.0f : e) / (1.0f + e);
}

//-- sigmoid
/* E7  1 / (1 + e^-x) */
static inline void dn_sigmoid(const float *x, float *y, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) y[i] = dn_logistic(x[i]);
}

//-- sigmoid_backward
/* E14  dy y (1 - y) */
static inline void dn_sigmoid_backward(const float *y, const float *dy, float *dx, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) dx[i] += dy[i] * (y[i] * (1.0f - y[i]));
}

//-- tanh
/* E7  tanh x */
static inline void dn_tanh(const float *x, float *y, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) y[i] = tanhf(x[i]);
}

//-- tanh_backward
/* E14  dy (1 - y^2) */
static inline void dn_tanh_backward(const float *y, const float *dy, float *dx, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) dx[i] += dy[i] * ((1.0f - y[i]) * (1.0f + y[i]));
}

//-- softplus
/* E7  log(1 + e^x) = max(0, x) + log(1 + e^-|x|) */
static inline void dn_softplus(const float *x, float *y, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) y[i] = (x[i] < 0.0f ? 0.0f : x[i]) + log1pf(expf(-fabsf(x[i])));
}

//-- softplus_backward
/* E14  dy (1 - e^-y) */
static inline void dn_softplus_backward(const float *y, const float *dy, float *dx, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) dx[i] -= dy[i] * expm1f(-y[i]);
}

//-- silu
/* E7  x sigma(x); sigma is 0 at -800 */
static inline void dn_silu(const float *x, float *y, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) y[i] = (x[i] < -800.0f ? -800.0f : x[i]) * dn_logistic(x[i]);
}

//-- silu_backward
/* E14  dy sigma (1 + x (1 - sigma)) */
static inline void dn_silu_backward(const float *x, const float *dy, float *dx, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) {
        const float u = x[i] < -800.0f ? -800.0f : x[i] > 800.0f ? 800.0f : x[i], gate = dn_logistic(u);
        dx[i] += dy[i] * (gate * (1.0f + u * (1.0f - gate)));
    }
}

//-- normal_cdf
/* Phi(x), the share of the normal distribution below x */
static inline float dn_normal_cdf(float x)
{
    return 0.5f * erfcf(-0.707106781186547524f * x);
}

//-- gelu
/* E7  x Phi(x); Phi is 0 at -40 */
static inline void dn_gelu(const float *x, float *y, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) y[i] = (x[i] < -40.0f ? -40.0f : x[i]) * dn_normal_cdf(x[i]);
}

//-- gelu_backward
/* E14  dy (Phi(x) + x phi(x)) with the density phi */
static inline void dn_gelu_backward(const float *x, const float *dy, float *dx, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) {
        const float u = x[i] < -40.0f ? -40.0f : x[i] > 40.0f ? 40.0f : x[i];
        dx[i] += dy[i] * (dn_normal_cdf(u) + u * 0.398942280401432678f * expf(-0.5f * u * u));
    }
}

//-- gelu_tanh
/* E7  x sigma(2v), v = sqrt(2/pi) (x + 0.044715 x^3), close to x Phi(x) */
static inline void dn_gelu_tanh(const float *x, float *y, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) {
        const float u = x[i] < -40.0f ? -40.0f : x[i] > 40.0f ? 40.0f : x[i];
        y[i] = (x[i] < -40.0f ? -40.0f : x[i]) * dn_logistic(1.59576912160573071f * (u + 0.044715f * u * u * u));
    }
}

//-- gelu_tanh_backward
/* E14  dy (sigma + x sigma' 2v') */
static inline void dn_gelu_tanh_backward(const float *x, const float *dy, float *dx, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) {
        const float u = x[i] < -40.0f ? -40.0f : x[i] > 40.0f ? 40.0f : x[i];
        const float gate = dn_logistic(1.59576912160573071f * (u + 0.044715f * u * u * u));
        const float slope = 1.59576912160573071f * (1.0f + 0.134145f * u * u);
        dx[i] += dy[i] * (gate + u * gate * (1.0f - gate) * slope);
    }
}

//-- softmax
/* E7  e^x[i] / sum of e^x[j] along an axis of n, whose neighbours lie inner apart; no power overflows */
static inline void dn_softmax(const float *x, float *y, int outer, int n, int inner)
{
    int o, i, k;
    for (o = 0; o < outer; o++)
        for (i = 0; i < inner; i++) {
            const size_t first = (size_t)o * n * inner + i;
            float top = x[first], sum = 0.0f;
            for (k = 1; k < n; k++)
                if (x[first + (size_t)k * inner] > top) top = x[first + (size_t)k * inner];
            for (k = 0; k < n; k++) {
                const float u = x[first + (size_t)k * inner];
                sum += y[first + (size_t)k * inner] = u == top ? 1.0f : expf(u - top);
            }
            for (k = 0; k < n; k++) y[first + (size_t)k * inner] /= sum;
        }
}

//-- log_softmax
/* E7  x[i] - log of the sum of e^x[j] along an axis of n, whose neighbours lie inner apart */
static inline void dn_log_softmax(const float *x, float *y, int outer, int n, int inner)
{
    int o, i, k;
    for (o = 0; o < outer; o++)
        for (i = 0; i < inner; i++) {
            const size_t first = (size_t)o * n * inner + i;
            float top = x[first], sum = 0.0f;
            for (k = 1; k < n; k++)
                if (x[first + (size_t)k * inner] > top) top = x[first + (size_t)k * inner];
            for (k = 0; k < n; k++) {
                const float u = x[first + (size_t)k * inner];
                y[first + (size_t)k * inner] = u == top ? 0.0f : u - top;
                sum += expf(y[first + (size_t)k * inner]);
            }
            for (k = 0; k < n; k++) y[first + (size_t)k * inner] -= logf(sum);
        }
}

//-- batch_norm
/* y = gamma (x - mean) / s + beta, one of each per channel; inverse is 1/s. gamma and beta are 1 and 0 if NULL. */
static inline void dn_batch_norm(const float *x, float *y, const float *gamma, const float *beta, const float *mean,
                                 const float *inverse, int positions, int C)
{
    int p, c;
    for (p = 0; p < positions; p++, x += C, y += C)
        for (c = 0; c < C; c++)
            y[c] = (x[c] - mean[c]) * ((gamma ? gamma[c] : 1.0f) * inverse[c]) + (beta ? beta[c] : 0.0f);
}

//-- batch_norm_backward
/* dx += dy gamma / s: mean and s are constants.  dgamma = sum of dy (x - mean) / s;  E12  dbeta = sum of dy;  E17 */
static inline void dn_batch_norm_backward(const float *x, const float *dy, float *dx, float *gamma, float *beta,
                                          const float *mean, const float *inverse, int positions, int C, float lr)
{
    int p, c;
    for (c = 0; c < C; c++) {
        float dgamma = 0.0f, dbeta = 0.0f;
        for (p = 0; p < positions; p++) {
            const size_t place = (size_t)p * C + c;
            dgamma += dy[place] * (x[place] - mean[c]) * inverse[c];
            dbeta += dy[place]; /* E12 */
            if (dx) dx[place] += dy[place] * ((gamma ? gamma[c] : 1.0f) * inverse[c]);
        }
        if (gamma) gamma[c] -= lr * dgamma; /* E17 */
        if (beta) beta[c] -= lr * dbeta;    /* E17 */
    }
}

//-- normalise
/* Layer and group norm: y = gamma (x - mu) / s + beta, s = sqrt(variance + epsilon), over sets of n1 x n2 values of a
 * block laid out as A x n1 x B x n2 x I. A value's gamma and beta (1 and 0 if NULL) lie at j * of_n1 + b * of_B + k. */
static inline void dn_normalise(const float *x, float *y, const float *gamma, const float *beta, int A, int n1, int B,
                                int n2, int I, int of_n1, int of_B, float epsilon)
{
    int a, b, i, j, k, pass;
    for (a = 0; a < A; a++)
        for (b = 0; b < B; b++)
            for (i = 0; i < I; i++) {
                float mu = 0.0f, variance = 0.0f, inverse = 0.0f;
                for (pass = 0; pass < 3; pass++) {
                    for (j = 0; j < n1; j++) {
                        float sum = 0.0f; /* row by row: rounding grows with n1 + n2, not with n1 n2 */
                        for (k = 0; k < n2; k++) {
                            const size_t place = ((((size_t)a * n1 + j) * B + b) * n2 + k) * I + i;
                            const size_t own = (size_t)j * of_n1 + (size_t)b * of_B + k;
                            if (pass == 0) sum += x[place];
                            if (pass == 1) sum += (x[place] - mu) * (x[place] - mu);
                            if (pass == 2)
                                y[place] = (x[place] - mu) * inverse * (gamma ? gamma[own] : 1.0f)
                                           + (beta ? beta[own] : 0.0f);
                        }
                        if (pass == 0) mu += sum;
                        if (pass == 1) variance += sum;
                    }
                    if (pass == 0) mu /= (float)n1 * (float)n2;
                    if (pass == 1) inverse = 1.0f / sqrtf(variance / ((float)n1 * (float)n2) + epsilon);
                }
            }
}

//-- add
/* where two branches meet */
static inline void dn_add(const float *x, const float *other, float *y, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) y[i] = x[i] + other[i];
}

//-- add_backward
/* the error takes both ways back */
static inline void dn_add_backward(const float *dy, float *dx, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) dx[i] += dy[i];
}

//-- concat
/* one branch's channels, side by side with those of the others, from the channel `first` of `all` on */
static inline void dn_concat(const float *x, float *y, int positions, int channels, int first, int all)
{
    int p, c;
    for (p = 0; p < positions; p++)
        for (c = 0; c < channels; c++) y[(size_t)p * all + first + c] = x[(size_t)p * channels + c];
}

//-- concat_backward
/* each branch gets the error of its channels */
static inline void dn_concat_backward(const float *dy, float *dx, int positions, int channels, int first, int all)
{
    int p, c;
    for (p = 0; p < positions; p++)
        for (c = 0; c < channels; c++) dx[(size_t)p * channels + c] += dy[(size_t)p * all + first + c];
}

//-- padded_shortcut
/* every stride-th row and column, and channels of zeros up to D */
static inline void dn_padded_shortcut(const float *x, float *y, int H, int W, int C, int stride, int D)
{
    int i, j, c;
    for (i = 0; i < H; i += stride)
        for (j = 0; j < W; j += stride)
            for (c = 0; c < D; c++) *y++ = c < C ? x[((size_t)i * W + j) * C + c] : 0.0f;
}

//-- padded_shortcut_backward
/* each error goes back to where its unit came from */
static inline void dn_padded_shortcut_backward(const float *dy, float *dx, int H, int W, int C, int stride, int D)
{
    int i, j, c;
    for (i = 0; i < H; i += stride)
        for (j = 0; j < W; j += stride, dy += D)
            for (c = 0; c < C; c++) dx[((size_t)i * W + j) * C + c] += dy[c];
}

//-- copy
static inline void dn_copy(const float *x, float *y, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) y[i] = x[i];
}

//-- zero
static inline void dn_zero(float *x, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) x[i] = 0.0f;
}

//-- cross_entropy
/* E10  the loss -log softmax(y)[label], and its delta softmax(y) - (1 at the label) */
static inline float dn_cross_entropy(const float *y, float *dy, int label, int n)
{
    float top = y[0], sum = 0.0f;
    int i;
    for (i = 1; i < n; i++)
        if (y[i] > top) top = y[i];
    for (i = 0; i < n; i++) sum += dy[i] = expf(y[i] - top);
    for (i = 0; i < n; i++) dy[i] = dy[i] / sum - (i == label ? 1.0f : 0.0f);
    return logf(sum) - (y[label] - top);
}

//-- main
#ifdef DN_MAIN
#include <stdio.h>
#include <string.h>

/* Inputs, and what the network that this file was made of makes of them. */
@tests@

/* How far two right results may be apart: |y - r| / |r| over all numbers together. */
#define DN_TOLERANCE @tolerance@

static int dn_check(void)
{
    static float y[DN_OUTPUTS];
    double largest = 0.0, off = 0.0, all = 0.0;
    int t, i, ok;
    for (t = 0; t < DN_TESTS; t++) {
        dn_predict(dn_test_x + (size_t)t * DN_INPUTS, y);
        for (i = 0; i < DN_OUTPUTS; i++) {
            const double r = dn_test_y[(size_t)t * DN_OUTPUTS + i], difference = fabs(y[i] - r);
            if (!(difference <= largest)) largest = difference;
            off += difference * difference;
            all += r * r;
        }
    }
    ok = sqrt(off) <= DN_TOLERANCE * sqrt(all);
    printf("%d inputs, %d outputs each: largest difference %.2g, |y - r| / |r| = %.2g of at most %.2g: %s\n", DN_TESTS,
           DN_OUTPUTS, largest, all > 0.0 ? sqrt(off / all) : off, DN_TOLERANCE, ok ? "ok" : "WRONG");
@learned@    return ok ? 0 : 1;
}

/* --check compares with the numbers above; else numbers are read from the standard input, and outputs printed. */
int main(int argc, char **argv)
{
    static float x[DN_INPUTS], y[DN_OUTPUTS];
    int i = 0, known;
    if (argc == 2 && strcmp(argv[1], "--check") == 0) return dn_check();
    if (argc > 1) {
        fprintf(stderr, "usage: %s --check, or %s < numbers: %d for each input\n", argv[0], argv[0], DN_INPUTS);
        return 2;
    }
    while ((known = scanf("%@scan@", &x[i])) == 1) {
        if (++i < DN_INPUTS) continue;
        dn_predict(x, y);
        for (i = 0; i < DN_OUTPUTS; i++) printf("%.@digits@g%c", (double)y[i], i + 1 < DN_OUTPUTS ? ' ' : '\n');
        i = 0;
    }
    if (known == EOF && i == 0) return 0;
    fprintf(stderr, "expected numbers, %d for each input\n", DN_INPUTS);
    return 2;
}
#endif

//-- learned
    {
        const double before = dn_learn(dn_test_x, DN_TEST_LABEL, DN_TEST_RATE);
        const double after = dn_learn(dn_test_x, DN_TEST_LABEL, 0);
        const double wrong = fabs(before - DN_TEST_LOSS) + fabs(after - DN_TEST_LOSS_AFTER);
        const int learns = wrong <= 4 * DN_TOLERANCE * (1.0 + sqrt(all));
        printf("one step: loss %.6g -> %.6g, expected %.6g -> %.6g: %s\n", before, after, (double)DN_TEST_LOSS,
               (double)DN_TEST_LOSS_AFTER, learns ? "ok" : "WRONG");
        ok = ok && learns;
    }
