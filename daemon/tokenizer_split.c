/* Split patterns, on PCRE2. Patterns are compiled anchored and tried at each character in turn, and
 * the interpreter's backtracking is counted: a match may take SPLIT_FREE_STEPS, longer ones are
 * paid from a budget that is linear in the text. So no pattern and no text can take more than
 * linear time. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/tokenizer_private.h"
#include "daemon/unicode_delta.h"
#include "daemon/utf8.h"

#define SPLIT_FREE_STEPS 512u
#define SPLIT_BASE_STEPS (1u << 22)
#define SPLIT_STEPS_PER_BYTE 64u
#define SPLIT_HEAP_KIB (64u << 10)

struct split {
    pcre2_code *code;
    bool classes;
};

static int split_compile(const char *pattern, size_t n, uint32_t options, pcre2_code **ret,
                         struct mt_err *reterr)
{
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    PCRE2_UCHAR text[128] = "";
    PCRE2_SIZE offset = 0;
    pcre2_code *code;
    uint32_t empty = 1;
    int error = 0;

    if (!context)
        return mt_error(reterr, MT_ENOMEM, "out of memory for a split pattern");
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    code = pcre2_compile((PCRE2_SPTR)pattern, n, PCRE2_ANCHORED | PCRE2_UTF | options, &error,
                         &offset, context);
    pcre2_compile_context_free(context);
    if (!code) {
        pcre2_get_error_message(error, text, sizeof(text));
        return mt_error(reterr, MT_EINVAL, "split pattern: %s at offset %zu", (const char *)text,
                        (size_t)offset);
    }
    pcre2_pattern_info(code, PCRE2_INFO_MATCHEMPTY, &empty);
    if (empty) {
        pcre2_code_free(code);
        return mt_error(reterr, MT_EUNSUPPORTED,
                        "split pattern: one that can match nothing is not supported");
    }
    *ret = code;
    return 0;
}

int split_new(const char *pattern, size_t n, bool literal, struct split **ret,
              struct mt_err *reterr)
{
    struct pattern_facts facts = {0};
    struct split *s;
    int status;

    if (!literal) {
        status = pattern_check(pattern, n, &facts, reterr);
        if (status)
            return status;
    }
    s = calloc(1, sizeof(*s));
    if (!s)
        return mt_error(reterr, MT_ENOMEM, "out of memory for a split pattern");
    s->classes = facts.classes;
    status = split_compile(pattern, n, literal ? PCRE2_LITERAL : PCRE2_UCP, &s->code, reterr);
    if (status) {
        free(s);
        return status;
    }
    *ret = s;
    return 0;
}

void split_free(struct split *s)
{
    if (!s)
        return;
    pcre2_code_free(s->code);
    free(s);
}

bool split_sees_classes(const struct split *s)
{
    return s->classes;
}

int split_scratch_init(struct split_scratch *s, size_t len, struct mt_err *reterr)
{
    s->match_data = pcre2_match_data_create(1, NULL);
    s->match_context = pcre2_match_context_create(NULL);
    s->budget = SPLIT_BASE_STEPS + (uint64_t)SPLIT_STEPS_PER_BYTE * len;
    if (!s->match_data || !s->match_context) {
        split_scratch_done(s);
        return mt_error(reterr, MT_ENOMEM, "out of memory to split text");
    }
    pcre2_set_heap_limit(s->match_context, SPLIT_HEAP_KIB);
    pcre2_set_match_limit(s->match_context, SPLIT_FREE_STEPS);
    return 0;
}

void split_scratch_done(struct split_scratch *s)
{
    pcre2_match_data_free(s->match_data);
    pcre2_match_context_free(s->match_context);
    *s = (struct split_scratch){0};
}

static int split_run(const struct split *s, struct split_scratch *scratch, const uint8_t *text,
                     size_t n, size_t at)
{
    return pcre2_match(s->code, text, n, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, scratch->match_data,
                       scratch->match_context);
}

/* A match that took more than its free steps is tried again with eight times as many, as long as
 * the budget lasts. */
static int split_run_long(const struct split *s, struct split_scratch *scratch, const uint8_t *text,
                          size_t n, size_t at)
{
    uint64_t limit = SPLIT_FREE_STEPS;
    int rc = PCRE2_ERROR_MATCHLIMIT;

    while (rc == PCRE2_ERROR_MATCHLIMIT && scratch->budget) {
        limit *= 8;
        if (limit > scratch->budget)
            limit = scratch->budget;
        scratch->budget -= limit;
        pcre2_set_match_limit(scratch->match_context, (uint32_t)limit);
        rc = split_run(s, scratch, text, n, at);
    }
    pcre2_set_match_limit(scratch->match_context, SPLIT_FREE_STEPS);
    return rc;
}

int split_match(const struct split *s, struct split_scratch *scratch, const uint8_t *text, size_t n,
                size_t at, size_t *ret_end, struct mt_err *reterr)
{
    int rc = split_run(s, scratch, text, n, at);
    PCRE2_UCHAR message[128] = "";

    if (rc == PCRE2_ERROR_MATCHLIMIT)
        rc = split_run_long(s, scratch, text, n, at);
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    if (rc >= 0) {
        *ret_end = pcre2_get_ovector_pointer(scratch->match_data)[1];
        return 1;
    }
    pcre2_get_error_message(rc, message, sizeof(message));
    return mt_error(reterr, rc == PCRE2_ERROR_NOMEMORY ? MT_ENOMEM : MT_ELIMIT,
                    "splitting the text at offset %zu took too much work (%s)", at,
                    (const char *)message);
}

static const struct unicode_delta *delta_find(uint32_t cp)
{
    size_t low = 0, high = unicode_delta_count, mid;

    if (cp < unicode_delta[0].first)
        return NULL;
    while (low < high) {
        mid = (low + high) / 2;
        if (cp > unicode_delta[mid].last)
            low = mid + 1;
        else
            high = mid;
    }
    return low < unicode_delta_count && cp >= unicode_delta[low].first ? &unicode_delta[low] : NULL;
}

/* Same length as the character that it replaces: three or four bytes, all in the table being U+0800
 * and up. */
static void put_stand_in(uint8_t *at, unsigned len, uint32_t cp)
{
    unsigned i;

    for (i = len - 1; i; i--, cp >>= 6)
        at[i] = (uint8_t)(0x80 | (cp & 0x3f));
    at[0] = (uint8_t)((len == 3 ? 0xe0 : 0xf0) | cp);
}

int split_stand_ins(const uint8_t *text, size_t n, uint8_t **ret, struct mt_err *reterr)
{
    const struct unicode_delta *delta;
    uint8_t *copy = NULL;
    unsigned len;
    uint32_t cp;
    size_t i;

    for (i = 0; i < n; i += len) {
        len = utf8_len(text[i]);
        if (len < 3)
            continue;
        utf8_next(text + i, n - i, &cp);
        delta = delta_find(cp);
        if (!delta)
            continue;
        if (!copy) {
            copy = malloc(n);
            if (!copy)
                return mt_error(reterr, MT_ENOMEM, "out of memory to split %zu bytes", n);
            memcpy(copy, text, n);
        }
        put_stand_in(copy + i, len, delta->stand_in);
    }
    *ret = copy;
    return 0;
}
