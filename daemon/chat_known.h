/* The chat templates that we can render, and what each one does. */
#ifndef MT_DAEMON_CHAT_KNOWN_H
#define MT_DAEMON_CHAT_KNOWN_H

#include <stdbool.h>
#include <stddef.h>

#include "daemon/chat.h"

struct chat_known;

struct chat_tokens {
    const char *bos, *eos; /* never NULL */
};

/* Writes all messages (n > 0). */
typedef int chat_writer(const struct chat_known *k, const struct chat_tokens *tokens,
                        const struct chat_message *messages, size_t n, bool prompt, struct buf *out,
                        struct mt_err *reterr);

struct chat_known {
    const char *name;
    const char *text; /* of the template, as published */
    chat_writer *write;
    const char *system; /* goes first where the messages do not begin with one; or NULL */
    const char *after;  /* follows the end of an assistant's turn */
    const char *const *stops;
    bool always_prompt;        /* asked for or not */
    bool needs_bos, needs_eos; /* tokenizer_config.json must have what the template inserts */
};

/* By the text of a template: equal but for white space inside {{ }} and {% %}. *ret is NULL if we
 * do not know it. Fails only for want of memory. */
int chat_known_find(const char *text, const struct chat_known **ret);
/* Appends the text in the form in which templates are compared. */
int chat_normalise(const char *text, struct buf *out);

#endif
