/* Byte-level BPE from a Hugging Face tokenizer.json: pre-tokenizer split (PCRE2), byte-level
 * alphabet, merges, added and special tokens. What the file asks for and we do not do is refused at
 * load, by name.
 *
 * Constant after load: any thread may encode and look up at once. */
#ifndef MT_DAEMON_TOKENIZER_H
#define MT_DAEMON_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/buf.h"
#include "api/status.h"

#define TOKENIZER_MAX_FILE (256u << 20)
#define TOKENIZER_MAX_INPUT (16u << 20) /* bytes of text in one call */

struct tokenizer;

/* path: of tokenizer.json. */
int tokenizer_load(const char *path, struct tokenizer **ret, struct mt_err *reterr);
int tokenizer_parse(const char *json, size_t len, const char *name, struct tokenizer **ret,
                    struct mt_err *reterr);
void tokenizer_free(struct tokenizer *t);

enum tokenizer_flags {
    /* What the post-processor adds (bos); nothing where there is none. */
    TOKENIZER_ADD_SPECIAL = 1,
    /* Special tokens written out in the text become their ids; needed for rendered chats. */
    TOKENIZER_PARSE_SPECIAL = 2,
};

/* text: any bytes, len of them; must be valid UTF-8 (MT_EINVAL with the offset otherwise). *ret_ids
 * is the caller's to free. More than max_ids: MT_ELIMIT. Equal to the `tokenizers` package's
 * encode(...).ids. */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, unsigned flags,
                     size_t max_ids, int32_t **ret_ids, size_t *ret_n, struct mt_err *reterr);

uint32_t tokenizer_vocab(const struct tokenizer *t); /* ids are 0 .. vocab-1 */
/* The bytes that a token stands for (borrowed, not always valid UTF-8 by themselves); NULL for an
 * id that is none. */
const uint8_t *tokenizer_bytes(const struct tokenizer *t, int32_t id, size_t *ret_len);
bool tokenizer_special(const struct tokenizer *t, int32_t id); /* not part of shown text */
/* Of an added token by its content; -1: none. */
int32_t tokenizer_id(const struct tokenizer *t, const char *token);

/* Incremental detokenising: bytes in, whole UTF-8 characters out. Pending bytes of an unfinished
 * character are kept; what can never become valid is replaced by U+FFFD, as the `tokenizers`
 * package's decoder does. */
struct detok {
    uint8_t pending[4];
    unsigned n;
};

int detok_push(struct detok *d, const uint8_t *bytes, size_t n, struct buf *out);
/* At the end: the unfinished rest becomes U+FFFD. */
int detok_flush(struct detok *d, struct buf *out);
/* Whole decode of ids (specials skipped or not): for /detokenize and tests. */
int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                     struct buf *out, struct mt_err *reterr);

#endif
