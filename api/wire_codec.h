/* Little-endian reader and writer of wire.c and wire_step.c; private to api/. */
#ifndef MT_API_WIRE_CODEC_H
#define MT_API_WIRE_CODEC_H

#include <string.h>

#include "api/wire.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the frame codec copies arrays as they lie in memory and needs a little-endian machine"
#endif

/* A reader keeps the first field that failed; later reads give zeros. */
struct wire_reader {
    const uint8_t *at;
    size_t left;
    const char *bad; /* name of the first bad field, or NULL */
};

static inline void wire_take(struct wire_reader *r, void *out, size_t n, const char *field)
{
    if (!n)
        return; /* out may be NULL */
    if (r->bad || n > r->left) {
        if (!r->bad)
            r->bad = field;
        memset(out, 0, n);
        return;
    }
    memcpy(out, r->at, n);
    r->at += n;
    r->left -= n;
}

/* Declares an integer and reads it; `max` is the largest value allowed. */
static inline uint32_t wire_u32(struct wire_reader *r, uint32_t max, const char *field)
{
    uint32_t v;

    wire_take(r, &v, sizeof v, field);
    if (!r->bad && v > max)
        r->bad = field;
    return r->bad ? 0 : v;
}

static inline uint64_t wire_u64(struct wire_reader *r, const char *field)
{
    uint64_t v;

    wire_take(r, &v, sizeof v, field);
    return v;
}

static inline int32_t wire_i32(struct wire_reader *r, const char *field)
{
    int32_t v;

    wire_take(r, &v, sizeof v, field);
    return v;
}

static inline float wire_f32(struct wire_reader *r, const char *field)
{
    float v;

    wire_take(r, &v, sizeof v, field);
    return v;
}

/* True if n elements of `bytes` each can still be there: checked before anything is allocated. */
static inline bool wire_fits(struct wire_reader *r, uint64_t n, size_t bytes, const char *field)
{
    if (!r->bad && n > r->left / bytes)
        r->bad = field;
    return !r->bad;
}

/* MT_EPROTO if a field was bad or bytes are left over. */
int wire_finish(const struct wire_reader *r, const char *frame, struct mt_err *reterr);

static inline void wire_w32(struct buf *b, uint32_t v)
{
    buf_append(b, &v, sizeof v);
}

static inline void wire_w64(struct buf *b, uint64_t v)
{
    buf_append(b, &v, sizeof v);
}

static inline void wire_wf32(struct buf *b, float v)
{
    buf_append(b, &v, sizeof v);
}

/* A frame is begun with its length unknown, and closed when its body is written; on failure nothing
 * is left of it. */
size_t wire_begin(struct buf *out, uint64_t incarnation, enum wire_type type);
int wire_end(struct buf *out, size_t start);

/* Grows *array (elements of `size` bytes, *cap allocated) to hold n, n <= max. Returns 0, MT_ENOMEM
 * or MT_ELIMIT. */
int wire_reserve(void *array, uint32_t *cap, uint64_t n, size_t size, uint32_t max);

#endif
