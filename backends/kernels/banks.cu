// Banks of filters, turned for cuDNN: (k1·k2·C/g, D) -> (D, k1·k2·C/g), and back.
#include "common.h"

#define SIDE 32
#define ROWS 8

// to (columns, rows) = from (rows, columns) transposed. A block of 32 × 8 threads turns a tile of 32 × 32, so that it
// reads and writes in runs; the tile is a column wider than it needs, so that no two lanes meet in one bank of memory.
ENTRY turn(real* to, const real* from, int rows, int columns) {
    __shared__ real tile[SIDE][SIDE + 1];
    int left = blockIdx.x * SIDE, top = blockIdx.y * SIDE;
    for (int y = threadIdx.y; y < SIDE; y += ROWS)
        if (top + y < rows && left + threadIdx.x < columns)
            tile[y][threadIdx.x] = from[(top + y) * columns + left + threadIdx.x];
    __syncthreads();
    for (int y = threadIdx.y; y < SIDE; y += ROWS)
        if (left + y < columns && top + threadIdx.x < rows)
            to[(left + y) * rows + top + threadIdx.x] = tile[threadIdx.x][y];
}
