// E6: windows laid out as the rows of a matrix, and the adjoint.
#include "common.h"

// im2col: (N, H, W, C) -> (N·P·Q, k1·k2·C). One thread copies one pack.
ENTRY im2col(Pack* columns, const Pack* x, int count, Windows at) {
    int i = thread_number();
    if (i >= count) return;
    int image = i;
    int c = take(image, at.by_C), n = take(image, at.by_k2), m = take(image, at.by_k1);
    int q = take(image, at.by_Q), p = take(image, at.by_P);
    int row = p * at.s1 + m * at.r1 - at.top, column = q * at.s2 + n * at.r2 - at.left;
    bool on_map = row >= 0 && row < at.H && column >= 0 && column < at.W;
    columns[i] = on_map ? x[((image * at.H + row) * at.W + column) * at.C + c] : zeros();
}

// col2im: (N·P·Q, k1·k2·C) -> (N, H, W, C). Each unit adds up its copies in the windows that read it, in their order.
ENTRY col2im(Pack* x, const Pack* columns, int count, Windows at) {
    int i = thread_number();
    if (i >= count) return;
    int image = i;
    int c = take(image, at.by_C), column = take(image, at.by_W) + at.left, row = take(image, at.by_H) + at.top;
    Span down = windows_over(row, at.k1, at.r1, at.s1, at.by_s1, at.P);
    Span across = windows_over(column, at.k2, at.r2, at.s2, at.by_s2, at.Q);
    wide sum[PACK] = {};
    for (int p = down.first; p <= down.last; p++) {
        int m = tap_at(row, p * at.s1, at.r1, at.by_r1);
        if (m < 0) continue;
        for (int q = across.first; q <= across.last; q++) {
            int n = tap_at(column, q * at.s2, at.r2, at.by_r2);
            if (n < 0) continue;
            int position = (image * at.P + p) * at.Q + q;
            Pack part = columns[((position * at.k1 + m) * at.k2 + n) * at.C + c];
            for (int v = 0; v < PACK; v++) sum[v] += wide(part.at[v]);
        }
    }
    Pack total;
    for (int v = 0; v < PACK; v++) total.at[v] = real(sum[v]);
    x[i] = total;
}
