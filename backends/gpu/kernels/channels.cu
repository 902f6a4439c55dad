// Sums over everything but the channels, and batch norm on top of them.
//
// A map is read as rows of `width` packs: one place of the map or, where channels are few, as many whole places as fill
// a warp, so that no lane idles. A block of 32 × 8 threads owns 32 columns of a chunk of rows and adds up its part of
// each channel; a second kernel adds up the chunks. Both in a fixed order: the same bits in every run.
#include "common.h"

#define LANES 32
#define ROWS 8   // rows of threads in a block that reads a map
#define TALL 32  // in a block that adds up chunks: up to 64 registers for each thread
#define TALL_ENTRY extern "C" __global__ void __launch_bounds__(LANES * TALL)

struct Layout {
    int total, width, C;      // packs in the map, in a row, in a place; width is a multiple of C
    int rows, chunks, chunk;  // rows in all, blocks that share them, rows of one block
};

__device__ inline int column_number() { return blockIdx.x * LANES + threadIdx.x; }

struct Column {
    unsigned int first, end, step;  // the packs of this thread: every 8th row of its column in the block's chunk
};

__device__ inline Column my_column(const Layout& in) {
    unsigned int column = column_number(), row = blockIdx.y * in.chunk;
    unsigned int last = min(row + in.chunk, (unsigned int)in.rows);
    Column mine = {(row + threadIdx.y) * in.width + column, min(last * in.width, (unsigned int)in.total), 0};
    mine.step = ROWS * in.width;
    if (column >= in.width) mine.first = mine.end;
    return mine;
}

// The first channel of this thread's packs.
__device__ inline int my_channel(const Layout& in) { return column_number() % in.C * PACK; }

// Of the threads that share a channel, one writes the result of the block.
__device__ inline bool writes(const Layout& in) { return threadIdx.y == 0 && column_number() < in.C; }

// Adds up what the threads of a block hold for each channel; every thread gets the sum of channel my_channel + v in
// value[v].
__device__ inline void over_block(wide* value, const Layout& in) {
    __shared__ wide held[ROWS][PACK][LANES];
    __syncthreads();  // threads may still be reading the last result
    for (int v = 0; v < PACK; v++) held[threadIdx.y][v][threadIdx.x] = value[v];
    __syncthreads();
    for (int v = threadIdx.y; v < PACK; v += ROWS)
        for (int y = 1; y < ROWS; y++) held[0][v][threadIdx.x] += held[y][v][threadIdx.x];
    __syncthreads();
    int step = min(in.C, LANES);  // lanes one place apart hold the same channels
    for (int v = 0; v < PACK; v++) {
        value[v] = 0;
        for (int lane = threadIdx.x % step; lane < LANES; lane += step) value[v] += held[0][v][lane];
    }
}

// Adds up what the 32 threads of a column hold; each of them gets the sum.
__device__ inline wide over_rows(wide value) {
    __shared__ wide held[TALL][LANES];
    __syncthreads();
    held[threadIdx.y][threadIdx.x] = value;
    __syncthreads();
    wide sum = 0;
#pragma unroll 8
    for (int y = 0; y < TALL; y++) sum += held[y][threadIdx.x];
    return sum;
}

__device__ inline void store(wide* partial, const wide* value, const Layout& in) {
    if (!writes(in)) return;
    for (int v = 0; v < PACK; v++) partial[my_channel(in) + v] = value[v];
}

// E12, first stage: partial (chunks, C).
ENTRY channel_sum_part(wide* partial, const Pack* x, Layout in) {
    Column mine = my_column(in);
    wide sum[PACK] = {};
#pragma unroll 4
    for (unsigned int i = mine.first; i < mine.end; i += mine.step) {
        Pack values = x[i];
        for (int v = 0; v < PACK; v++) sum[v] += wide(values.at[v]);
    }
    over_block(sum, in);
    store(partial + blockIdx.y * in.C * PACK, sum, in);
}

// out[c] = scale · Σ x[t, c] over the `terms` rows of (terms, C).
template <class Number>
__device__ inline void add_rows(real* out, const Number* x, int terms, int C, wide scale) {
    int c = column_number();
    wide sum = 0;
    if (c < C)
        for (int t = threadIdx.y; t < terms; t += TALL) sum += wide(x[t * C + c]);
    sum = over_rows(sum);
    if (threadIdx.y == 0 && c < C) out[c] = real(sum * scale);
}

// E12, second stage.
TALL_ENTRY channel_sum_end(real* out, const wide* partial, int terms, int C, wide scale) {
    add_rows(out, partial, terms, C, scale);
}

// E12 in one launch, for a map with few rows.
TALL_ENTRY channel_sum_short(real* out, const real* x, int terms, int C, wide scale) {
    add_rows(out, x, terms, C, scale);
}

// -- mean and variance ------------------------------------------------------------------------------------------------

// How many values of each channel a chunk has; the last chunk may be shorter.
__device__ inline int values_of(int chunk, const Layout& in) {
    int places = in.chunk * (in.width / in.C);
    return min(places, in.total / in.C - chunk * places);
}

// First stage: partial (2, chunks, C) with the mean μ of each chunk, and Σ (x − μ)². The second pass finds the chunk in
// the cache.
ENTRY channel_moments_part(wide* partial, const Pack* x, Layout in) {
    Column mine = my_column(in);
    wide mean[PACK] = {}, squares[PACK] = {}, n = wide(values_of(blockIdx.y, in));
#pragma unroll 4
    for (unsigned int i = mine.first; i < mine.end; i += mine.step) {
        Pack values = x[i];
        for (int v = 0; v < PACK; v++) mean[v] += wide(values.at[v]);
    }
    over_block(mean, in);
    for (int v = 0; v < PACK; v++) mean[v] /= n;
#pragma unroll 4
    for (unsigned int i = mine.first; i < mine.end; i += mine.step) {
        Pack values = x[i];
        for (int v = 0; v < PACK; v++) {
            wide off = wide(values.at[v]) - mean[v];
            squares[v] += off * off;
        }
    }
    over_block(squares, in);
    store(partial + blockIdx.y * in.C * PACK, mean, in);
    store(partial + (in.chunks + blockIdx.y) * in.C * PACK, squares, in);
}

// Second stage (Chan, Golub and LeVeque 1979): n σ² = Σ_t (Σ (x − μ_t)² + n_t (μ_t − μ)²), over the chunks t.
TALL_ENTRY channel_moments_end(wide* mean, wide* variance, const wide* partial, Layout in) {
    int c = column_number(), C = in.C * PACK;
    const wide *means = partial, *squares = partial + in.chunks * C;
    wide sum = 0, spread = 0, n = wide(in.total / in.C);
    if (c < C)
        for (int t = threadIdx.y; t < in.chunks; t += TALL) sum += wide(values_of(t, in)) * means[t * C + c];
    wide mu = over_rows(sum) / n;
    if (c < C)
        for (int t = threadIdx.y; t < in.chunks; t += TALL) {
            wide off = means[t * C + c] - mu;
            spread += squares[t * C + c] + wide(values_of(t, in)) * off * off;
        }
    spread = over_rows(spread);
    if (threadIdx.y != 0 || c >= C) return;
    mean[c] = mu;
    variance[c] = spread / n;
}

// Running statistics after a batch: keep · moving + rest · batch, the batch's variance times unbias. Old and new may be
// the same array. Where variance · unbias overflows, rest comes first.
ENTRY follow(wide* new_mean, wide* new_variance, const wide* moving_mean, const wide* moving_variance, const wide* mean,
             const wide* variance, wide keep, wide rest, wide unbias, int C) {
    int c = thread_number();
    if (c >= C) return;
    new_mean[c] = moving_mean[c] * keep + mean[c] * rest;
    wide unbiased = variance[c] * unbias;
    new_variance[c] = moving_variance[c] * keep + (isinf(unbiased) ? variance[c] * rest * unbias : unbiased * rest);
}

// -- batch norm: every thread keeps the numbers of its channels and walks down its column -----------------------------
// Values per channel are `wide`, also for maps of 16 bits.

// y = γ (x − μ) / s + β, and E7 with `relu`.
ENTRY normalise(Pack* y, const Pack* x, const wide* mean, const wide* variance, const wide* gamma, const wide* beta,
                wide epsilon, int relu, Layout in) {
    Column mine = my_column(in);
    wide mu[PACK], scale[PACK], shift[PACK];
    for (int v = 0; v < PACK; v++) {
        int c = my_channel(in) + v;
        mu[v] = mean[c];
        scale[v] = gamma[c] / sqrt(variance[c] + epsilon);
        shift[v] = beta[c];
    }
    for (unsigned int i = mine.first; i < mine.end; i += mine.step) {
        Pack values = x[i];
        for (int v = 0; v < PACK; v++) {
            wide value = (wide(values.at[v]) - mu[v]) * scale[v] + shift[v];
            values.at[v] = real(relu ? positive_part(value) : value);
        }
        y[i] = values;
    }
}

// dy, after E14 if a ReLU with output y followed.
struct Deltas {
    wide at[PACK];
};

__device__ inline Deltas deltas_at(unsigned int i, const Pack* dy, const Pack* y) {
    Pack values = dy[i], outputs = y ? y[i] : values;
    Deltas deltas;
    for (int v = 0; v < PACK; v++) {
        wide delta = wide(values.at[v]);
        deltas.at[v] = y && !(wide(outputs.at[v]) > 0) ? wide(0) : delta;
    }
    return deltas;
}

// First stage: partial (2, chunks, C) with Σ dy and Σ dy (x − μ).
ENTRY normalise_backward_part(wide* partial, const Pack* dy, const Pack* x, const Pack* y, const wide* mean, Layout in) {
    Column mine = my_column(in);
    wide sum[PACK] = {}, products[PACK] = {}, mu[PACK];
    for (int v = 0; v < PACK; v++) mu[v] = mean[my_channel(in) + v];
#pragma unroll 2
    for (unsigned int i = mine.first; i < mine.end; i += mine.step) {
        Pack values = x[i];
        Deltas deltas = deltas_at(i, dy, y);
        for (int v = 0; v < PACK; v++) {
            sum[v] += deltas.at[v];
            products[v] += deltas.at[v] * (wide(values.at[v]) - mu[v]);
        }
    }
    over_block(sum, in);
    over_block(products, in);
    store(partial + blockIdx.y * in.C * PACK, sum, in);
    store(partial + (in.chunks + blockIdx.y) * in.C * PACK, products, in);
}

// Second stage: totals (2, C) with dβ = Σ dy (E12) and dγ = Σ dy x̂.
TALL_ENTRY normalise_backward_end(wide* totals, const wide* partial, const wide* variance, wide epsilon, Layout in) {
    int c = column_number(), C = in.C * PACK;
    const wide *sums = partial, *products = partial + in.chunks * C;
    wide sum = 0, product = 0;
    if (c < C)
        for (int t = threadIdx.y; t < in.chunks; t += TALL) {
            sum += sums[t * C + c];
            product += products[t * C + c];
        }
    sum = over_rows(sum);
    product = over_rows(product);
    if (threadIdx.y != 0 || c >= C) return;
    totals[c] = sum;
    totals[C + c] = product / sqrt(variance[c] + epsilon);
}

// dx = γ/s · (dy − dβ / n − x̂ · dγ / n): straight to x, through the mean, through the variance.
ENTRY normalise_backward_dx(Pack* dx, const Pack* dy, const Pack* x, const Pack* y, const wide* totals,
                            const wide* mean, const wide* variance, const wide* gamma, wide epsilon, Layout in) {
    Column mine = my_column(in);
    wide n = wide(in.total / in.C), mu[PACK], shift[PACK], through[PACK], scale[PACK];
    for (int v = 0; v < PACK; v++) {
        int c = my_channel(in) + v;
        wide inverse = wide(1) / sqrt(variance[c] + epsilon);
        mu[v] = mean[c];
        shift[v] = totals[c] / n;
        through[v] = inverse * totals[in.C * PACK + c] / n;
        scale[v] = gamma[c] * inverse;
    }
    for (unsigned int i = mine.first; i < mine.end; i += mine.step) {
        Pack values = x[i];
        Deltas deltas = deltas_at(i, dy, y);
        for (int v = 0; v < PACK; v++)
            values.at[v] = real(scale[v] * (deltas.at[v] - shift[v] - (wide(values.at[v]) - mu[v]) * through[v]));
        dx[i] = values;
    }
}
