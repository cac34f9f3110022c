/* The parts of the tokenizer among themselves. Everything here is constant after load, except what
 * an encode call owns. */
#ifndef MT_DAEMON_TOKENIZER_PRIVATE_H
#define MT_DAEMON_TOKENIZER_PRIVATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/tokenizer.h"

#define TOKENIZER_MAX_VOCAB (1u << 22)
#define TOKENIZER_MAX_ADDED 65536u
#define TOKENIZER_MAX_ADDED_LEN 1024u                   /* bytes of an added token's content */
#define TOKENIZER_MAX_NORMAL (4u * TOKENIZER_MAX_INPUT) /* bytes of normalised text */
#define TOKENIZER_MAX_SPLITS 16u
#define TOKENIZER_MAX_AFFIX 16u
#define TOKENIZER_ALPHABET 0x144u /* code points of the byte-level alphabet are below it */

enum token_flag {
    TOKEN_EXISTS = 1,
    TOKEN_BYTE_LEVEL = 2, /* of the byte-level alphabet alone: merges and pieces can meet it */
    TOKEN_SPECIAL = 4,
    TOKEN_LSTRIP = 8,
    TOKEN_RSTRIP = 16,
};

struct token {
    uint32_t at, len; /* bytes[at .. at+len) */
    uint8_t flags;
};

struct merge {
    uint64_t pair; /* left id << 32 | right id */
    uint32_t rank;
    int32_t id; /* what the pair becomes; -1: an empty slot */
};

/* Added tokens as written, to be found in text: a trie over bytes, siblings in a list. */
struct trie_node {
    uint32_t child, sibling; /* 0: none; node 0 is the root */
    int32_t id;              /* -1: no token ends here */
    uint8_t byte;
};

struct trie {
    struct trie_node *nodes;
    uint32_t n, alloc;
    bool first[256]; /* bytes that some token begins with */
};

struct added {
    char *content; /* owned, NUL-terminated */
    int32_t id;
};

struct split; /* one compiled pattern; tokenizer_split.c */

struct tokenizer {
    uint8_t *bytes; /* of all tokens, one after the other */
    size_t bytes_len, bytes_alloc;
    struct token *tokens; /* [vocab] */
    uint32_t vocab;
    uint32_t *by_bytes; /* hash of the byte-level tokens: id + 1, 0 empty; [by_bytes_mask + 1] */
    size_t by_bytes_mask;
    size_t longest;       /* bytes of the longest byte-level token */
    struct merge *merges; /* hash; [merges_mask + 1] */
    size_t merges_mask;
    int32_t *merged; /* [n_merges]: rank -> id */
    size_t n_merges;
    int16_t byte_of[TOKENIZER_ALPHABET]; /* code point -> byte; -1: not in the alphabet */
    int32_t byte_id[256];                /* -1: never in valid UTF-8 */
    bool ignore_merges;
    bool nfc;
    bool prefix_space;
    struct added *added;
    size_t n_added;
    struct trie raw, normalized; /* matched before and after the normalizer */
    struct split *splits[TOKENIZER_MAX_SPLITS];
    unsigned n_splits;
    int32_t prefix[TOKENIZER_MAX_AFFIX], suffix[TOKENIZER_MAX_AFFIX]; /* of TOKENIZER_ADD_SPECIAL */
    unsigned n_prefix, n_suffix;
};

struct ids {
    int32_t *data;
    size_t n, alloc, max;
};

int ids_push(struct ids *ids, int32_t id, struct mt_err *reterr);
int ids_too_many(const struct ids *ids, struct mt_err *reterr); /* MT_ELIMIT */

/* --- tokenizer_vocab.c --- */
int vocab_load(struct tokenizer *t, const json_t *model, size_t file_len, struct mt_err *reterr);
/* Appends the bytes that the text stands for to the arena: decoded if all of it is in the alphabet,
 * else as written. */
int vocab_store(struct tokenizer *t, const char *text, size_t n, struct token *token);
int32_t vocab_find(const struct tokenizer *t, const uint8_t *bytes,
                   size_t n); /* a byte-level token; -1: none */
size_t vocab_slots(size_t n); /* slots of a hash of n entries: a power of two, at most half full */

/* --- tokenizer_merges.c --- */
int merges_load(struct tokenizer *t, const json_t *model, struct mt_err *reterr);
/* NULL: none. */
const struct merge *merges_find(const struct tokenizer *t, int32_t left, int32_t right);

/* --- tokenizer_pipeline.c: what the file says around the model --- */
int pipeline_load(struct tokenizer *t, const json_t *root, struct mt_err *reterr);

/* --- tokenizer_added.c --- */
int added_load(struct tokenizer *t, const json_t *added, const json_t *model,
               struct mt_err *reterr);
int added_check_normal(const struct tokenizer *t, struct mt_err *reterr);
/* Length in bytes of the white space (Unicode) at the start, or at the end, of the text. */
size_t space_prefix(const uint8_t *text, size_t n);
size_t space_suffix(const uint8_t *text, size_t n);
/* The longest token that begins at text: its id, or -1. */
int32_t trie_match(const struct trie *trie, const uint8_t *text, size_t n, size_t *ret_len);

/* --- tokenizer_nfc.c --- */
bool nfc_needed(const uint8_t *text, size_t n); /* false: the text is in normal form C */
/* Appends the normal form of valid UTF-8. O(n log n). */
int nfc_normalise(const uint8_t *text, size_t n, struct buf *out, struct mt_err *reterr);

/* --- tokenizer_pattern.c: what a split pattern may say --- */
struct pattern_facts {
    bool classes;       /* looks at what kind a character is */
    bool literal_delta; /* names a character of unicode_delta.h by itself */
};
/* Refuses, by name, what PCRE2 and Oniguruma (the `tokenizers` package) do not read alike. */
int pattern_check(const char *pattern, size_t n, struct pattern_facts *ret, struct mt_err *reterr);

/* --- tokenizer_split.c --- */
struct split_scratch {
    void *match_data, *match_context; /* of PCRE2 */
    uint64_t budget;                  /* backtracking steps left to this call */
};
int split_new(const char *pattern, size_t n, bool literal, struct split **ret,
              struct mt_err *reterr);
void split_free(struct split *s);
bool split_sees_classes(const struct split *s); /* match it on the text with stand-ins */
int split_scratch_init(struct split_scratch *s, size_t len, struct mt_err *reterr);
void split_scratch_done(struct split_scratch *s);
/* Matches at `at` exactly. Returns 1 and the end, 0 if there is no match, or an error (the budget
 * is spent: MT_ELIMIT). */
int split_match(const struct split *s, struct split_scratch *scratch, const uint8_t *text, size_t n,
                size_t at, size_t *ret_end, struct mt_err *reterr);
/* A copy of text with stand-ins (unicode_delta.h); *ret is NULL if there is nothing to replace. */
int split_stand_ins(const uint8_t *text, size_t n, uint8_t **ret, struct mt_err *reterr);

/* --- tokenizer_bpe.c --- */
struct bpe_symbol {
    int32_t id; /* -1: merged into the one before */
    int32_t prev, next;
};

struct bpe {
    struct bpe_symbol *symbols;
    uint64_t *heap; /* rank << 32 | position, least first */
    size_t alloc, n_heap;
};

void bpe_done(struct bpe *b);
/* Appends the tokens of one piece of text. O(n log n). */
int bpe_encode(const struct tokenizer *t, struct bpe *b, const uint8_t *text, size_t n,
               struct ids *ids, struct mt_err *reterr);

#endif
