// A batch from images on the device: gathered, shifted, flipped and normalised in one pass.
#include "common.h"

#ifndef PIXEL
#define PIXEL unsigned char
#endif
typedef PIXEL pixel;

// y[n, i, j, c] = (x[order[n], i + down, j' + right, c] − mean[c]) · scale[c] with j' = j, or W − 1 − j where flipped.
// moves (N, 3) holds down, right and flipped for each image; null moves nothing. Pixels off the image are 0 before they
// are normalised (black).
ENTRY gather_batch(real* y, const pixel* x, const int* order, const signed char* moves, const wide* mean,
                   const wide* scale, int count, int H, int W, Divisor by_H, Divisor by_W, Divisor by_C) {
    int i = thread_number();
    if (i >= count) return;
    int image = i;
    int c = take(image, by_C), column = take(image, by_W), row = take(image, by_H);
    if (moves) {
        if (moves[3 * image + 2]) column = W - 1 - column;
        row += moves[3 * image];
        column += moves[3 * image + 1];
    }
    wide value = 0;
    if (row >= 0 && row < H && column >= 0 && column < W) {
        long long source = ((long long)order[image] * H + row) * W + column;  // 64 bits: a data set may be large
        value = wide(x[source * (int)by_C.divisor + c]);
    }
    y[i] = real((value - mean[c]) * scale[c]);
}
