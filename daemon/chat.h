/* Chat templates: messages to one prompt text. A first set of well-known templates, recognised by
 * the whole text of the template; another one is reported as unknown when chat is asked for, never
 * guessed. Constant after load. */
#ifndef MT_DAEMON_CHAT_H
#define MT_DAEMON_CHAT_H

#include <stdbool.h>
#include <stddef.h>

#include "api/buf.h"
#include "api/status.h"

/* A content, or a role where the template takes any, is put into the prompt as it is. The prompt
 * must be encoded with TOKENIZER_PARSE_SPECIAL, or its turns would not be turns; so special tokens
 * that a user writes out become special tokens, as with other servers of this API. A caller that
 * wants none from its users must refuse them itself. Do not encode with TOKENIZER_ADD_SPECIAL: a
 * template that wants a beginning-of-sequence token has written it. */
struct chat_message {
    const char *role, *content; /* UTF-8, NUL-terminated, borrowed */
};

struct chat_template;

/* json: tokenizer_config.json, with the template as text or as a list of named ones, of which
 * "default" counts. A file without one loads; rendering then fails with MT_EUNSUPPORTED. */
int chat_parse(const char *json, size_t len, const char *name, struct chat_template **ret,
               struct mt_err *reterr);
/* A missing file is an empty one. A chat_template.jinja beside it has precedence. */
int chat_load(const char *path, struct chat_template **ret, struct mt_err *reterr);
void chat_free(struct chat_template *c);
/* "chatml", "mistral", "llama2", "llama3", "none", "unknown" */
const char *chat_name(const struct chat_template *c);
/* Appends the prompt. MT_EINVAL names the message that the template cannot take (role, order). */
int chat_render(const struct chat_template *c, const struct chat_message *messages, size_t n,
                bool add_generation_prompt, struct buf *out, struct mt_err *reterr);
/* Strings that end a turn in this template and should stop generation besides the model's
 * end-of-sequence; NULL-terminated, borrowed ("<|im_end|>"). */
const char *const *chat_stops(const struct chat_template *c);

#endif
