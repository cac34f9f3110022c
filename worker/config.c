/* config.json and generation_config.json of a Hugging Face directory, into a struct model_config.
 *
 * Two spellings are read: the older (rope_theta, torch_dtype) and the newer (rope_parameters,
 * dtype). What all families spell alike is read here, the rest by the family's configure(). A value
 * that would change what the forward pass computes, and that it does not support, is refused by
 * name. */
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "worker/family.h"
#include "worker/fields.h"
#include "worker/model.h"

#define MAX_THETA 1e12

static void refuse_text(struct fields *f, const char *key, const char *found, const char *wanted)
{
    fields_fail(f, MT_EUNSUPPORTED, key, "expected \"%s\", found \"%.40s\" (not supported)", wanted,
                found);
}

static const struct family *read_family(struct fields *f, struct model_config *c)
{
    const char *type = fields_text(f, "model_type", NULL);
    const struct family *family = f->status ? NULL : family_find(type);
    const json_t *list = json_object_get(f->object, "architectures");
    const char *architecture = json_string_value(json_array_get(list, 0));

    if (f->status)
        return NULL;
    if (!family) {
        fields_fail(f, MT_EUNSUPPORTED, "model_type",
                    "expected a known family (%s), found \"%.40s\"", family_list(), type);
        return NULL;
    }
    if (architecture && strcmp(architecture, family->architecture))
        refuse_text(f, "architectures[0]", architecture, family->architecture);
    snprintf(c->family, sizeof c->family, "%s", family->model_type);
    return family;
}

static void read_shape(struct fields *f, struct model_config *c)
{
    c->vocab = fields_u32(f, "vocab_size", 1, MODEL_MAX_VOCAB, FIELDS_REQUIRED);
    c->hidden = fields_u32(f, "hidden_size", 1, MODEL_MAX_HIDDEN, FIELDS_REQUIRED);
    c->layers = fields_u32(f, "num_hidden_layers", 1, MODEL_MAX_LAYERS, FIELDS_REQUIRED);
    c->heads = fields_u32(f, "num_attention_heads", 1, MODEL_MAX_HEADS, FIELDS_REQUIRED);
    c->kv_heads = fields_u32(f, "num_key_value_heads", 1, c->heads, c->heads);
    c->max_positions =
        fields_u32(f, "max_position_embeddings", 1, MODEL_MAX_POSITIONS, FIELDS_REQUIRED);
    c->rms_eps = (float)fields_real(f, "rms_norm_eps", 1e-12, 1, FIELDS_REQUIRED);
    c->tied = fields_bool(f, "tie_word_embeddings", false);
    if (f->status)
        return;
    if (c->heads % c->kv_heads)
        fields_fail(f, MT_EINVAL, "num_key_value_heads",
                    "expected a divisor of num_attention_heads %u, found %u", c->heads,
                    c->kv_heads);
    if (!fields_has(f, "head_dim") && c->hidden % c->heads)
        fields_fail(f, MT_EINVAL, "num_attention_heads",
                    "expected a divisor of hidden_size %u (there is no head_dim), found %u",
                    c->hidden, c->heads);
    c->head_dim = fields_u32(f, "head_dim", 2, MODEL_MAX_HEAD_DIM, c->hidden / c->heads);
    if (c->head_dim < 2 || c->head_dim > MODEL_MAX_HEAD_DIM || c->head_dim % 2)
        fields_fail(f, MT_EINVAL, "head_dim", "expected an even number from 2 to %u, found %u",
                    MODEL_MAX_HEAD_DIM, c->head_dim);
}

/* The kind of rotary embedding that an object names under either spelling; only the plain one is
 * supported. */
static void check_rope_type(struct fields *o)
{
    static const char *const KEYS[] = {"rope_type", "type"};

    for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++) {
        const char *type = fields_text(o, KEYS[i], "default");

        if (!o->status && strcmp(type, "default"))
            refuse_text(o, KEYS[i], type, "default");
    }
}

static void read_rope(struct fields *f, struct model_config *c)
{
    struct fields older = fields_object(f, "rope_scaling", "rope_scaling.");
    struct fields newer;
    double theta, partial;

    check_rope_type(&older);
    fields_merge(f, &older);
    theta = fields_real(f, "rope_theta", 1, MAX_THETA, 0);
    newer = fields_object(f, "rope_parameters", "rope_parameters.");
    check_rope_type(&newer);
    /* Either theta may stand alone; where both stand they must agree. */
    if (theta == 0 || fields_has(&newer, "rope_theta")) {
        double inner = fields_real(&newer, "rope_theta", 1, MAX_THETA, FIELDS_REQUIRED);

        if (theta != 0 && inner != theta)
            fields_fail(&newer, MT_EINVAL, "rope_theta", "expected rope_theta's %g, found %g",
                        theta, inner);
        theta = inner;
    }
    partial = fields_real(&newer, "partial_rotary_factor", 0.01, 1, 1);
    fields_merge(f, &newer);
    partial = fields_real(f, "partial_rotary_factor", 0.01, 1, partial);
    c->rope_theta = (float)theta;
    c->rope_dims = (uint32_t)(c->head_dim * partial);
    if (c->rope_dims < 2 || c->rope_dims % 2)
        fields_fail(f, MT_EINVAL, "partial_rotary_factor",
                    "expected an even number of rotated dimensions, found %u of %u", c->rope_dims,
                    c->head_dim);
}

static void check_supported(struct fields *f)
{
    const char *act = fields_text(f, "hidden_act", "silu");

    if (!f->status && strcmp(act, "silu"))
        refuse_text(f, "hidden_act", act, "silu");
    if (fields_has(f, "quantization_config"))
        fields_fail(f, MT_EUNSUPPORTED, "quantization_config",
                    "quantized weights are not supported, expected float32, bfloat16 or float16");
}

static void read_dtype(struct fields *f, struct model_config *c)
{
    static const struct {
        const char *name;
        enum dtype dtype;
    } ROWS[] = {{"float32", DTYPE_F32}, {"bfloat16", DTYPE_BF16}, {"float16", DTYPE_F16}};
    const char *key = fields_has(f, "dtype") ? "dtype" : "torch_dtype";
    const char *text = fields_text(f, key, "float32");

    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++)
        if (!strcmp(text, ROWS[i].name)) {
            c->dtype = ROWS[i].dtype;
            return;
        }
    fields_fail(f, MT_EUNSUPPORTED, key, "expected float32, bfloat16 or float16, found \"%.40s\"",
                text);
}

static int32_t token_id(struct fields *f, const char *key, const json_t *value, uint32_t vocab)
{
    json_int_t id = json_integer_value(value);

    if (json_is_integer(value) && id >= 0 && id < vocab)
        return (int32_t)id;
    if (json_is_integer(value))
        fields_fail(f, MT_EINVAL, key, "expected a token id below %u, found %lld", vocab,
                    (long long)id);
    else
        fields_fail(f, MT_EINVAL, key, "expected a token id below %u, found none", vocab);
    return -1;
}

/* bos and eos; what is absent or null keeps its value. */
static void read_special(struct fields *f, struct model_config *c)
{
    const json_t *eos = json_object_get(f->object, "eos_token_id");
    size_t n = json_is_array(eos) ? json_array_size(eos) : 1;

    if (fields_has(f, "bos_token_id"))
        c->bos = token_id(f, "bos_token_id", json_object_get(f->object, "bos_token_id"), c->vocab);
    if (!fields_has(f, "eos_token_id"))
        return;
    if (n > WIRE_MAX_EOS) {
        fields_fail(f, MT_ELIMIT, "eos_token_id", "expected at most %d tokens, found %zu",
                    WIRE_MAX_EOS, n);
        return;
    }
    for (size_t i = 0; i < n; i++)
        c->eos[i] = token_id(f, "eos_token_id", json_is_array(eos) ? json_array_get(eos, i) : eos,
                             c->vocab);
    c->n_eos = (uint32_t)n;
}

static int check_router(const char *file, const struct model_config *c, struct mt_err *reterr)
{
    if (c->router.topk > c->router.experts)
        return mt_error(reterr, MT_EINVAL,
                        "%s: num_experts_per_tok: expected at most the %u experts, found %u", file,
                        c->router.experts, c->router.topk);
    return 0;
}

static int read_config(const json_t *root, const char *file, struct model_config *ret,
                       struct mt_err *reterr)
{
    struct model_config c = {.bos = -1};
    struct fields f = {root, file, "", reterr, 0};
    const struct family *family = read_family(&f, &c);
    int rc;

    check_supported(&f);
    read_shape(&f, &c);
    read_dtype(&f, &c);
    if (!f.status)
        read_rope(&f, &c);
    if (!f.status)
        read_special(&f, &c);
    if (f.status)
        return f.status;
    rc = family->configure(root, file, &c, reterr);
    if (!rc)
        rc = check_router(file, &c, reterr);
    if (!rc)
        *ret = c;
    return rc;
}

static int read_generation(const json_t *root, const char *file, struct model_config *c,
                           struct mt_err *reterr)
{
    struct model_config copy = *c;
    struct fields f = {root, file, "", reterr, 0};

    read_special(&f, &copy);
    if (!f.status)
        *c = copy;
    return f.status;
}

int model_config_parse(const char *json, size_t len, const char *name, struct model_config *ret,
                       struct mt_err *reterr)
{
    json_t *root;
    int rc = fields_parse(json, len, name, &root, reterr);

    if (rc)
        return rc;
    rc = read_config(root, name, ret, reterr);
    fields_release(root);
    return rc;
}

int model_config_parse_generation(const char *json, size_t len, const char *name,
                                  struct model_config *config, struct mt_err *reterr)
{
    json_t *root;
    int rc = fields_parse(json, len, name, &root, reterr);

    if (rc)
        return rc;
    rc = read_generation(root, name, config, reterr);
    fields_release(root);
    return rc;
}

static int configure_file(const char *path, struct model_config *c, struct mt_err *reterr)
{
    json_t *root;
    int rc = fields_read(path, &root, reterr);

    if (rc)
        return rc;
    rc = read_config(root, path, c, reterr);
    fields_release(root);
    return rc;
}

static int configure_generation(const char *path, struct model_config *c, struct mt_err *reterr)
{
    json_t *root;
    int rc = fields_read(path, &root, reterr);

    if (rc)
        return rc == MT_ENOTFOUND ? 0 : rc; /* many models have none */
    rc = read_generation(root, path, c, reterr);
    fields_release(root);
    return rc;
}

int model_configure(const struct model_source *source, struct model_config *ret,
                    struct mt_err *reterr)
{
    struct model_config c = {0};
    char path[PATH_MAX];
    int rc;

    if (source->dummy) {
        rc = configure_file(source->config, &c, reterr);
        c.dtype = DTYPE_BF16;
    } else {
        if ((size_t)snprintf(path, sizeof path, "%s/generation_config.json", source->dir) >=
            sizeof path)
            return mt_error(reterr, MT_EINVAL, "%.200s...: the path is too long", source->dir);
        snprintf(path, sizeof path, "%s/config.json", source->dir);
        rc = configure_file(path, &c, reterr);
        snprintf(path, sizeof path, "%s/generation_config.json", source->dir);
        if (!rc)
            rc = configure_generation(path, &c, reterr);
    }
    if (!rc)
        *ret = c;
    return rc;
}

void model_facts(const struct model_config *c, struct wire_facts *ret)
{
    uint64_t size = dtype_size(c->dtype), hidden = c->hidden;
    uint64_t q = (uint64_t)c->heads * c->head_dim, kv = (uint64_t)c->kv_heads * c->head_dim;
    uint64_t layer = hidden * (2 * q + 2 * kv + c->router.experts + 2);
    struct wire_facts facts = {
        .layers = c->layers,
        .moe_layers = c->layers,
        .experts = c->router.experts,
        .topk = c->router.topk,
        .hidden = c->hidden,
        .vocab = c->vocab,
        .max_positions = c->max_positions,
        .bos = c->bos,
        .n_eos = c->n_eos,
        .dense_bytes = size * (c->layers * layer + hidden + (c->tied ? 1 : 2) * hidden * c->vocab),
        .expert_bytes = size * 3 * hidden * c->inter,
        .kv_bytes_per_token = (uint64_t)c->layers * 2 * kv * sizeof(float),
    };

    memcpy(facts.family, c->family, sizeof facts.family);
    memcpy(facts.eos, c->eos, sizeof facts.eos);
    *ret = facts;
}
