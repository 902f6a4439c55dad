// E17 for many parameters in one launch. Parameters and the optimizer's state are `wide`; gradients are `real`, and
// `shadow` (or null) takes the new value rounded to `real`. Old and new may be the same array.
// Addresses are arguments of the launch: nothing is copied to the device, and a captured launch keeps them.
// With a loss scale, gradients are multiplied by `unscale`, and a step whose gradients are not all finite changes
// nothing: the new values are the old ones.
#include "common.h"

#define PER_LAUNCH 40   // tensors
#define PER_BLOCK 1024  // elements

struct Tensor {
    wide *w, *a, *b;  // new value; new velocity, or mean and mean square
    real* shadow;
    const wide *old_w, *old_a, *old_b;
    const real* g;
    int size, blocks;  // blocks up to and including this tensor
};

struct Tensors {
    Tensor at[PER_LAUNCH];
};

struct Rule {
    wide lr, weight_decay, first, second;  // first: momentum or β1; second: β2
    wide rest_1, rest_2, epsilon;          // 1 − β1 and 1 − β2, which would lose digits in `wide`
    wide correction_1, correction_2;       // 1 − β1^t and √(1 − β2^t)
    int nesterov, decoupled;
    double beta_1, beta_2;
    const wide* device_lr;                   // null, or where a captured step reads lr
    const unsigned long long* device_steps;  // null, or the number of steps before this one
    const wide* unscale;                     // null, or the factor of the gradients
    const unsigned char* finite;             // null, or whether this step changes anything
};

// The tensor of this block; `begin` becomes the block's first element in it.
__device__ inline const Tensor& mine(const Tensors& all, int& begin) {
    int k = 0, before = 0;
    while ((int)blockIdx.x >= all.at[k].blocks) before = all.at[k++].blocks;
    begin = (blockIdx.x - before) * PER_BLOCK;
    return all.at[k];
}

__device__ inline void keep(const Tensor& of, int i, wide value) {
    of.w[i] = value;
    if (of.shadow) of.shadow[i] = real(value);
}

__device__ inline void keep_old(const Tensor& of, int i) {
    keep(of, i, of.old_w[i]);
    if (of.a) of.a[i] = of.old_a[i];
    if (of.b) of.b[i] = of.old_b[i];
}

__device__ inline bool counts(const Rule& rule) { return !rule.finite || *rule.finite; }

__device__ inline wide gradient(const Tensor& of, int i, const Rule& rule) {
    return rule.unscale ? wide(of.g[i]) * *rule.unscale : wide(of.g[i]);
}

// Mean squares up to the square of this number are stored as they are; a larger one is stored as minus its root.
__device__ inline float large(float) { return 9.223372036854775808e18f; }  // 2⁶³
__device__ inline double large(double) { return 6.703903964971298549787e153; }  // 2⁵¹¹

// m ← m + (1 − β1)(g − m);  s ← β2 s + (1 − β2) g²;  returns √s. As in dualnet/optimizers/moments.py.
__device__ inline wide moments(const Tensor& of, int i, wide g, const Rule& rule, wide& mean, wide& square) {
    mean = of.old_a[i], square = of.old_b[i];
    const wide most = large(wide());
    if (!(g > most || g < -most || square < 0)) {
        mean = mean + rule.rest_1 * (g - mean);
        square = rule.second * square + rule.rest_2 * (g * g);
        return sqrt(square);
    }
    wide before = square < 0 ? -square : sqrt(square);
    wide root = hypot(sqrt(rule.second) * before, sqrt(rule.rest_2) * g);
    mean = rule.first * mean + rule.rest_1 * g;
    square = root > most ? -root : root * root;
    return root;
}

// v ← momentum · v + g;  w ← w − lr · v, with nesterov w ← w − lr · (g + momentum · v).
ENTRY sgd_update(Tensors all, Rule rule) {
    int begin;
    const Tensor& of = mine(all, begin);
    wide lr = rule.device_lr ? *rule.device_lr : rule.lr;
    for (int i = begin + threadIdx.x; i < min(begin + PER_BLOCK, of.size); i += blockDim.x) {
        if (!counts(rule)) {
            keep_old(of, i);
            continue;
        }
        wide w = of.old_w[i], g = gradient(of, i, rule) + rule.weight_decay * w, direction = g;
        if (of.a) {
            wide velocity = rule.first * of.old_a[i] + g;
            of.a[i] = velocity;
            direction = rule.nesterov ? g + rule.first * velocity : velocity;
        }
        keep(of, i, w - lr * direction);  // E17
    }
}

// m ← m + (1 − β1)(g − m);  v ← β2 v + (1 − β2) g²;  w ← w − lr · m̂ / (√v̂ + ε).
ENTRY adam_update(Tensors all, Rule rule) {
    int begin;
    const Tensor& of = mine(all, begin);
    wide lr = rule.device_lr ? *rule.device_lr : rule.lr;
    wide correction_1 = rule.correction_1, correction_2 = rule.correction_2;
    if (rule.device_steps) {
        double t = double(*rule.device_steps + 1);
        correction_1 = wide(1 - pow(rule.beta_1, t));
        correction_2 = wide(sqrt(1 - pow(rule.beta_2, t)));
    }
    for (int i = begin + threadIdx.x; i < min(begin + PER_BLOCK, of.size); i += blockDim.x) {
        if (!counts(rule)) {
            keep_old(of, i);
            continue;
        }
        wide w = of.old_w[i], g = gradient(of, i, rule);
        if (rule.decoupled) w *= wide(1) - lr * rule.weight_decay;
        else g += rule.weight_decay * w;
        wide mean, square, root = moments(of, i, g, rule, mean, square);
        of.a[i] = mean;
        of.b[i] = square;
        wide spread = root / correction_2 + rule.epsilon;
        keep(of, i, w - lr / correction_1 * (mean / spread));  // E17
    }
}

// -- the loss scale ---------------------------------------------------------------------------------------------------

// finite ← 0 if a number in any g is infinite or NaN; `finite` was 1. Every thread that writes, writes 0.
ENTRY all_finite(Tensors all, unsigned char* finite) {
    int begin;
    const Tensor& of = mine(all, begin);
    bool bad = false;
    for (int i = begin + threadIdx.x; i < min(begin + PER_BLOCK, of.size); i += blockDim.x) {
        wide g = wide(of.g[i]);
        bad |= g - g != 0;  // ∞ − ∞ is NaN, and NaN is not 0
    }
    if (bad) *finite = 0;
}

// w ← g · by.
ENTRY unscale(Tensors all, const wide* by) {
    int begin;
    const Tensor& of = mine(all, begin);
    for (int i = begin + threadIdx.x; i < min(begin + PER_BLOCK, of.size); i += blockDim.x)
        of.w[i] = wide(of.g[i]) * *by;
}

// -- parameters of 16 bits --------------------------------------------------------------------------------------------

// shadow ← w.
ENTRY round_all(Tensors all) {
    int begin;
    const Tensor& of = mine(all, begin);
    for (int i = begin + threadIdx.x; i < min(begin + PER_BLOCK, of.size); i += blockDim.x)
        of.shadow[i] = real(of.old_w[i]);
}
