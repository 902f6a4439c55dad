// Filter banks, transposed for cuDNN: (k1·k2·C/g, D) -> (D, k1·k2·C/g), and back.
#include "common.h"

#define SIDE 32
#define ROWS 8
#define PER_LAUNCH 40  // banks

// to (columns, rows) = from (rows, columns) transposed: one tile of 32 × 32 by 32 × 8 threads, which read and write
// neighbouring addresses. In shared memory the tile has a spare column, so that no two lanes need one memory bank.
template <class Number>
__device__ inline void turn_tile(real* to, const Number* from, int rows, int columns, int number) {
    __shared__ real tile[SIDE][SIDE + 1];
    int across = (columns + SIDE - 1) / SIDE;
    int left = number % across * SIDE, top = number / across * SIDE;
    for (int y = threadIdx.y; y < SIDE; y += ROWS)
        if (top + y < rows && left + threadIdx.x < columns)
            tile[y][threadIdx.x] = real(wide(from[(top + y) * columns + left + threadIdx.x]));
    __syncthreads();
    for (int y = threadIdx.y; y < SIDE; y += ROWS)
        if (left + y < columns && top + threadIdx.x < rows)
            to[(left + y) * rows + top + threadIdx.x] = tile[threadIdx.x][y];
}

ENTRY turn(real* to, const real* from, int rows, int columns) {
    turn_tile(to, from, rows, columns, blockIdx.x);
}

struct Turn {
    real* to;
    const void* from;
    int rows, columns, blocks;  // blocks: tiles up to and including this bank
};

struct Turns {
    Turn at[PER_LAUNCH];
};

// The bank of this block; `tile` becomes the block's tile in it.
__device__ inline const Turn& mine(const Turns& all, int& tile) {
    int k = 0, before = 0;
    while ((int)blockIdx.x >= all.at[k].blocks) before = all.at[k++].blocks;
    tile = blockIdx.x - before;
    return all.at[k];
}

// Many banks in one launch, rounded to 16 bits on the way.
ENTRY turn_all(Turns all) {
    int tile;
    const Turn& of = mine(all, tile);
    turn_tile(of.to, (const wide*)of.from, of.rows, of.columns, tile);
}

// The gradients of many banks in one launch, as they are.
ENTRY turn_gradients(Turns all) {
    int tile;
    const Turn& of = mine(all, tile);
    turn_tile(of.to, (const real*)of.from, of.rows, of.columns, tile);
}
