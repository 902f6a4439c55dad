// Passes over all units: ReLU (E7, E14), sums of two maps, the bias (E4), dropout and its random numbers.
#include "common.h"

// E7: max(0, x).
ENTRY rectify(Pack* y, const Pack* x, int count) {
    int i = thread_number();
    if (i >= count) return;
    Pack in = x[i], out;
    for (int v = 0; v < PACK; v++) out.at[v] = real(positive_part(wide(in.at[v])));
    y[i] = out;
}

// E14: dy where y > 0, else 0, whatever dy is.
ENTRY rectify_backward(Pack* dx, const Pack* dy, const Pack* y, int count) {
    int i = thread_number();
    if (i >= count) return;
    Pack delta = dy[i], out = y[i];
    for (int v = 0; v < PACK; v++) delta.at[v] = wide(out.at[v]) > 0 ? delta.at[v] : real(0.0f);
    dx[i] = delta;
}

// Two branches meet: x + other, and E7 with `relu`.
ENTRY add(Pack* y, const Pack* x, const Pack* other, int count, int relu) {
    int i = thread_number();
    if (i >= count) return;
    Pack sum = x[i], more = other[i];
    for (int v = 0; v < PACK; v++) {
        wide value = wide(sum.at[v]) + wide(more.at[v]);
        sum.at[v] = real(relu ? positive_part(value) : value);
    }
    y[i] = sum;
}

// E4, and E7 with `relu`: y ← y + b in place, one b for each channel.
ENTRY add_bias(Pack* y, const Pack* b, int count, Divisor by_C, int relu) {
    int i = thread_number();
    if (i >= count) return;
    int place = i, c = take(place, by_C);
    Pack sum = y[i], bias = b[c];
    for (int v = 0; v < PACK; v++) {
        wide x = wide(sum.at[v]) + wide(bias.at[v]);
        sum.at[v] = real(relu ? positive_part(x) : x);
    }
    y[i] = sum;
}

// -- dropout ----------------------------------------------------------------------------------------------------------

struct Key {
    unsigned int seed_low, seed_high, step_low, step_high;
};

struct Words {
    unsigned int at[4];
};

// Philox4x32-10 (Salmon et al. 2011): ten rounds over counter words (block low, block high, step low, step high).
__device__ inline Words philox4x32(unsigned int block, Key key, const unsigned long long* steps) {
    unsigned long long step = (unsigned long long)key.step_high << 32 | key.step_low;
    if (steps) step += *steps;  // a captured step reads its number from the device
    unsigned int c0 = block, c1 = 0, c2 = (unsigned int)step, c3 = (unsigned int)(step >> 32);
    unsigned int k0 = key.seed_low, k1 = key.seed_high;
    for (int round = 0; round < 10; round++) {
        unsigned int high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        unsigned int high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    Words words = {{c0, c1, c2, c3}};
    return words;
}

// Word i is word i mod 4 of block i / 4. One thread makes one block.
ENTRY philox(unsigned int* words, int count, Key key, const unsigned long long* steps) {
    int block = thread_number();
    if (block >= (count + 3) / 4) return;
    Words drawn = philox4x32(block, key, steps);
    for (int v = 0; v < 4 && 4 * block + v < count; v++) words[4 * block + v] = drawn.at[v];
}

// The mask of dropout: 1 where word i is above `limit`, else 0.
ENTRY drawn_above(unsigned char* mask, int count, Key key, const unsigned long long* steps, unsigned int limit) {
    int block = thread_number();
    if (block >= (count + 3) / 4) return;
    Words drawn = philox4x32(block, key, steps);
    for (int v = 0; v < 4 && 4 * block + v < count; v++) mask[4 * block + v] = drawn.at[v] > limit;
}

// E7, E14 of dropout: y = x · scale where the mask is 1, else 0, whatever x is.
ENTRY masked(Pack* y, const Pack* x, const Flags* mask, int count, wide scale) {
    int i = thread_number();
    if (i >= count) return;
    Pack value = x[i];
    Flags kept = mask[i];
    for (int v = 0; v < PACK; v++) value.at[v] = kept.at[v] ? real(wide(value.at[v]) * scale) : real(0.0f);
    y[i] = value;
}
