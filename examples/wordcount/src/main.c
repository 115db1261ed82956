/* wordcount N: reads text and prints its N most frequent words and how well it compresses. */
#include "words.h"

#include <stdio.h>
#include <stdlib.h>
#include <zstd.h>

static void print_word(const char *word, long long count)
{
	printf("%s: %lld\n", word, count);
}

static char *read_all(FILE *file, size_t *length)
{
	size_t room = 1 << 16;
	char *text = malloc(room);
	*length = 0;
	while (text) {
		*length += fread(text + *length, 1, room - *length, file);
		if (*length < room)
			break;
		room *= 2;
		char *larger = realloc(text, room);
		if (!larger)
			free(text);
		text = larger;
	}
	return text;
}

static size_t compressed_size(const char *text, size_t length)
{
	size_t room = ZSTD_compressBound(length);
	char *target = malloc(room);
	size_t size = target ? ZSTD_compress(target, room, text, length, 19) : 0;
	free(target);
	return ZSTD_isError(size) ? 0 : size;
}

int main(int argc, char **argv)
{
	size_t length;
	char *text = read_all(stdin, &length);
	struct words *words = words_open();
	if (!text || !words) {
		fprintf(stderr, "wordcount: out of memory\n");
		return 1;
	}
	if (words_add(words, text, length) != 0 ||
	    words_top(words, argc > 1 ? atoi(argv[1]) : 10, print_word) != 0) {
		fprintf(stderr, "wordcount: %s\n", words_error(words));
		return 1;
	}
	printf("%zu bytes, compressed %zu\n", length, compressed_size(text, length));
	words_close(words);
	free(text);
	return 0;
}
