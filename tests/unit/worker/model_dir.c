#include "model_dir.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const char CONFIG[] =
    "{\"architectures\":[\"MixtralForCausalLM\"],\"model_type\":\"mixtral\",\"vocab_size\":32,"
    "\"hidden_size\":16,\"intermediate_size\":24,\"num_hidden_layers\":2,"
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"max_position_embeddings\":64,"
    "\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,\"num_local_experts\":4,"
    "\"num_experts_per_tok\":2,\"tie_word_embeddings\":false}";

uint8_t model_dir_byte(const char *tensor, size_t i)
{
    uint32_t hash = 2166136261u;

    for (; *tensor; tensor++)
        hash = (hash ^ (unsigned char)*tensor) * 16777619u;
    hash = (hash ^ (uint32_t)i) * 2654435761u;
    return (uint8_t)(hash >> 24);
}

static unsigned add_file(struct model_dir *d, const char *name, json_t *json)
{
    assert_true(d->n < DIR_MAX_FILES);
    assert_non_null(json);
    d->file[d->n].json = json;
    snprintf(d->file[d->n].name, sizeof d->file->name, "%s", name);
    return d->n++;
}

static void add_tensor(struct model_dir *d, unsigned file, enum dtype dtype, const char *name,
                       unsigned rows, unsigned cols)
{
    static const char *const NAMES[] = {"F32", "BF16", "F16"};
    struct dir_file *f = d->file + file;
    size_t bytes = (size_t)rows * (cols ? cols : 1) * dtype_size(dtype), begin = f->len;
    json_t *map = json_object_get(d->file[1].json, "weight_map");
    json_t *shape = cols ? json_pack("[ii]", (int)rows, (int)cols) : json_pack("[i]", (int)rows);

    f->data = realloc(f->data, f->len + bytes);
    assert_non_null(f->data);
    for (size_t i = 0; i < bytes; i++)
        f->data[begin + i] = model_dir_byte(name, i);
    f->len += bytes;
    assert_int_equal(
        json_object_set_new(f->json, name,
                            json_pack("{s:s,s:o,s:[ii]}", "dtype", NAMES[dtype], "shape", shape,
                                      "data_offsets", (int)begin, (int)f->len)),
        0);
    assert_int_equal(json_object_set_new(map, name, json_string(f->name)), 0);
}

static void add_layer(struct model_dir *d, enum dir_layout layout, enum dtype dtype, unsigned l)
{
    static const struct {
        const char *name;
        unsigned rows, cols;
    } DENSE[] = {
        {"input_layernorm", DIR_HIDDEN, 0},
        {"self_attn.q_proj", 16, DIR_HIDDEN},
        {"self_attn.k_proj", 8, DIR_HIDDEN},
        {"self_attn.v_proj", 8, DIR_HIDDEN},
        {"self_attn.o_proj", DIR_HIDDEN, 16},
        {"post_attention_layernorm", DIR_HIDDEN, 0},
        {"block_sparse_moe.gate", DIR_EXPERTS, DIR_HIDDEN},
    };
    char name[128];

    for (size_t i = 0; i < sizeof DENSE / sizeof *DENSE; i++) {
        snprintf(name, sizeof name, "model.layers.%u.%s.weight", l, DENSE[i].name);
        add_tensor(d, 2, dtype, name, DENSE[i].rows, DENSE[i].cols);
    }
    for (unsigned e = 0; e < DIR_EXPERTS; e++)
        for (unsigned w = 1; w <= 3; w++) {
            unsigned file = layout == DIR_TWO_SHARDS ? 3
                            : layout == DIR_ONE_FILE ? 2
                                                     : 3 + DIR_EXPERTS * l + e;
            snprintf(name, sizeof name, "model.layers.%u.block_sparse_moe.experts.%u.w%u.weight", l,
                     e, w);
            add_tensor(d, file, dtype, name, w == 2 ? DIR_HIDDEN : DIR_INTER,
                       w == 2 ? DIR_INTER : DIR_HIDDEN);
        }
}

void model_dir_init(struct model_dir *d, enum dir_layout layout, enum dtype dtype)
{
    unsigned shards = layout == DIR_TWO_SHARDS ? 2
                      : layout == DIR_ONE_FILE ? 1
                                               : 1 + DIR_LAYERS * DIR_EXPERTS;

    memset(d, 0, sizeof *d);
    strcpy(d->path, "/tmp/model.XXXXXX");
    assert_non_null(mkdtemp(d->path));
    add_file(d, "config.json", json_loads(CONFIG, 0, NULL));
    add_file(d, "model.safetensors.index.json", json_pack("{s:{}}", "weight_map"));
    for (unsigned i = 1; i <= shards; i++) {
        char name[64];

        snprintf(name, sizeof name, "model-%05u-of-%05u.safetensors", i, shards);
        add_file(d, layout == DIR_ONE_FILE ? "model.safetensors" : name, json_object());
    }
    add_tensor(d, 2, dtype, "model.embed_tokens.weight", DIR_VOCAB, DIR_HIDDEN);
    for (unsigned l = 0; l < DIR_LAYERS; l++)
        add_layer(d, layout, dtype, l);
    add_tensor(d, 2, dtype, "model.norm.weight", DIR_HIDDEN, 0);
    add_tensor(d, 2, dtype, "lm_head.weight", DIR_VOCAB, DIR_HIDDEN);
}

const char *model_dir_path(const struct model_dir *d, unsigned file)
{
    static char path[160];

    snprintf(path, sizeof path, "%s/%s", d->path, d->file[file].name);
    return path;
}

void model_dir_write(const struct model_dir *d)
{
    for (unsigned i = 0; i < d->n; i++) {
        const struct dir_file *f = d->file + i;
        char *text = json_dumps(f->json, JSON_COMPACT | JSON_PRESERVE_ORDER);
        FILE *out = fopen(model_dir_path(d, i), "wb");
        uint64_t header;

        assert_non_null(text);
        assert_non_null(out);
        header = strlen(text) + d->skew; /* the tests' machine is little-endian */
        if (i >= 2)
            assert_int_equal(fwrite(&header, sizeof header, 1, out), 1);
        fprintf(out, i >= 2 ? "%s%*s" : "%s", text, (int)d->skew, "");
        if (f->len)
            assert_int_equal(fwrite(f->data, f->len, 1, out), 1);
        assert_int_equal(fclose(out), 0);
        free(text);
    }
}

void model_dir_done(struct model_dir *d)
{
    for (unsigned i = 0; i < d->n; i++) {
        unlink(model_dir_path(d, i));
        json_decref(d->file[i].json);
        free(d->file[i].data);
    }
    assert_int_equal(rmdir(d->path), 0);
}
