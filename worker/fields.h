/* A JSON object of a model's directory, read field by field.
 *
 * The first wrong field is reported, naming file, field, what was expected and what was found;
 * after it every call returns its fallback, so that a reader checks f->status once, at its end. A
 * field that is null counts as absent. Not thread-safe. */
#ifndef MT_WORKER_FIELDS_H
#define MT_WORKER_FIELDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/status.h"

#define FIELDS_MAX_FILE (64u << 20) /* bytes; the index of a large model has 10 MB */
#define FIELDS_REQUIRED (-1)        /* as a fallback: the field must be there */

struct json_t; /* jansson's */

struct fields {
    const struct json_t *object;
    const char *file;   /* for messages; borrowed */
    const char *prefix; /* "" or "rope_parameters.", for messages */
    struct mt_err *err;
    int status; /* 0, or that of the first error */
};

/* Parse or read a file that holds one JSON object; *ret is released with fields_release.
 * MT_ENOTFOUND if there is no such file. */
int fields_parse(const char *json, size_t len, const char *name, struct json_t **ret,
                 struct mt_err *reterr);
int fields_read(const char *path, struct json_t **ret, struct mt_err *reterr);
void fields_release(struct json_t *root); /* NULL allowed */

bool fields_has(const struct fields *f, const char *key); /* there, and not null */
/* A whole number in [min, max]. */
uint32_t fields_u32(struct fields *f, const char *key, uint32_t min, uint32_t max,
                    int64_t fallback);
/* A number in [min, max]. */
double fields_real(struct fields *f, const char *key, double min, double max, double fallback);
bool fields_bool(struct fields *f, const char *key, bool fallback);
/* Borrowed from the object. A NULL fallback: the field must be there; "" is returned on errors. */
const char *fields_text(struct fields *f, const char *key, const char *fallback);
/* An object inside this one; an absent one has no fields. */
struct fields fields_object(struct fields *f, const char *key, const char *prefix);
void fields_merge(struct fields *f, const struct fields *inner); /* takes over inner's error */

/* Reports an error about a field, unless one is known already. */
void fields_fail(struct fields *f, int status, const char *key, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#endif
