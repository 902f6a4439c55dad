// E10: softmax cross-entropy of class numbers, forward and back. One warp for each row.
#include "common.h"

#define LANES 32

__device__ inline wide sum_of_warp(wide value) {
    for (int far = LANES / 2; far > 0; far /= 2) value += __shfl_xor_sync(0xffffffffu, value, far);
    return value;
}

// This may lose a NaN, but the row's sum has it, and so the whole row.
__device__ inline wide larger(wide a, wide b) { return b > a ? b : a; }

__device__ inline wide top_of_warp(wide value) {
    for (int far = LANES / 2; far > 0; far /= 2) value = larger(value, __shfl_xor_sync(0xffffffffu, value, far));
    return value;
}

// x − top; 0 for the largest x, even if it is infinite.
__device__ inline wide below_top(wide x, wide top) { return x == top ? wide(0) : x - top; }

// log_p (rows, C) = log softmax(y), and each row's loss −Σ q log_p with q = (1 − ε) onehot(t) + ε / C. The losses are
// computed times `part`, a power of 2, so that neither they nor their sum overflow: two logits may be 6e38 apart.
ENTRY cross_entropy_rows(real* log_p, wide* losses, const real* y, const long long* t, int rows, int C,
                         wide smoothing, wide part) {
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;  // whole warps
    const real* logits = y + row * C;
    wide top = wide(logits[0]), sum = 0, all = 0, own = 0;
    for (int c = threadIdx.x; c < C; c += LANES) top = larger(top, wide(logits[c]));
    top = top_of_warp(top);
    for (int c = threadIdx.x; c < C; c += LANES) sum += exp(below_top(wide(logits[c]), top));
    wide log_sum = log(sum_of_warp(sum));
    for (int c = threadIdx.x; c < C; c += LANES) {
        wide value = wide(logits[c]);
        log_p[row * C + c] = real(below_top(value, top) - log_sum);
        value = (value == top ? wide(0) : value * part - top * part) - log_sum * part;
        if (c == t[row]) own = value;
        if (smoothing > 0) all += value / wide(C);
    }
    own = sum_of_warp(own);  // all lanes but one hold 0
    wide loss = -(wide(1) - smoothing) * own;
    if (smoothing > 0) loss -= smoothing * sum_of_warp(all);
    if (threadIdx.x == 0) losses[row] = loss;
}

// dy = (softmax(y) − q) · dloss / rows. `factor` is dloss / rows, unless dloss is on the device.
ENTRY cross_entropy_backward(real* dy, const real* log_p, const long long* t, const wide* dloss, wide factor, int count,
                             int rows, Divisor by_C, wide smoothing) {
    int i = thread_number();
    if (i >= count) return;
    int row = i, c = take(row, by_C);
    wide q = c == t[row] ? wide(1) : wide(0);
    if (smoothing > 0) q = (wide(1) - smoothing) * q + smoothing / wide((int)by_C.divisor);
    if (dloss) factor = *dloss / wide(rows);
    dy[i] = real((exp(wide(log_p[i])) - q) * factor);  // E10
}
