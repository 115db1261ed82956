/* Words and how often they occur, kept in a database in memory. */
#ifndef WORDS_H
#define WORDS_H

#include <stddef.h>

struct words;

struct words *words_open(void);
/* Counts every run of letters in the text. Returns 0, or -1 on failure. */
int words_add(struct words *words, const char *text, size_t length);
/* Calls `each` with the most frequent words, most frequent first. */
int words_top(struct words *words, int limit, void (*each)(const char *word, long long count));
const char *words_error(struct words *words);
void words_close(struct words *words);

#endif
