// E8, E15: pooling. Forward, a thread computes one pack of channels of one window; backward, it adds up one pack
// of one unit, from the windows that read it, in their order.
#include "common.h"

struct Position {
    int image, p, q, c;
    Span rows, columns;  // taps on the map
};

__device__ inline Position position(int i, const Windows& at) {
    Position here;
    here.image = i;
    here.c = take(here.image, at.by_C);
    here.q = take(here.image, at.by_Q);
    here.p = take(here.image, at.by_P);
    here.rows = rows_inside(at, here.p);
    here.columns = columns_inside(at, here.q);
    return here;
}

__device__ inline int unit_at(const Position& here, int m, int n, const Windows& at) {
    int row = here.p * at.s1 + m * at.r1 - at.top, column = here.q * at.s2 + n * at.r2 - at.left;
    return ((here.image * at.H + row) * at.W + column) * at.C + here.c;
}

// max_pool (with winners) and largest (without): padding never wins, ties go to the first, NaN wins over any number.
// With `relu`, y is max(0, ·) of that (E7).
ENTRY max_pool(Pack* y, Taps* winners, const Pack* x, int count, Windows at, int relu) {
    int i = thread_number();
    if (i >= count) return;
    Position here = position(i, at);
    Pack best = x[unit_at(here, here.rows.first, here.columns.first, at)];
    Taps won;
    for (int v = 0; v < PACK; v++) won.at[v] = here.rows.first * at.k2 + here.columns.first;
    for (int m = here.rows.first; m <= here.rows.last; m++)
        for (int n = here.columns.first; n <= here.columns.last; n++) {
            Pack unit = x[unit_at(here, m, n, at)];
            for (int v = 0; v < PACK; v++) {
                wide old = wide(best.at[v]), now = wide(unit.at[v]);
                if (!(now <= old) && old == old) {  // E8
                    best.at[v] = unit.at[v];
                    won.at[v] = m * at.k2 + n;
                }
            }
        }
    if (relu)
        for (int v = 0; v < PACK; v++) best.at[v] = real(positive_part(wide(best.at[v])));
    y[i] = best;
    if (winners) winners[i] = won;
}

// E8: the M of Σ window / M. With `counted`, M includes padding.
__device__ inline wide units(const Windows& at, int p, int q, int counted) {
    Span rows = rows_inside(at, p), columns = columns_inside(at, q);
    if (counted) {
        int start = p * at.s1 - at.top, begin = q * at.s2 - at.left;
        rows = taps_inside(start, at.k1, at.r1, at.by_r1, -at.top, at.H + at.bottom);
        columns = taps_inside(begin, at.k2, at.r2, at.by_r2, -at.left, at.W + at.right);
    }
    return wide((rows.last - rows.first + 1) * (columns.last - columns.first + 1));
}

// Σ window / M for one channel of a pack, divided before it is added up.
__device__ inline wide mean_of_parts(const Pack* x, const Position& here, const Windows& at, int v, wide M) {
    wide sum = 0;
    for (int m = here.rows.first; m <= here.rows.last; m++)
        for (int n = here.columns.first; n <= here.columns.last; n++)
            sum += wide(x[unit_at(here, m, n, at)].at[v]) / M;
    return sum;
}

ENTRY avg_pool(Pack* y, const Pack* x, int count, Windows at, int counted) {
    int i = thread_number();
    if (i >= count) return;
    Position here = position(i, at);
    wide sum[PACK] = {};
    for (int m = here.rows.first; m <= here.rows.last; m++)
        for (int n = here.columns.first; n <= here.columns.last; n++) {
            Pack unit = x[unit_at(here, m, n, at)];
            for (int v = 0; v < PACK; v++) sum[v] += wide(unit.at[v]);
        }
    wide M = units(at, here.p, here.q, counted);
    Pack mean;
    for (int v = 0; v < PACK; v++)
        mean.at[v] = real(isinf(sum[v]) ? mean_of_parts(x, here, at, v, M) : sum[v] / M);  // E8
    y[i] = mean;
}

// E8: √(Σ window²), divided by the largest magnitude first, so that no square overflows or vanishes.
ENTRY l2_pool(Pack* y, const Pack* x, int count, Windows at) {
    int i = thread_number();
    if (i >= count) return;
    Position here = position(i, at);
    wide scale[PACK] = {}, squares[PACK] = {};
    for (int m = here.rows.first; m <= here.rows.last; m++)
        for (int n = here.columns.first; n <= here.columns.last; n++) {
            Pack unit = x[unit_at(here, m, n, at)];
            for (int v = 0; v < PACK; v++) {
                wide size = fabs(wide(unit.at[v]));
                if (size > scale[v]) scale[v] = size;  // a NaN is seen in the squares
            }
        }
    for (int v = 0; v < PACK; v++)
        if (scale[v] == 0 || isinf(scale[v])) scale[v] = 1;
    for (int m = here.rows.first; m <= here.rows.last; m++)
        for (int n = here.columns.first; n <= here.columns.last; n++) {
            Pack unit = x[unit_at(here, m, n, at)];
            for (int v = 0; v < PACK; v++) {
                wide part = wide(unit.at[v]) / scale[v];
                squares[v] += part * part;
            }
        }
    Pack length;
    for (int v = 0; v < PACK; v++) length.at[v] = real(scale[v] * sqrt(squares[v]));  // E8
    y[i] = length;
}

// -- E15 --------------------------------------------------------------------------------------------------------------

struct Unit {
    int image, row, column, c;  // on the padded map
    Span down, across;          // the windows that may read it
};

__device__ inline Unit unit(int i, const Windows& at) {
    Unit here;
    here.image = i;
    here.c = take(here.image, at.by_C);
    here.column = take(here.image, at.by_W) + at.left;
    here.row = take(here.image, at.by_H) + at.top;
    here.down = windows_over(here.row, at.k1, at.r1, at.s1, at.by_s1, at.P);
    here.across = windows_over(here.column, at.k2, at.r2, at.s2, at.by_s2, at.Q);
    return here;
}

__device__ inline void store(Pack* dx, int i, const wide* sum) {
    Pack total;
    for (int v = 0; v < PACK; v++) total.at[v] = real(sum[v]);
    dx[i] = total;
}

// The whole delta of a window goes to its winner, after E14 if a ReLU with output y followed.
ENTRY max_unpool(Pack* dx, const Pack* dy, const Pack* y, const Taps* winners, int count, Windows at) {
    int i = thread_number();
    if (i >= count) return;
    Unit here = unit(i, at);
    wide sum[PACK] = {};
    for (int p = here.down.first; p <= here.down.last; p++) {
        int m = tap_at(here.row, p * at.s1, at.r1, at.by_r1);
        if (m < 0) continue;
        for (int q = here.across.first; q <= here.across.last; q++) {
            int n = tap_at(here.column, q * at.s2, at.r2, at.by_r2);
            if (n < 0) continue;
            int window = ((here.image * at.P + p) * at.Q + q) * at.C + here.c;
            Pack delta = dy[window], out = y ? y[window] : delta;
            Taps won = winners[window];
            for (int v = 0; v < PACK; v++)
                if (int(won.at[v]) == m * at.k2 + n)
                    sum[v] += y && !(wide(out.at[v]) > 0) ? wide(0) : wide(delta.at[v]);  // E14, E15
        }
    }
    store(dx, i, sum);
}

// 1 / M of a window's delta goes to each of its units.
ENTRY avg_unpool(Pack* dx, const Pack* dy, int count, Windows at, int counted) {
    int i = thread_number();
    if (i >= count) return;
    Unit here = unit(i, at);
    wide sum[PACK] = {};
    for (int p = here.down.first; p <= here.down.last; p++) {
        if (tap_at(here.row, p * at.s1, at.r1, at.by_r1) < 0) continue;
        for (int q = here.across.first; q <= here.across.last; q++) {
            if (tap_at(here.column, q * at.s2, at.r2, at.by_r2) < 0) continue;
            Pack delta = dy[((here.image * at.P + p) * at.Q + q) * at.C + here.c];
            wide M = units(at, p, q, counted);
            for (int v = 0; v < PACK; v++) sum[v] += wide(delta.at[v]) / M;  // E15
        }
    }
    store(dx, i, sum);
}

// x / y of a window's delta goes to each of its units, 0 where y = 0.
ENTRY l2_unpool(Pack* dx, const Pack* dy, const Pack* x, const Pack* y, int count, Windows at) {
    int i = thread_number();
    if (i >= count) return;
    Unit here = unit(i, at);
    Pack value = x[i];
    wide sum[PACK] = {};
    for (int p = here.down.first; p <= here.down.last; p++) {
        if (tap_at(here.row, p * at.s1, at.r1, at.by_r1) < 0) continue;
        for (int q = here.across.first; q <= here.across.last; q++) {
            if (tap_at(here.column, q * at.s2, at.r2, at.by_r2) < 0) continue;
            int window = ((here.image * at.P + p) * at.Q + q) * at.C + here.c;
            Pack delta = dy[window], length = y[window];
            for (int v = 0; v < PACK; v++) {
                wide by = wide(length.at[v]);
                if (by != 0) sum[v] += wide(value.at[v]) / by * wide(delta.at[v]);  // E15
            }
        }
    }
    store(dx, i, sum);
}
