/* Whole files into memory. */
#ifndef MT_API_FILE_H
#define MT_API_FILE_H

#include <stddef.h>

#include "api/status.h"

/* *ret is the caller's to free(), NUL-terminated. MT_ENOTFOUND if there is no such file, MT_ELIMIT
 * if it has more than cap bytes, MT_EINVAL if it is not a regular file; never waits for the other
 * end of a FIFO. */
int file_read(const char *path, size_t cap, char **ret, size_t *ret_len, struct mt_err *reterr);

#endif
