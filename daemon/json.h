/* The little that jansson lacks for the routes: bounded parsing, text of any bytes, printing into a
 * buf. */
#ifndef MT_DAEMON_JSON_H
#define MT_DAEMON_JSON_H

#include <jansson.h>
#include <stdint.h>

#include "api/buf.h"
#include "api/status.h"

/* A whole text; no duplicate keys, no NUL in strings, at most max_depth containers within each
 * other. */
int json_read(const uint8_t *bytes, size_t len, unsigned max_depth, json_t **ret,
              struct mt_err *reterr);

/* A string of text; what is not UTF-8 becomes U+FFFD. NULL: out of memory. */
json_t *json_text(const char *text, size_t len);

/* The list if all n appends to it succeeded; else NULL, and the list is gone. */
json_t *json_whole(json_t *list, size_t n);

/* Appends root without blanks and drops the reference to it; a NULL root is out of memory, noted in
 * out->status. */
void json_print(json_t *root, struct buf *out);

/* Without jansson, for what is written with every token. Text is quoted and escaped as jansson does
 * it; what is not UTF-8 becomes U+FFFD. */
void json_put_text(struct buf *out, const void *text, size_t len);
void json_put_chars(struct buf *out, const void *text, size_t len); /* without the quotes */
void json_put_int(struct buf *out, int64_t value);

/* "a string", "an integer", ... as messages say it. */
const char *json_kind(const json_t *value);

#endif
