# Builds zstd as a static library, without its assembler files.
sources := $(wildcard zstd/common/*.c zstd/compress/*.c zstd/decompress/*.c zstd/dictBuilder/*.c)
objects := $(sources:.c=.o)

libzstd.a: $(objects)
	$(AR) rcs $@ $^

%.o: %.c
	$(CC) $(CFLAGS) -DZSTD_DISABLE_ASM -c $< -o $@
