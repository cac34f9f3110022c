#include "cli/golden.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/safetensors.h"

/* A copy of a tensor's values, aligned and the caller's to free; NULL: no memory. */
static void *copy_tensor(const struct safetensors_tensor *t, struct mt_err *reterr)
{
    void *copy = malloc(t->bytes + 1);

    if (copy)
        memcpy(copy, t->data, t->bytes);
    else
        mt_error(reterr, MT_ENOMEM, "tensor %s: no memory for %llu bytes", t->name,
                 (unsigned long long)t->bytes);
    return copy;
}

/* A list of token ids; its length is the file's to choose. */
static int read_tokens(const struct safetensors *f, const char *name, uint32_t vocab,
                       int32_t **ret_ids, uint32_t *ret_n, struct mt_err *reterr)
{
    const struct safetensors_tensor *t = safetensors_find(f, name);
    uint64_t shape = t && t->dims == 1 ? t->shape[0] : 0;
    int32_t *ids;
    int rc = safetensors_get(f, name, SAFETENSORS_SET(I32), 1, &shape, &t, reterr);

    if (!rc && (!shape || shape > UINT32_MAX / 2))
        rc = mt_error(reterr, MT_EINVAL, "%s: tensor %s: expected token ids, found %llu of them",
                      safetensors_name(f), name, (unsigned long long)shape);
    if (rc)
        return rc;
    ids = copy_tensor(t, reterr);
    if (!ids)
        return MT_ENOMEM;
    for (uint32_t i = 0; !rc && i < shape; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= vocab)
            rc = mt_error(reterr, MT_EINVAL,
                          "%s: tensor %s[%u]: expected a token id below %u, found %d",
                          safetensors_name(f), name, i, vocab, ids[i]);
    if (rc) {
        free(ids);
        return rc;
    }
    *ret_ids = ids;
    *ret_n = (uint32_t)shape;
    return 0;
}

static int read_prompt(const struct safetensors *f, uint32_t i, uint32_t vocab,
                       struct golden_prompt *ret, struct mt_err *reterr)
{
    const struct safetensors_tensor *t;
    uint64_t shape[2];
    char name[32];
    int rc;

    snprintf(name, sizeof name, "prompt_%u", i);
    rc = read_tokens(f, name, vocab, &ret->tokens, &ret->n, reterr);
    if (!rc) {
        snprintf(name, sizeof name, "greedy_%u", i);
        rc = read_tokens(f, name, vocab, &ret->greedy, &ret->n_greedy, reterr);
    }
    if (rc)
        return rc;
    shape[0] = ret->n;
    shape[1] = vocab;
    snprintf(name, sizeof name, "logits_%u", i);
    rc = safetensors_get(f, name, SAFETENSORS_SET(F32), 2, shape, &t, reterr);
    if (rc)
        return rc;
    ret->logits = copy_tensor(t, reterr);
    return ret->logits ? 0 : MT_ENOMEM;
}

static uint32_t count_prompts(const struct safetensors *f)
{
    char name[32];
    uint32_t n = 0;

    for (; n < GOLDEN_MAX_PROMPTS; n++) {
        snprintf(name, sizeof name, "prompt_%u", n);
        if (!safetensors_find(f, name))
            break;
    }
    return n;
}

int golden_read(const char *path, uint32_t vocab, struct golden *ret, struct mt_err *reterr)
{
    struct golden g = {.vocab = vocab};
    struct safetensors *f;
    int rc = safetensors_open(path, &f, reterr);

    if (rc)
        return rc;
    g.n = count_prompts(f);
    g.prompt = calloc((size_t)g.n + 1, sizeof *g.prompt);
    if (!g.prompt) {
        safetensors_close(f);
        mt_error(reterr, MT_ENOMEM, "%s: no memory for %u prompts", path, g.n);
        return MT_ENOMEM;
    }
    if (!g.n)
        rc = mt_error(reterr, MT_ENOTFOUND, "%s: expected tensor prompt_0, found none", path);
    for (uint32_t i = 0; !rc && i < g.n; i++)
        rc = read_prompt(f, i, vocab, &g.prompt[i], reterr);
    safetensors_close(f);
    if (rc)
        golden_done(&g);
    else
        *ret = g;
    return rc;
}

void golden_done(struct golden *g)
{
    if (!g)
        return;
    for (uint32_t i = 0; g->prompt && i < g->n; i++) {
        free(g->prompt[i].tokens);
        free(g->prompt[i].logits);
        free(g->prompt[i].greedy);
    }
    free(g->prompt);
    *g = (struct golden){0};
}
