/* Chat templates: messages to one prompt text. A first set of well-known templates, recognised by the template text in
 * tokenizer_config.json; an unknown one is reported as such when chat is asked for, never guessed. Constant after load. */
#ifndef MT_DAEMON_CHAT_H
#define MT_DAEMON_CHAT_H

#include <stdbool.h>
#include <stddef.h>

#include "api/buf.h"
#include "api/status.h"

struct chat_message {
    const char *role, *content; /* UTF-8, NUL-terminated, borrowed */
};

struct chat_template;

/* json: tokenizer_config.json. A file without a chat template loads; rendering then fails with MT_EUNSUPPORTED. */
int chat_parse(const char *json, size_t len, const char *name, struct chat_template **ret, struct mt_err *reterr);
int chat_load(const char *path, struct chat_template **ret, struct mt_err *reterr); /* a missing file is an empty one */
void chat_free(struct chat_template *c);
const char *chat_name(const struct chat_template *c); /* "chatml", "mistral", "llama2", "llama3", "none", "unknown" */
/* Appends the prompt. MT_EINVAL names the message that the template cannot take (role, order). */
int chat_render(const struct chat_template *c, const struct chat_message *messages, size_t n, bool add_generation_prompt,
                struct buf *out, struct mt_err *reterr);
/* Strings that end a turn in this template and should stop generation besides the model's end-of-sequence; NULL-terminated,
 * borrowed ("<|im_end|>"). */
const char *const *chat_stops(const struct chat_template *c);

#endif
