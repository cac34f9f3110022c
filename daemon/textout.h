/* From one choice's tokens to the text that may be shown: whole characters only, and nothing that
 * is or may still become part of a stop string.
 *
 * Pure; one owner. The stop string that is completed first ends the text, the longer one of two
 * completed by the same byte; so the result does not depend on how the text is cut into tokens.
 * Special tokens have no text. */
#ifndef MT_DAEMON_TEXTOUT_H
#define MT_DAEMON_TEXTOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/buf.h"
#include "daemon/request.h"
#include "daemon/tokenizer.h"

/* Where a token's bytes come from. */
struct textout_vocab {
    const void *user;
    /* Borrowed; NULL: no such token, or one that is not shown. */
    const uint8_t *(*bytes)(const void *user, int32_t token, size_t *ret_len);
};

/* All borrowed for the life of the textout. */
struct textout_rules {
    const struct textout_vocab *vocab; /* NULL: no text, only the tokens that stop */
    const struct request_params *params;
    const int32_t *eos; /* [n_eos] */
    uint32_t n_eos;
};

struct textout {
    const struct textout_rules *rules;
    struct detok detok;
    struct buf held; /* whole characters not shown yet: may become a stop string */
    size_t shown;
};

enum textout_verdict {
    TEXTOUT_GO,
    TEXTOUT_STOP,    /* a stop string or a stop token; the token counts as output */
    TEXTOUT_STOP_EOS /* end of sequence; the token is not output */
};

void textout_init(struct textout *t, const struct textout_rules *rules);
void textout_done(struct textout *t);
/* Takes the next token and appends what may be shown now to *text. *ret_at is where the token's own
 * text begins, counted from the start of all text, shown or held. After a verdict other than
 * TEXTOUT_GO nothing more may be pushed, and nothing is held any more. Returns 0 or the buffer's
 * error. */
int textout_push(struct textout *t, int32_t token, struct buf *text, size_t *ret_at,
                 enum textout_verdict *ret);
/* The end without a stop: shows what was held. */
int textout_flush(struct textout *t, struct buf *text);

#endif
