#include "daemon/textout.h"

#include <string.h>

void textout_init(struct textout *t, const struct textout_rules *rules)
{
    *t = (struct textout){.rules = rules};
    buf_init(&t->held, REQUEST_MAX_TEXT);
}

void textout_done(struct textout *t)
{
    buf_done(&t->held);
}

/* A stop string completed by the byte at end-1 of the held text; *ret_at is where it begins. */
static bool stop_ends_at(const struct textout *t, size_t end, size_t *ret_at)
{
    const struct request_params *p = t->rules->params;
    size_t longest = 0;
    uint32_t i;

    for (i = 0; i < p->n_stops; i++) {
        size_t len = p->stops[i].len;

        if (len > longest && len <= end && !memcmp(t->held.data + end - len, p->stops[i].text, len))
            longest = len;
    }
    *ret_at = end - longest;
    return longest;
}

/* Bytes at the end of the held text that a stop string may begin with. */
static size_t stop_begun(const struct textout *t)
{
    const struct request_params *p = t->rules->params;
    size_t most = 0, len;
    uint32_t i;

    for (i = 0; i < p->n_stops; i++) {
        len = p->stops[i].len - 1;
        len = len < t->held.len ? len : t->held.len;
        for (; len > most; len--)
            if (!memcmp(t->held.data + t->held.len - len, p->stops[i].text, len))
                most = len;
    }
    return most;
}

static int show(struct textout *t, size_t n, struct buf *text)
{
    buf_append(text, t->held.data, n);
    buf_consume(&t->held, n);
    t->shown += n;
    return text->status;
}

/* Looks for stop strings that end behind the first `seen` bytes of the held text; shows all text up
 * to the first, or what can be no part of one. */
static int scan(struct textout *t, size_t seen, struct buf *text, bool *ret_stop)
{
    size_t end, at;
    int rc;

    *ret_stop = false;
    if (t->held.status)
        return t->held.status;
    for (end = seen + 1; end <= t->held.len; end++) {
        if (!stop_ends_at(t, end, &at))
            continue;
        *ret_stop = true;
        rc = show(t, t->rules->params->include_stop ? end : at, text);
        buf_reset(&t->held);
        return rc;
    }
    return show(t, t->held.len - stop_begun(t), text);
}

static bool is_one_of(int32_t token, const int32_t *list, uint32_t n)
{
    uint32_t i;

    for (i = 0; i < n; i++)
        if (list[i] == token)
            return true;
    return false;
}

int textout_push(struct textout *t, int32_t token, struct buf *text, size_t *ret_at,
                 enum textout_verdict *ret)
{
    const struct request_params *p = t->rules->params;
    const uint8_t *bytes = NULL;
    size_t n = 0, seen = t->held.len;
    bool stop;
    int rc;

    *ret_at = t->shown + t->held.len;
    if (is_one_of(token, p->stop_tokens, p->n_stop_tokens)) {
        *ret = TEXTOUT_STOP;
        return textout_flush(t, text);
    }
    if (!p->ignore_eos && is_one_of(token, t->rules->eos, t->rules->n_eos)) {
        *ret = TEXTOUT_STOP_EOS;
        return textout_flush(t, text);
    }
    *ret = TEXTOUT_GO;
    if (t->rules->vocab)
        bytes = t->rules->vocab->bytes(t->rules->vocab->user, token, &n);
    if (!bytes || !n)
        return 0;
    rc = detok_push(&t->detok, bytes, n, &t->held);
    if (!rc)
        rc = scan(t, seen, text, &stop);
    if (!rc && stop)
        *ret = TEXTOUT_STOP;
    return rc;
}

int textout_flush(struct textout *t, struct buf *text)
{
    size_t seen = t->held.len;
    bool stop;
    int rc = detok_flush(&t->detok, &t->held);

    if (!rc) /* a stop string may hold the U+FFFD that an unfinished character becomes */
        rc = scan(t, seen, text, &stop);
    if (!rc && !stop)
        rc = show(t, t->held.len, text);
    return rc;
}
