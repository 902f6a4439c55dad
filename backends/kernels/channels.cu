// Sums over everything but the channels, and batch norm on top of them.
//
// A map is seen as rows of `width` numbers: as many whole places as fill a warp where channels are few (so that no lane
// idles), else one place. A block of 32 × 8 threads owns 32 columns of a chunk of rows and adds them up; a second kernel
// adds up the chunks. Both in a fixed order: the same bits in every run.
#include "common.h"

#define LANES 32
#define ROWS 8

struct Layout {
    int total, width, C;      // elements, columns, channels; width is a multiple of C
    int rows, chunks, chunk;  // rows in all, blocks that share them, rows of one block
};

struct Rows {
    int first, last;
};

__device__ inline Rows rows_of(int chunk, const Layout& in) {
    Rows rows = {chunk * in.chunk, min(chunk * in.chunk + in.chunk, in.rows)};
    return rows;
}

__device__ inline int column_number() { return blockIdx.x * LANES + threadIdx.x; }

// The sum of what the 8 threads of a column hold, known to all of them.
__device__ inline wide over_rows(wide value) {
    __shared__ wide held[ROWS][LANES];
    __syncthreads();  // the block may have read the last result a moment ago
    held[threadIdx.y][threadIdx.x] = value;
    __syncthreads();
    wide sum = 0;
    for (int y = 0; y < ROWS; y++) sum += held[y][threadIdx.x];
    return sum;
}

// E12, first stage: partial (chunks, width).
ENTRY channel_sum_part(wide* partial, const real* x, Layout in) {
    int column = column_number();
    Rows rows = rows_of(blockIdx.y, in);
    wide sum = 0;
    if (column < in.width)
        for (int row = rows.first + threadIdx.y; row < rows.last; row += ROWS) {
            int i = row * in.width + column;
            if (i < in.total) sum += wide(x[i]);
        }
    sum = over_rows(sum);
    if (threadIdx.y == 0 && column < in.width) partial[blockIdx.y * in.width + column] = sum;
}

// Second stage: out[c] = scale · Σ partial[t, c] over the `terms` rows of (terms, C).
ENTRY channel_sum_end(real* out, const wide* partial, int terms, int C, wide scale) {
    int c = column_number();
    wide sum = 0;
    if (c < C)
        for (int t = threadIdx.y; t < terms; t += ROWS) sum += partial[t * C + c];
    sum = over_rows(sum);
    if (threadIdx.y == 0 && c < C) out[c] = real(sum * scale);
}

// -- mean and variance ------------------------------------------------------------------------------------------------

// How many values a column has within a chunk: the last row may be cut short.
__device__ inline int values(int chunk, int column, const Layout& in) {
    Rows rows = rows_of(chunk, in);
    int cut = rows.last == in.rows && (in.rows - 1) * in.width + column >= in.total;
    return rows.last - rows.first - cut;
}

// First stage: partial (2, chunks, width) with the mean μ of each chunk's column, and Σ (x − μ)². The second pass over
// the chunk finds it in the cache.
ENTRY channel_moments_part(wide* partial, const real* x, Layout in) {
    int column = column_number();
    Rows rows = rows_of(blockIdx.y, in);
    wide sum = 0, squares = 0;
    if (column < in.width)
        for (int row = rows.first + threadIdx.y; row < rows.last; row += ROWS) {
            int i = row * in.width + column;
            if (i < in.total) sum += wide(x[i]);
        }
    wide mean = over_rows(sum) / wide(max(values(blockIdx.y, column, in), 1));
    if (column < in.width)
        for (int row = rows.first + threadIdx.y; row < rows.last; row += ROWS) {
            int i = row * in.width + column;
            if (i >= in.total) continue;
            wide off = wide(x[i]) - mean;
            squares += off * off;
        }
    squares = over_rows(squares);
    if (threadIdx.y != 0 || column >= in.width) return;
    partial[blockIdx.y * in.width + column] = mean;
    partial[(in.chunks + blockIdx.y) * in.width + column] = squares;
}

// Second stage (Chan, Golub and LeVeque 1979): n σ² = Σ_t (Σ (x − μ_t)² + n_t (μ_t − μ)²), the terms t of one channel.
ENTRY channel_moments_end(wide* mean, wide* variance, const wide* partial, Layout in) {
    int c = column_number(), fold = in.width / in.C, terms = in.chunks * fold;
    const wide *means = partial, *squares = partial + terms * in.C;
    wide sum = 0, spread = 0, n = wide(in.total / in.C);
    if (c < in.C)
        for (int t = threadIdx.y; t < terms; t += ROWS)
            sum += wide(values(t / fold, t % fold * in.C + c, in)) * means[t * in.C + c];
    wide mu = over_rows(sum) / n;
    if (c < in.C)
        for (int t = threadIdx.y; t < terms; t += ROWS) {
            wide off = means[t * in.C + c] - mu;
            spread += squares[t * in.C + c] + wide(values(t / fold, t % fold * in.C + c, in)) * off * off;
        }
    spread = over_rows(spread);
    if (threadIdx.y != 0 || c >= in.C) return;
    mean[c] = mu;
    variance[c] = spread / n;
}

// Running statistics after a batch: keep · moving + rest · batch, with the variance · unbias. Old and new may be one array.
ENTRY follow(wide* new_mean, wide* new_variance, const wide* moving_mean, const wide* moving_variance, const wide* mean,
             const wide* variance, wide keep, wide rest, wide unbias, int C) {
    int c = thread_number();
    if (c >= C) return;
    new_mean[c] = moving_mean[c] * keep + mean[c] * rest;
    new_variance[c] = moving_variance[c] * keep + variance[c] * unbias * rest;
}

// -- batch norm: every thread keeps the numbers of its channel and walks down its column ------------------------------
// What there is one of for each channel is `wide`, also beside maps of 16 bits.

// y = γ (x − μ) / s + β, and E7 with `relu`.
ENTRY normalise(real* y, const real* x, const wide* mean, const wide* variance, const wide* gamma, const wide* beta,
                wide epsilon, int relu, Layout in) {
    int column = column_number(), c = column % in.C;
    if (column >= in.width) return;
    Rows rows = rows_of(blockIdx.y, in);
    wide mu = mean[c], scale = gamma[c] / sqrt(variance[c] + epsilon), shift = beta[c];
    for (int row = rows.first + threadIdx.y; row < rows.last; row += ROWS) {
        int i = row * in.width + column;
        if (i >= in.total) continue;
        wide value = (wide(x[i]) - mu) * scale + shift;
        y[i] = real(relu ? positive_part(value) : value);
    }
}

// dy, and E14 where a ReLU with output y came behind.
__device__ inline wide delta_at(int i, const real* dy, const real* y) {
    return y ? wide(dy[i]) * wide(wide(y[i]) > 0) : wide(dy[i]);
}

// First stage: partial (2, chunks, width) with Σ dy and Σ dy (x − μ).
ENTRY normalise_backward_part(wide* partial, const real* dy, const real* x, const real* y, const wide* mean, Layout in) {
    int column = column_number();
    Rows rows = rows_of(blockIdx.y, in);
    wide sum = 0, products = 0;
    if (column < in.width) {
        wide mu = mean[column % in.C];
        for (int row = rows.first + threadIdx.y; row < rows.last; row += ROWS) {
            int i = row * in.width + column;
            if (i >= in.total) continue;
            wide delta = delta_at(i, dy, y);
            sum += delta;
            products += delta * (wide(x[i]) - mu);
        }
    }
    sum = over_rows(sum);
    products = over_rows(products);
    if (threadIdx.y != 0 || column >= in.width) return;
    partial[blockIdx.y * in.width + column] = sum;
    partial[(in.chunks + blockIdx.y) * in.width + column] = products;
}

// Second stage: roads (2, C) with dβ = Σ dy (E12) and dγ = Σ dy x̂.
ENTRY normalise_backward_end(wide* roads, const wide* partial, const wide* variance, wide epsilon, Layout in) {
    int c = column_number(), terms = in.chunks * (in.width / in.C);
    const wide *sums = partial, *products = partial + terms * in.C;
    wide sum = 0, product = 0;
    if (c < in.C)
        for (int t = threadIdx.y; t < terms; t += ROWS) {
            sum += sums[t * in.C + c];
            product += products[t * in.C + c];
        }
    sum = over_rows(sum);
    product = over_rows(product);
    if (threadIdx.y != 0 || c >= in.C) return;
    roads[c] = sum;
    roads[in.C + c] = product / sqrt(variance[c] + epsilon);
}

// dx = γ/s · (dy − dβ / n − x̂ · dγ / n): directly, through the mean, through the variance.
ENTRY normalise_backward_dx(real* dx, const real* dy, const real* x, const real* y, const wide* roads, const wide* mean,
                            const wide* variance, const wide* gamma, wide epsilon, Layout in) {
    int column = column_number(), c = column % in.C;
    if (column >= in.width) return;
    Rows rows = rows_of(blockIdx.y, in);
    wide n = wide(in.total / in.C), inverse = wide(1) / sqrt(variance[c] + epsilon), mu = mean[c];
    wide shift = roads[c] / n, through = inverse * roads[in.C + c] / n, scale = gamma[c] * inverse;
    for (int row = rows.first + threadIdx.y; row < rows.last; row += ROWS) {
        int i = row * in.width + column;
        if (i < in.total) dx[i] = real(scale * (delta_at(i, dy, y) - shift - (wide(x[i]) - mu) * through));
    }
}
