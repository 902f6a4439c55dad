// Runs the text of a CUDA kernel on the CPU: every thread of a block is a fiber, and __syncthreads() and the shuffles
// switch to the next one. Threads that wait for each other in vain are an error here, not a hang.
// It stands before a kernel file; DESCRIBE(name) after the file makes a kernel callable by name from outside.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <setjmp.h>
#include <string>
#include <tuple>
#include <type_traits>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __shared__ static
using std::exp;
using std::fabs;
using std::fma;
using std::hypot;
using std::isinf;
using std::log;
using std::max;
using std::min;
using std::pow;
using std::sqrt;

struct dim3 {
    unsigned x, y, z;
};
static dim3 threadIdx, blockIdx, blockDim, gridDim;

static inline unsigned __umulhi(unsigned a, unsigned b) { return (uint64_t)a * b >> 32; }
static inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}
static inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
// binary16, rounded to the nearest, ties to even
static inline float half_to_float(unsigned short bits) {
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float size = exponent == 31 ? (fraction ? NAN : INFINITY)
                 : exponent     ? std::ldexp(1024.0f + fraction, exponent - 25)
                                : std::ldexp((float)fraction, -24);
    return bits >> 15 ? -size : size;
}
static inline unsigned short float_to_half(float x) {
    unsigned short sign = std::signbit(x) ? 0x8000 : 0;
    if (x != x) return sign | 0x7e00;
    double size = std::fabs((double)x);
    if (size < std::ldexp(1.0, -14)) return sign | (unsigned short)std::nearbyint(std::ldexp(size, 24));
    int exponent = std::ilogb(size);
    if (std::isinf(size) || exponent > 15) return sign | 0x7c00;
    return sign + ((exponent + 15) << 10) + (int)std::nearbyint(std::ldexp(size, 10 - exponent)) - 1024;
}

static unsigned short rounded_to_upper_half(float);
static inline unsigned short float_to_bfloat(float x) { return rounded_to_upper_half(x); }

// -- fibers -----------------------------------------------------------------------------------------------------------

enum Waiting { NOT, BLOCK, WARP, ENDED };
static const size_t STACK = (64 << 10) + 192;  // at a power of two from each other they would share cache lines

struct Fiber {
    ucontext_t context;  // where it begins
    jmp_buf at;          // where it goes on: swapcontext() would ask the system for the signal mask each time
    bool begun = false;
    Waiting waits = NOT;
    dim3 thread;
    double slot = 0;
};

static jmp_buf scheduler;
static std::vector<Fiber> fibers;  // each runs its thread of one block after another; small blocks use the first ones
static std::unique_ptr<char[]> stacks;
static Fiber* running = nullptr;
static void (*body)(void*);
static void* body_arguments;

static void wait_for(Waiting whom) {
    if (!running) {
        fprintf(stderr, "threads of a kernel wait for each other, and cooperative() in cuda_host.py missed it\n");
        abort();
    }
    Fiber* self = running;
    self->waits = whom;
    if (!_setjmp(self->at)) _longjmp(scheduler, 1);
}

static void fiber_main() {
    for (;;) {
        body(body_arguments);
        wait_for(ENDED);
    }
}

static void go_on(Fiber& fiber) {
    running = &fiber;
    threadIdx = fiber.thread;
    if (!_setjmp(scheduler)) {
        if (fiber.begun) _longjmp(fiber.at, 1);
        fiber.begun = true;
        setcontext(&fiber.context);
    }
    running = nullptr;
}

static inline void __syncthreads() { wait_for(BLOCK); }

template <class T>
static T __shfl_xor_sync(unsigned, T value, int lanes) {
    size_t self = running - fibers.data();
    running->slot = value;
    wait_for(WARP);
    T other = (T)fibers[self ^ lanes].slot;
    wait_for(WARP);
    return other;
}

static bool release(size_t first, size_t last, Waiting whom) {
    size_t waiting = 0, alive = 0;
    for (size_t i = first; i < last; i++) {
        alive += fibers[i].waits != ENDED;
        waiting += fibers[i].waits == whom;
    }
    if (!alive || waiting != alive) return false;
    if (whom == BLOCK && alive != last) return false;  // some threads left before the barrier
    for (size_t i = first; i < last; i++)
        if (fibers[i].waits == whom) fibers[i].waits = NOT;
    return true;
}

// 0, or 1 if threads wait for each other in vain.
static int run_block(unsigned threads, bool backwards) {
    if (fibers.size() < threads) {
        fibers = std::vector<Fiber>(threads);
        stacks.reset(new char[threads * STACK]);
        for (unsigned t = 0; t < threads; t++) {
            ucontext_t& context = fibers[t].context;
            getcontext(&context);
            context.uc_stack.ss_sp = &stacks[t * STACK];
            context.uc_stack.ss_size = STACK;
            context.uc_link = nullptr;
            makecontext(&context, fiber_main, 0);
        }
    }
    for (unsigned t = 0; t < threads; t++) {
        fibers[t].waits = NOT;
        fibers[t].thread = {t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y};
    }
    for (;;) {
        bool ran = false;
        for (unsigned k = 0; k < threads; k++) {
            Fiber& fiber = fibers[backwards ? threads - 1 - k : k];
            if (fiber.waits != NOT) continue;
            go_on(fiber);
            ran = true;
        }
        for (unsigned first = 0; first < threads; first += 32) ran |= release(first, min(first + 32, threads), WARP);
        ran |= release(0, threads, BLOCK);
        if (!ran) break;
    }
    for (unsigned t = 0; t < threads; t++)
        if (fibers[t].waits != ENDED) {
            fibers.clear();  // they stand in the middle of this block
            return 1;
        }
    return 0;
}

// -- launching by name ------------------------------------------------------------------------------------------------

template <class T>
struct Name {
    static std::string of() { return "struct" + std::to_string(sizeof(T)); }
};
#define NAMED(T, name) \
    template <> \
    struct Name<T> { \
        static std::string of() { return name; } \
    };
NAMED(float, "float32") NAMED(double, "float64") NAMED(int, "int32") NAMED(unsigned int, "uint32")
NAMED(unsigned char, "uint8") NAMED(signed char, "int8") NAMED(long long, "int64") NAMED(unsigned long long, "uint64")
template <class T>
struct Name<T*> {
    static std::string of() { return "*" + Name<typename std::remove_const<T>::type>::of(); }
};

template <class... A, size_t... I>
static void call(void (*kernel)(A...), void** values, std::index_sequence<I...>) {
    kernel(*(typename std::remove_reference<A>::type*)values[I]...);
}

template <class... A>
struct Bound {
    void (*kernel)(A...);
    void** values;
    static void run(void* self) {
        Bound* bound = (Bound*)self;
        call(bound->kernel, bound->values, std::index_sequence_for<A...>());
    }
};

template <class... A>
static std::string described(void (*)(A...)) {
    std::string all;
    ((all += (all.empty() ? "" : " ") + Name<A>::of()), ...);
    return all;
}

template <class... A>
static int launch(void (*kernel)(A...), void** values, const unsigned* grid, const unsigned* block, int together,
                  int backwards) {
    Bound<A...> bound = {kernel, values};
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    body = Bound<A...>::run;
    body_arguments = &bound;
    unsigned threads = block[0] * block[1] * block[2], blocks = grid[0] * grid[1] * grid[2];
    for (unsigned k = 0; k < blocks; k++) {
        unsigned b = backwards ? blocks - 1 - k : k;
        blockIdx = {b % grid[0], b / grid[0] % grid[1], b / grid[0] / grid[1]};
        if (together) {
            if (run_block(threads, backwards)) return 1;
            continue;
        }
        for (unsigned j = 0; j < threads; j++) {
            unsigned t = backwards ? threads - 1 - j : j;
            threadIdx = {t % block[0], t / block[0] % block[1], t / block[0] / block[1]};
            body(body_arguments);
        }
    }
    return 0;
}

#define DESCRIBE(kernel) \
    extern "C" int run_##kernel(void** values, const unsigned* grid, const unsigned* block, int together, \
                                int backwards) { \
        return launch(kernel, values, grid, block, together, backwards); \
    } \
    extern "C" const char* types_##kernel() { \
        static std::string types = described(kernel); \
        return types.c_str(); \
    }
