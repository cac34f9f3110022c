/* One table of options makes the flags, the configuration file's keys, --help and the manual page.
 *
 * A program declares `static const struct option OPTIONS[]` (ended by a row with a NULL name) over
 * a config struct of its own. Values are checked here: type, range, choice; an error names the
 * option, what was expected and what was found, and leaves the field as it was. Later settings win;
 * the program applies defaults, then the file, then the flags. Not thread-safe. */
#ifndef MT_API_OPTION_H
#define MT_API_OPTION_H

#include <stddef.h>
#include <stdio.h>

#include "api/status.h"

#define OPTION_MAX_VALUE 4096 /* bytes of a name or value in a file, NUL included */

enum option_type {
    OPTION_FLAG,     /* bool; `--name`, `--name=false`, `--no-name`; in a file true or false */
    OPTION_INT,      /* int64_t in [min, max] */
    OPTION_SIZE,     /* int64_t bytes; accepts KiB, MiB, GiB (and K, M, G) */
    OPTION_DURATION, /* int64_t milliseconds; accepts ms, s, min, h; a bare number is seconds */
    OPTION_REAL,     /* double in [min, max] */
    OPTION_TEXT,     /* char *, owned by the config, NULL if the default is NULL */
    OPTION_CHOICE,   /* int, index into choices */
};

struct option {
    const char *name; /* "kv-memory"; the file's key is the same */
    enum option_type type;
    size_t offset;              /* offsetof(struct config, field) */
    const char *value;          /* default, as it would be typed; NULL only for OPTION_TEXT */
    double min, max;            /* in bytes, ms; both 0: from 0 to what the type can hold */
    const char *const *choices; /* OPTION_CHOICE, NULL-terminated */
    const char *arg;            /* "BYTES", for help */
    const char *section;        /* a heading in help; rows of one section stand together */
    const char *help;           /* one or more sentences */
};

/* Fills every field; what config held before is not freed. On failure nothing stays allocated. */
int option_defaults(const struct option *table, void *config, struct mt_err *reterr);
int option_set(const struct option *table, void *config, const char *name, const char *value,
               struct mt_err *reterr);
/* Reads flags (`--name=value` or `--name value`) from argv[1..]; a word that is no flag ends it, as
 * does "--". *ret_next is the first word not taken. */
int option_parse_args(const struct option *table, void *config, int argc, char *const *argv,
                      int *ret_next, struct mt_err *reterr);
/* `key = value` lines; a line that starts with # is a comment (a # further on is part of the
 * value). Errors name file and line; the lines before have been applied. bytes need no NUL. */
int option_parse_file(const struct option *table, void *config, const char *bytes, size_t len,
                      const char *name, struct mt_err *reterr);
void option_help(const struct option *table, FILE *out);
void option_manual(const struct option *table, FILE *out);  /* the OPTIONS section, man(7) source */
void option_done(const struct option *table, void *config); /* frees texts, leaves them NULL */

#endif
