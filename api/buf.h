/* A growable byte buffer that declares its cap at birth (invariant I5).
 *
 * Errors are sticky: after an append fails, later appends do nothing and buf_status() says why, so
 * that an encoder checks once at its end. Not thread-safe. */
#ifndef MT_API_BUF_H
#define MT_API_BUF_H

#include <stddef.h>
#include <stdint.h>

struct buf {
    uint8_t *data; /* owned; [len] bytes valid */
    size_t len;
    size_t alloc;
    size_t cap; /* len never exceeds it */
    int status; /* 0, MT_ENOMEM or MT_ELIMIT */
};

void buf_init(struct buf *b, size_t cap);
void buf_done(struct buf *b);  /* frees; NULL and zeroed buffers allowed */
void buf_reset(struct buf *b); /* empties and clears the error, keeps the memory */
int buf_append(struct buf *b, const void *bytes, size_t n);
int buf_puts(struct buf *b, const char *text); /* without the NUL */
int buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Appends n bytes that the caller fills; NULL on failure. */
uint8_t *buf_grow(struct buf *b, size_t n);
void buf_consume(struct buf *b, size_t n); /* drops n <= len bytes from the front */
/* The bytes, NUL-terminated (the NUL is not counted), now the caller's to free(); NULL if an append
 * failed. */
char *buf_steal(struct buf *b);

#endif
