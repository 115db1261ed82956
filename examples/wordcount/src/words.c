#include "words.h"

#include <ctype.h>
#include <sqlite3.h>
#include <stdlib.h>

struct words {
	sqlite3 *db;
	sqlite3_stmt *add;
	sqlite3_stmt *top;
};

struct words *words_open(void)
{
	struct words *words = calloc(1, sizeof *words);
	if (!words)
		return NULL;
	if (sqlite3_open(":memory:", &words->db) != SQLITE_OK ||
	    sqlite3_exec(words->db,
			 "CREATE TABLE words (word TEXT PRIMARY KEY, count INTEGER) WITHOUT ROWID",
			 NULL, NULL, NULL) != SQLITE_OK ||
	    sqlite3_prepare_v2(words->db,
			       "INSERT INTO words VALUES (?, 1)"
			       " ON CONFLICT (word) DO UPDATE SET count = count + 1",
			       -1, &words->add, NULL) != SQLITE_OK ||
	    sqlite3_prepare_v2(words->db,
			       "SELECT word, count FROM words ORDER BY count DESC, word LIMIT ?",
			       -1, &words->top, NULL) != SQLITE_OK) {
		words_close(words);
		return NULL;
	}
	return words;
}

static int add_word(struct words *words, const char *word, size_t length)
{
	char lower[64];
	if (length > sizeof lower)
		length = sizeof lower;
	for (size_t i = 0; i < length; i++)
		lower[i] = (char)tolower((unsigned char)word[i]);
	sqlite3_bind_text(words->add, 1, lower, (int)length, SQLITE_TRANSIENT);
	int done = sqlite3_step(words->add) == SQLITE_DONE;
	sqlite3_reset(words->add);
	return done ? 0 : -1;
}

int words_add(struct words *words, const char *text, size_t length)
{
	size_t start = 0;
	if (sqlite3_exec(words->db, "BEGIN", NULL, NULL, NULL) != SQLITE_OK)
		return -1;
	for (size_t i = 0; i <= length; i++) {
		if (i < length && isalpha((unsigned char)text[i]))
			continue;
		if (i > start && add_word(words, text + start, i - start) != 0)
			return -1;
		start = i + 1;
	}
	return sqlite3_exec(words->db, "COMMIT", NULL, NULL, NULL) == SQLITE_OK ? 0 : -1;
}

int words_top(struct words *words, int limit, void (*each)(const char *word, long long count))
{
	int step;
	sqlite3_bind_int(words->top, 1, limit);
	while ((step = sqlite3_step(words->top)) == SQLITE_ROW)
		each((const char *)sqlite3_column_text(words->top, 0),
		     sqlite3_column_int64(words->top, 1));
	sqlite3_reset(words->top);
	return step == SQLITE_DONE ? 0 : -1;
}

const char *words_error(struct words *words)
{
	return sqlite3_errmsg(words->db);
}

void words_close(struct words *words)
{
	sqlite3_finalize(words->add);
	sqlite3_finalize(words->top);
	sqlite3_close(words->db);
	free(words);
}
