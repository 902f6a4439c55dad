// E4, E11, E13 without columns, for groups of few channels: the first layer of a network, and depthwise convolution.
#include "common.h"

struct Bank {
    int D, C_group, D_group;  // filters; channels and filters in one group
    Divisor by_D, by_C_group, by_D_group;
};

// E4, E6, E7: one thread computes one unit of y; neighbouring threads read neighbouring filters.
ENTRY correlate_few(real* y, const real* x, const real* w, const real* b, int count, Windows at, Bank bank, int relu) {
    int i = thread_number();
    if (i >= count) return;
    int image = i;
    int d = take(image, bank.by_D), q = take(image, at.by_Q), p = take(image, at.by_P);
    int channel = quotient(d, bank.by_D_group) * bank.C_group;
    Span rows = rows_inside(at, p), columns = columns_inside(at, q);
    wide sum = b ? wide(b[d]) : wide(0);
    for (int m = rows.first; m <= rows.last; m++)
        for (int n = columns.first; n <= columns.last; n++) {
            int row = p * at.s1 + m * at.r1 - at.top, column = q * at.s2 + n * at.r2 - at.left;
            const real* unit = x + ((image * at.H + row) * at.W + column) * at.C + channel;
            const real* filter = w + (m * at.k2 + n) * bank.C_group * bank.D + d;
            for (int c = 0; c < bank.C_group; c++) sum += wide(unit[c]) * wide(filter[c * bank.D]);  // E4
        }
    y[i] = real(relu ? positive_part(sum) : sum);  // E7
}

// E13: one thread computes one unit of dx, from the windows that read it.
ENTRY correlate_inputs_few(real* dx, const real* dy, const real* w, int count, Windows at, Bank bank) {
    int i = thread_number();
    if (i >= count) return;
    int image = i;
    int group = take(image, at.by_C), column = take(image, at.by_W) + at.left, row = take(image, at.by_H) + at.top;
    int c = take(group, bank.by_C_group);  // in its group; what remains is the group's number
    Span down = windows_over(row, at.k1, at.r1, at.s1, at.by_s1, at.P);
    Span across = windows_over(column, at.k2, at.r2, at.s2, at.by_s2, at.Q);
    wide sum = 0;
    for (int p = down.first; p <= down.last; p++) {
        int m = tap_at(row, p * at.s1, at.r1, at.by_r1);
        if (m < 0) continue;
        for (int q = across.first; q <= across.last; q++) {
            int n = tap_at(column, q * at.s2, at.r2, at.by_r2);
            if (n < 0) continue;
            const real* delta = dy + ((image * at.P + p) * at.Q + q) * bank.D + group * bank.D_group;
            const real* filter = w + ((m * at.k2 + n) * bank.C_group + c) * bank.D + group * bank.D_group;
            for (int d = 0; d < bank.D_group; d++) sum += wide(delta[d]) * wide(filter[d]);  // E13
        }
    }
    dx[i] = real(sum);
}

// E11, first stage: each thread owns one weight and adds up a chunk of places; partial (chunks, k1·k2·C/g·D).
// channel_sum_end adds up the chunks.
ENTRY correlate_filters_few(wide* partial, const real* x, const real* dy, int weights, int places, int chunk, Windows at,
                            Bank bank) {
    int i = thread_number();
    if (i >= weights) return;
    int m = i;
    int d = take(m, bank.by_D), c = take(m, bank.by_C_group), n = take(m, at.by_k2);
    int channel = quotient(d, bank.by_D_group) * bank.C_group + c;
    wide sum = 0;
    int last = min((int)blockIdx.y * chunk + chunk, places);
    for (int place = blockIdx.y * chunk; place < last; place++) {
        int image = place;
        int q = take(image, at.by_Q), p = take(image, at.by_P);
        int row = p * at.s1 + m * at.r1 - at.top, column = q * at.s2 + n * at.r2 - at.left;
        if (row < 0 || row >= at.H || column < 0 || column >= at.W) continue;
        sum += wide(x[((image * at.H + row) * at.W + column) * at.C + channel]) * wide(dy[place * bank.D + d]);  // E11
    }
    partial[blockIdx.y * weights + i] = sum;
}
