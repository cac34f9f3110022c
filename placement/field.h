/* Fields of the JSON files of placement/: what is wrong is told by file, field, expected, found. */
#ifndef MT_PLACEMENT_FIELD_H
#define MT_PLACEMENT_FIELD_H

#include <jansson.h>
#include <stdint.h>

#include "api/status.h"

/* "an integer", "nothing" (NULL), ...; static. */
const char *field_found(const json_t *v);
/* Bytes to a JSON object, to be released with json_decref. */
int field_load(const char *bytes, size_t len, size_t cap, const char *name, json_t **ret,
               struct mt_err *reterr);
/* An integer 1 .. max. */
int field_count(const json_t *root, const char *name, const char *field, uint32_t max,
                uint32_t *ret, struct mt_err *reterr);

#endif
