/* Writes MIB mebibytes that compress to about a half, the same for the same SEED. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: noise SEED MIB\n");
        return 2;
    }
    uint64_t state = strtoull(argv[1], NULL, 10) * 0x9e3779b97f4a7c15u + 1;
    static unsigned char block[1 << 20];
    for (long left = strtol(argv[2], NULL, 10); left > 0; left--) {
        for (size_t i = 0; i < sizeof block; i += 16) {
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;
            /* Eight random bytes, then eight that the compressor knows already. */
            for (int bit = 0; bit < 8; bit++) {
                block[i + bit] = (unsigned char)(state >> (8 * bit));
                block[i + 8 + bit] = (unsigned char)(i >> 12);
            }
        }
        if (fwrite(block, 1, sizeof block, stdout) != sizeof block) {
            perror("noise");
            return 1;
        }
    }
    return 0;
}
