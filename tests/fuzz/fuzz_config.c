/* Any bytes as config.json and, after a 0xff byte (which no JSON has), as generation_config.json.
 * What is accepted must keep the bounds that the forward pass and the loader trust. */
#include "worker/model.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds)
        __builtin_trap();
}

static void check(const struct model_config *c)
{
    const struct router *r = &c->router;

    require(family_find(c->family));
    require(c->vocab >= 1 && c->vocab <= MODEL_MAX_VOCAB);
    require(c->hidden >= 1 && c->hidden <= MODEL_MAX_HIDDEN);
    require(c->inter >= 1 && c->inter <= MODEL_MAX_INTER);
    require(c->layers >= 1 && c->layers <= MODEL_MAX_LAYERS);
    require(c->heads >= 1 && c->heads <= MODEL_MAX_HEADS);
    require(c->kv_heads >= 1 && c->heads % c->kv_heads == 0);
    require(c->head_dim >= 2 && c->head_dim <= MODEL_MAX_HEAD_DIM && c->head_dim % 2 == 0);
    require(c->rope_dims >= 2 && c->rope_dims <= c->head_dim && c->rope_dims % 2 == 0);
    require(c->max_positions >= 1 && c->max_positions <= MODEL_MAX_POSITIONS);
    require(c->rms_eps > 0 && c->rms_eps <= 1 && c->rope_theta >= 1 && c->rope_theta < 2e12f);
    require(r->experts >= 1 && r->experts <= MODEL_MAX_EXPERTS);
    require(r->topk >= 1 && r->topk <= r->experts && r->topk <= KERNELS_MAX_TOPK);
    require(c->bos >= -1 && c->bos < (int32_t)c->vocab && c->n_eos <= WIRE_MAX_EOS);
    for (uint32_t i = 0; i < c->n_eos; i++)
        require(c->eos[i] >= 0 && c->eos[i] < (int32_t)c->vocab);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data, *cut = size ? memchr(data, 0xff, size) : NULL;
    size_t len = cut ? (size_t)(cut - text) : size;
    struct model_config c;
    struct wire_facts facts;
    struct mt_err err;
    int rc = model_config_parse(text, len, "config.json", &c, &err);

    if (rc) {
        require(rc < 0 && err.status == rc && *err.text);
        return 0;
    }
    check(&c);
    if (cut) {
        rc = model_config_parse_generation(cut + 1, size - len - 1, "generation_config.json", &c,
                                           &err);
        require(rc <= 0);
        check(&c);
    }
    model_facts(&c, &facts);
    require(facts.experts == c.router.experts && facts.n_eos == c.n_eos);
    return 0;
}
