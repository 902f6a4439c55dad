// Sums over everything but the channels, and batch norm on top of them.
//
// A map is read as rows of `width` packs: one place of the map or, where channels are few, as many whole places as fill
// a warp, so that no lane idles. A block of 32 × 8 threads owns 32 columns of a chunk of rows and adds up its part of
// each channel; a second kernel adds up the chunks. Both in a fixed order: the same bits in every run.
#include "common.h"

#define LANES 32
#define ROWS 8   // rows of threads in a block that reads a map
#define TALL 32  // in a block that adds up chunks: up to 64 registers for each thread
#define WALK_ENTRY extern "C" __global__ void __launch_bounds__(LANES * ROWS, 4)  // see BLOCKS in sums.py
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
WALK_ENTRY channel_sum_part(wide* partial, const Pack* x, Layout in) {
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
WALK_ENTRY channel_moments_part(wide* partial, const Pack* x, Layout in) {
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

#define PER_LAUNCH 40  // layers

struct Statistics {
    wide *new_mean, *new_variance;
    const wide *moving_mean, *moving_variance, *mean, *variance;
    wide keep, rest, unbias;
    int C, blocks;  // blocks up to and including this layer
};

struct Followed {
    Statistics at[PER_LAUNCH];
};

// Running statistics of many layers after a batch: keep · moving + rest · batch, the batch's variance times unbias. Old
// and new may be the same array. Where variance · unbias overflows, rest comes first.
ENTRY follow(Followed all) {
    int k = 0, before = 0;
    while ((int)blockIdx.x >= all.at[k].blocks) before = all.at[k++].blocks;
    const Statistics& of = all.at[k];
    int c = (blockIdx.x - before) * blockDim.x + threadIdx.x;
    if (c >= of.C) return;
    of.new_mean[c] = of.moving_mean[c] * of.keep + of.mean[c] * of.rest;
    wide variance = of.variance[c], unbiased = variance * of.unbias;
    wide more = isinf(unbiased) ? variance * of.rest * of.unbias : unbiased * of.rest;
    of.new_variance[c] = of.moving_variance[c] * of.keep + more;
}

// -- batch norm: every thread keeps the numbers of its channels and walks down its column -----------------------------
// Values per channel are `wide`, also for maps of 16 bits. What would be a pass of its own, such as the sum of two
// branches, is rounded to `real` here as it would be there: the same bits, and less to read and write.

// γ (x − μ) / s + β for the channels of one thread.
struct Applied {
    wide mu[PACK], scale[PACK], shift[PACK];
};

__device__ inline Applied applied(const wide* mean, const wide* variance, const wide* gamma, const wide* beta,
                                  wide epsilon, const Layout& in) {
    Applied numbers;
    for (int v = 0; v < PACK; v++) {
        int c = my_channel(in) + v;
        numbers.mu[v] = mean[c];
        numbers.scale[v] = gamma[c] / sqrt(variance[c] + epsilon);
        numbers.shift[v] = beta[c];
    }
    return numbers;
}

// The backward pass must get the same bits as the forward pass, so the compiler may not choose how often it rounds.
__device__ inline real value_of(real x, const Applied& numbers, int v) {
    return real(fma(wide(x) - numbers.mu[v], numbers.scale[v], numbers.shift[v]));
}

__device__ inline bool clipped(real x, const Applied& numbers, int v) { return !(wide(value_of(x, numbers, v)) > 0); }

__device__ inline Pack normalised(Pack values, const Pack& others, bool joined, int relu, const Applied& numbers) {
    for (int v = 0; v < PACK; v++) {
        wide value = wide(value_of(values.at[v], numbers, v));
        if (joined) value += wide(others.at[v]);
        values.at[v] = real(relu ? positive_part(value) : value);
    }
    return values;
}

// y = γ (x − μ) / s + β, plus `other` if there is one, and E7 with `relu`. Two packs are on their way at a time.
WALK_ENTRY normalise(Pack* y, const Pack* x, const Pack* other, const wide* mean, const wide* variance,
                     const wide* gamma, const wide* beta, wide epsilon, int relu, Layout in) {
    Column mine = my_column(in);
    Applied numbers = applied(mean, variance, gamma, beta, epsilon, in);
    unsigned int i = mine.first;
    for (; i + mine.step < mine.end; i += 2 * mine.step) {
        unsigned int j = i + mine.step;
        Pack a = x[i], b = x[j], more_a = a, more_b = b;
        if (other) more_a = other[i], more_b = other[j];
        y[i] = normalised(a, more_a, other, relu, numbers);
        y[j] = normalised(b, more_b, other, relu, numbers);
    }
    if (i < mine.end) {
        Pack a = x[i], more_a = other ? other[i] : a;
        y[i] = normalised(a, more_a, other, relu, numbers);
    }
}

__device__ inline void store_both(wide* partial, wide* sum, wide* products, const Layout& in) {
    over_block(sum, in);
    over_block(products, in);
    store(partial + blockIdx.y * in.C * PACK, sum, in);
    store(partial + (in.chunks + blockIdx.y) * in.C * PACK, products, in);
}

// First stage: partial (2, chunks, C) with Σ dy and Σ dy (x − μ). With β, units that a ReLU behind batch norm has
// clipped get no delta (E14): which these are follows from x.
WALK_ENTRY normalise_backward_part(wide* partial, const Pack* dy, const Pack* x, const wide* mean,
                                   const wide* variance, const wide* gamma, const wide* beta, wide epsilon,
                                   Layout in) {
    Column mine = my_column(in);
    wide sum[PACK] = {}, products[PACK] = {};
    Applied numbers = applied(mean, variance, gamma, beta ? beta : mean, epsilon, in);
    for (unsigned int i = mine.first; i < mine.end; i += mine.step) {
        Pack values = x[i], deltas = dy[i];
        for (int v = 0; v < PACK; v++) {
            wide delta = beta && clipped(values.at[v], numbers, v) ? wide(0) : wide(deltas.at[v]);
            sum[v] += delta;
            products[v] += delta * (wide(values.at[v]) - numbers.mu[v]);
        }
    }
    store_both(partial, sum, products, in);
}

// The same if another branch was added. The delta, which both get, is stored: dy + second if the output went two
// ways (E12), and 0 where the output y of a ReLU is not above 0 (E14). Second and y may be null.
WALK_ENTRY joined_backward_part(wide* partial, Pack* delta, const Pack* dy, const Pack* second, const Pack* x,
                                const Pack* y, const wide* mean, Layout in) {
    Column mine = my_column(in);
    wide sum[PACK] = {}, products[PACK] = {}, mu[PACK];
    for (int v = 0; v < PACK; v++) mu[v] = mean[my_channel(in) + v];
    for (unsigned int i = mine.first; i < mine.end; i += mine.step) {
        Pack values = x[i], deltas = dy[i], more = second ? second[i] : deltas, outputs = y ? y[i] : values;
        for (int v = 0; v < PACK; v++) {
            if (second) deltas.at[v] = real(wide(deltas.at[v]) + wide(more.at[v]));
            if (y && !(wide(outputs.at[v]) > 0)) deltas.at[v] = real(0.0f);
            sum[v] += wide(deltas.at[v]);
            products[v] += wide(deltas.at[v]) * (wide(values.at[v]) - mu[v]);
        }
        delta[i] = deltas;
    }
    store_both(partial, sum, products, in);
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

// dx = γ/s · (dy − dβ / n − x̂ · dγ / n): straight to x, through the mean, through the variance. β as above.
WALK_ENTRY normalise_backward_dx(Pack* dx, const Pack* dy, const Pack* x, const wide* totals, const wide* mean,
                                 const wide* variance, const wide* gamma, const wide* beta, wide epsilon, Layout in) {
    Column mine = my_column(in);
    wide n = wide(in.total / in.C), direct[PACK], through[PACK];
    Applied numbers = applied(mean, variance, gamma, beta ? beta : mean, epsilon, in);
    for (int v = 0; v < PACK; v++) {
        int c = my_channel(in) + v;
        direct[v] = totals[c] / n;
        through[v] = totals[in.C * PACK + c] / sqrt(variance[c] + epsilon) / n;
    }
    for (unsigned int i = mine.first; i < mine.end; i += mine.step) {
        Pack values = x[i], deltas = dy[i];
        for (int v = 0; v < PACK; v++) {
            wide delta = beta && clipped(values.at[v], numbers, v) ? wide(0) : wide(deltas.at[v]);
            wide off = wide(values.at[v]) - numbers.mu[v];
            values.at[v] = real(numbers.scale[v] * (delta - direct[v] - off * through[v]));
        }
        dx[i] = values;
    }
}
