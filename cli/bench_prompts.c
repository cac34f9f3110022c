#include "cli/bench_prompts.h"

#include <stdlib.h>
#include <string.h>

#include "api/file.h"
#include "cli/bench_fetch.h"
#include "daemon/json.h"

#define MAX_FILE ((size_t)16 << 20)
#define MAX_TOKENS ((size_t)4 << 20)
#define GOLDEN 0x9e3779b97f4a7c15u

uint64_t bench_mix(uint64_t x) /* splitmix64 */
{
    x += GOLDEN;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static int add_tokens(struct bench_prompts *p, const json_t *tokens, struct mt_err *reterr)
{
    size_t n = json_array_size(tokens);
    int32_t *grown;

    if (n > MAX_TOKENS - p->n)
        return mt_error(reterr, MT_ELIMIT, "expected at most %zu tokens in all", MAX_TOKENS);
    grown = realloc(p->tokens, (p->n + n + 1) * sizeof *grown);
    if (!grown)
        return mt_error(reterr, MT_ENOMEM, "out of memory");
    p->tokens = grown;
    for (size_t i = 0; i < n; i++)
        p->tokens[p->n++] = (int32_t)json_integer_value(json_array_get(tokens, i));
    return 0;
}

static int add_text(struct bench_prompts *p, const struct bench_config *c, json_t *text,
                    struct mt_err *reterr)
{
    json_t *body, *reply;
    int rc;

    if (!json_is_string(text))
        return mt_error(reterr, MT_EINVAL, "expected texts, found %s", json_kind(text));
    body = json_pack("{s:O, s:b}", "prompt", text, "add_special_tokens", 0);
    if (!body)
        return mt_error(reterr, MT_ENOMEM, "out of memory");
    rc = bench_fetch(c->url, "/tokenize", body, c->timeout, &reply, reterr);
    if (rc)
        return rc;
    rc = add_tokens(p, json_object_get(reply, "tokens"), reterr);
    json_decref(reply);
    return rc;
}

static int add_texts(struct bench_prompts *p, const struct bench_config *c, const json_t *list,
                     struct mt_err *reterr)
{
    int rc = 0;

    if (!json_is_array(list))
        return mt_error(reterr, MT_EINVAL, "expected lists of texts, found %s", json_kind(list));
    for (size_t i = 0; !rc && i < json_array_size(list); i++)
        rc = add_text(p, c, json_array_get(list, i), reterr);
    return rc;
}

static int add_file(struct bench_prompts *p, const struct bench_config *c, json_t *root,
                    struct mt_err *reterr)
{
    const char *key;
    json_t *list;
    int rc = 0;

    if (!json_is_object(root))
        rc = add_texts(p, c, root, reterr);
    else
        json_object_foreach(root, key, list)
            rc = rc ? rc : add_texts(p, c, list, reterr);
    if (!rc && p->n < (size_t)c->prompt_tokens)
        rc = mt_error(reterr, MT_EINVAL, "expected at least --prompt-tokens %lld, found %zu tokens",
                      (long long)c->prompt_tokens, p->n);
    return rc;
}

int bench_prompts_open(struct bench_prompts *p, const struct bench_config *c, struct mt_err *reterr)
{
    json_t *root = NULL;
    size_t len = 0;
    char *bytes;
    int rc;

    if (!c->prompts)
        return 0;
    rc = file_read(c->prompts, MAX_FILE, &bytes, &len, reterr);
    if (rc)
        return rc;
    rc = json_read((const uint8_t *)bytes, len, BENCH_JSON_DEPTH, &root, reterr);
    if (!rc)
        rc = add_file(p, c, root, reterr);
    json_decref(root);
    free(bytes);
    return rc ? mt_error_prefix(reterr, "%.200s", c->prompts) : 0;
}

void bench_prompts_done(struct bench_prompts *p)
{
    free(p->tokens);
    memset(p, 0, sizeof *p);
}

void bench_prompts_fill(const struct bench_prompts *p, const struct bench_config *c,
                        uint64_t number, int32_t *ids)
{
    size_t n = (size_t)c->prompt_tokens;
    uint64_t key = bench_mix((uint64_t)c->seed ^ bench_mix(number));

    if (p->tokens)
        memcpy(ids, p->tokens + key % (p->n - n + 1), n * sizeof *ids);
    else
        for (size_t i = 0; i < n; i++)
            ids[i] = (int32_t)(bench_mix(key + i * GOLDEN) % (uint64_t)c->vocab);
}
