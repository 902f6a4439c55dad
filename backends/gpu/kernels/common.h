// What all kernels share: number types, fast division, where windows stand on maps.
//
// Compiled once for each combination that is needed:
//   -DREAL=float | double | float16 | bfloat16   the numbers in memory
//   -DPACK=1 | 2 | 4 | 8                         neighbouring channels that a thread reads and writes at once
//   -DTAP="unsigned char" | int                  the type of the winners of a max pooling
// Arithmetic is in `wide`: double for double, else float. Arrays are C-contiguous, feature maps (N, H, W, C).
// No kernel uses atomics: every element is written by one thread, and sums are added in one order.

#ifndef REAL
#define REAL float
#endif
#ifndef PACK
#define PACK 1
#endif
#ifndef TAP
#define TAP unsigned char
#endif

#define ENTRY extern "C" __global__ void

// -- numbers ----------------------------------------------------------------------------------------------------------

// The upper half of a float, rounded to nearest, ties to even: bfloat16 on GPUs without an instruction for it.
__device__ inline unsigned short rounded_to_upper_half(float x) {
    unsigned int word = __float_as_uint(x);
    return x != x ? 0x7fc0 : (word + 0x7fff + (word >> 16 & 1)) >> 16;
}

#ifdef __CUDACC_RTC__
__device__ inline float half_to_float(unsigned short bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

__device__ inline unsigned short float_to_half(float x) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

__device__ inline unsigned short float_to_bfloat(float x) {
#if __CUDA_ARCH__ >= 800
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
#else
    return rounded_to_upper_half(x);
#endif
}
#endif

struct float16 {  // 16 bits in memory, float in arithmetic; CUDA's headers may not be installed
    unsigned short bits;

    float16() = default;
    __device__ float16(float x) : bits(float_to_half(x)) {}
    __device__ operator float() const { return half_to_float(bits); }
};

struct bfloat16 {
    unsigned short bits;

    bfloat16() = default;
    __device__ bfloat16(float x) : bits(float_to_bfloat(x)) {}
    __device__ operator float() const { return __uint_as_float((unsigned int)bits << 16); }
};

template <class T>
struct Wide {
    typedef float type;
};

template <>
struct Wide<double> {
    typedef double type;
};

typedef REAL real;
typedef Wide<real>::type wide;
typedef TAP tap;

template <class T>
struct alignas(sizeof(T) * PACK) Packed {  // neighbouring channels, moved in one instruction
    T at[PACK];
};

typedef Packed<real> Pack;
typedef Packed<tap> Taps;
typedef Packed<unsigned char> Flags;

__device__ inline Pack zeros() {
    Pack pack;
    for (int v = 0; v < PACK; v++) pack.at[v] = real(0.0f);
    return pack;
}

// E7: max(0, x); NaN stays.
__device__ inline wide positive_part(wide x) { return x > 0 || x != x ? x : wide(0); }

__device__ inline int thread_number() { return blockIdx.x * blockDim.x + threadIdx.x; }

// -- division ---------------------------------------------------------------------------------------------------------

struct Divisor {  // n / divisor for 0 <= n < 2^31 by one multiplication (Granlund and Montgomery 1994)
    unsigned int divisor, magic, shift;
};

__device__ inline int quotient(int n, const Divisor& by) {
    return (__umulhi((unsigned int)n, by.magic) + (unsigned int)n) >> by.shift;
}

// n becomes n / divisor; returns the remainder.
__device__ inline int take(int& n, const Divisor& by) {
    int whole = quotient(n, by), rest = n - whole * (int)by.divisor;
    n = whole;
    return rest;
}

// -- windows (E6): the window at (p, q) reads rows p·s1 + m·r1 − top and columns q·s2 + n·r2 − left -------------------

struct Windows {
    int H, W, C;         // the map; C counts packs
    int k1, k2, s1, s2;  // taps and stride
    int r1, r2;          // dilation
    int top, bottom, left, right;
    int P, Q;  // output positions
    Divisor by_H, by_W, by_C, by_k1, by_k2, by_s1, by_s2, by_r1, by_r2, by_P, by_Q;
};

struct Span {  // first … last, both included; empty if last < first
    int first, last;
};

// The taps of a window that starts at `start` for which low <= start + tap·r < high.
__device__ inline Span taps_inside(int start, int k, int r, const Divisor& by_r, int low, int high) {
    Span taps;
    taps.first = start >= low ? 0 : quotient(low - start + r - 1, by_r);
    taps.last = high - 1 < start ? -1 : min(k - 1, quotient(high - 1 - start, by_r));
    return taps;
}

__device__ inline Span rows_inside(const Windows& at, int p) {
    return taps_inside(p * at.s1 - at.top, at.k1, at.r1, at.by_r1, 0, at.H);
}

__device__ inline Span columns_inside(const Windows& at, int q) {
    return taps_inside(q * at.s2 - at.left, at.k2, at.r2, at.by_r2, 0, at.W);
}

// The windows that may read a place on the padded map; where r > 1 the place may lie between two of their taps.
__device__ inline Span windows_over(int place, int k, int r, int s, const Divisor& by_s, int positions) {
    int before = place - r * (k - 1);
    Span windows;
    windows.first = before <= 0 ? 0 : quotient(before + s - 1, by_s);
    windows.last = min(quotient(place, by_s), positions - 1);
    return windows;
}

// The tap that reads a place, in a window that starts at `start`; −1 if none does.
__device__ inline int tap_at(int place, int start, int r, const Divisor& by_r) {
    int tap_number = quotient(place - start, by_r);
    return tap_number * r == place - start ? tap_number : -1;
}
