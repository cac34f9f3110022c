/* A model's sizes, from its config.json or by its shape, and the line that says what a problem is.
 */
#include <stdlib.h>
#include <string.h>

#include "api/file.h"
#include "cli/place.h"

#define MAX_CONFIG (4u << 20)
#define MAX_SIZE (1 << 24)

/* A size of the configuration; otherwise *ret stays as it is if it is not 0, or it is refused. */
static int read_size(const json_t *root, const char *path, const char *field, uint32_t *ret,
                     struct mt_err *reterr)
{
    const json_t *v = json_object_get(root, field);

    if (!v || json_is_null(v))
        return *ret ? 0
                    : mt_error(reterr, MT_EINVAL, "%s: %s: expected an integer, found nothing",
                               path, field);
    if (!json_is_integer(v) || json_integer_value(v) < 1 || json_integer_value(v) > MAX_SIZE)
        return mt_error(reterr, MT_EINVAL, "%s: %s: expected an integer from 1 to %d", path, field,
                        MAX_SIZE);
    *ret = (uint32_t)json_integer_value(v);
    return 0;
}

/* One that may be missing: 0. */
static uint32_t optional_size(const json_t *root, const char *field)
{
    json_int_t v = json_integer_value(json_object_get(root, field));

    return v > 0 && v <= MAX_SIZE ? (uint32_t)v : 0;
}

static bool field_is(const json_t *object, const char *field, const char *text)
{
    const char *found = json_string_value(json_object_get(object, field));

    return found && !strcmp(found, text);
}

/* Attention's weights and cache, and the experts that all tokens share, from the usual fields. */
static int fill_dense(const json_t *root, const char *path, struct model_dims *d,
                      struct mt_err *reterr)
{
    uint32_t heads = 0, kv_heads, head, blocks = d->layers;
    uint32_t latent = optional_size(root, "kv_lora_rank");
    double weights, kv, hidden = d->hidden;
    int rc = read_size(root, path, "num_attention_heads", &heads, reterr);

    if (!rc)
        rc = read_size(root, path, "num_hidden_layers", &blocks, reterr);
    if (rc || !heads)
        return rc;
    kv_heads = optional_size(root, "num_key_value_heads");
    head = optional_size(root, "head_dim");
    if (!kv_heads)
        kv_heads = heads;
    if (!head)
        head = d->hidden / heads ? d->hidden / heads : 1;
    kv = latent ? latent + optional_size(root, "qk_rope_head_dim") : 2.0 * kv_heads * head;
    weights = 2 * hidden * heads * head + hidden * kv +
              3 * hidden * d->intermediate * optional_size(root, "n_shared_experts");
    d->kv_bytes = kv * blocks * d->activation_bytes;
    d->dense_flops = 2 * weights;
    d->dense_bytes = weights * d->weight_bytes;
    return 0;
}

static int read_config(const json_t *root, const char *path, const struct place_set *s,
                       struct model_dims *d, struct mt_err *reterr)
{
    bool wide = field_is(root, "torch_dtype", "float32") || field_is(root, "dtype", "float32");
    int rc;

    if (!json_is_object(root))
        return mt_error(reterr, MT_EINVAL, "%s: expected an object", path);
    *d = (struct model_dims){.layers = s->layers, .experts = s->experts, .topk = s->topk};
    snprintf(d->name, sizeof d->name, "%.*s", CLUSTER_NAME - 1, path);
    d->activation_bytes = d->weight_bytes = wide ? 4 : 2;
    if (field_is(json_object_get(root, "quantization_config"), "quant_method", "fp8"))
        d->weight_bytes = 1;
    rc = read_size(root, path, "hidden_size", &d->hidden, reterr);
    d->intermediate = optional_size(root, "moe_intermediate_size");
    if (!rc && !d->intermediate)
        rc = read_size(root, path, "intermediate_size", &d->intermediate, reterr);
    return rc ? rc : fill_dense(root, path, d, reterr);
}

int place_dims(const struct place_input *in, const struct place_set *s, struct model_dims *ret,
               bool *ret_known, struct mt_err *reterr)
{
    const struct model_dims *known = cluster_known_model(s->layers, s->experts, s->topk);
    char path[4096], *bytes;
    json_error_t at;
    json_t *root;
    size_t len;
    int rc;

    if (!in->model) {
        *ret_known = known;
        if (known)
            *ret = *known;
        return 0;
    }
    if ((size_t)snprintf(path, sizeof path, "%s/config.json", in->model) >= sizeof path)
        return mt_error(reterr, MT_EINVAL, "option model: expected a shorter path");
    rc = file_read(path, MAX_CONFIG, &bytes, &len, reterr);
    if (rc)
        return rc;
    root = json_loadb(bytes, len, JSON_REJECT_DUPLICATES, &at);
    free(bytes);
    if (!root)
        return mt_error(reterr, MT_EINVAL, "%s: line %d, column %d: %s", path, at.line, at.column,
                        at.text);
    rc = read_config(root, path, s, ret, reterr);
    json_decref(root);
    *ret_known = true;
    return rc;
}

/* "DeepSeek-V2-Lite", or why there is no name. */
static void model_name(const struct place_input *in, const struct place_set *s, char *ret, size_t n)
{
    const struct model_dims *known = cluster_known_model(s->layers, s->experts, s->topk);

    if (in->model)
        snprintf(ret, n, "sizes of %.200s", in->model);
    else if (known)
        snprintf(ret, n, "%s, by its shape", known->name);
    else
        snprintf(ret, n, "unknown model");
}

void place_problem_print(const struct place_input *in, const struct place_set *s,
                         const struct place_problem *p, FILE *out)
{
    char tokens[64] = "loads alone: traffic is not priced", model[256];
    double sum = 0;

    for (uint32_t i = 0; i < s->sources; i++)
        sum += s->source[i].tokens;
    if (s->paths)
        snprintf(tokens, sizeof tokens, "%.0f tokens", sum);
    model_name(in, s, model, sizeof model);
    fprintf(out, "%s: %u layers of %u experts, top-%u\n", model, s->layers, s->experts, s->topk);
    fprintf(out, "%u trace%s, %s; prefill %lld tokens, decode %lld sequences a step\n", s->sources,
            s->sources > 1 ? "s" : "", tokens, (long long)in->prefill_tokens,
            (long long)in->decode_batch);
    fprintf(out,
            "%s: %u rank%s on %u node%s, %u slots a rank and layer; %s semantics, homes by %s, "
            "%s combine\n",
            p->cluster.name, p->cluster.ranks, p->cluster.ranks > 1 ? "s" : "", p->cluster.nodes,
            p->cluster.nodes > 1 ? "s" : "", p->cluster.slots[0], PLACE_SEMANTICS[p->semantics],
            PLACE_HOMES[p->homes], p->cluster.exact_combine ? "exact" : "fast");
}

json_t *place_problem_json(const struct place_input *in, const struct place_set *s,
                           const struct place_problem *p)
{
    json_t *traces = json_array();
    char model[256];

    for (uint32_t i = 0; i < s->sources; i++)
        json_array_append_new(traces,
                              json_pack("{s:s, s:f, s:b}", "name", s->source[i].name, "tokens",
                                        s->source[i].tokens, "paths", s->source[i].paths));
    model_name(in, s, model, sizeof model);
    return json_pack("{s:s, s:i, s:i, s:i, s:o, s:s, s:i, s:i, s:i, s:s, s:s, s:s, s:I, s:I, s:f}",
                     "model", model, "layers", (int)s->layers, "experts", (int)s->experts, "topk",
                     (int)s->topk, "traces", traces, "cluster", p->cluster.name, "ranks",
                     (int)p->cluster.ranks, "nodes", (int)p->cluster.nodes, "slots",
                     (int)p->cluster.slots[0], "semantics", PLACE_SEMANTICS[p->semantics], "homes",
                     PLACE_HOMES[p->homes], "combine", p->cluster.exact_combine ? "exact" : "fast",
                     "prefill_tokens", (json_int_t)in->prefill_tokens, "decode_batch",
                     (json_int_t)in->decode_batch, "decode_share", in->decode_share);
}
