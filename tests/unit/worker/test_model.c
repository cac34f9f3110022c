/* Loading models: good ones of every layout and dtype, broken ones, and only the bytes that are
 * held. What tensors hold is known from model_dir.h, whatever way they were loaded. */
#include "worker/model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "model_dir.h"
#include "worker/tensors.h"

#define CONFIG 0
#define INDEX 1
#define DENSE 2
#define EXPERTS 3

/* A backend that only has memory, and not more than `allowed` pieces of it. */
struct memory {
    struct kernels k;
    unsigned allowed, pieces;
};

static void *memory_alloc(struct kernels *k, size_t bytes)
{
    struct memory *m = (struct memory *)k;
    void *memory = NULL;

    if (!m->allowed)
        return NULL;
    assert_int_equal(posix_memalign(&memory, 64, bytes), 0);
    memset(memory, 0xee, bytes); /* nothing may count on zeros */
    m->allowed--;
    m->pieces++;
    return memory;
}

static void memory_free(struct kernels *k, void *memory, size_t bytes)
{
    struct memory *m = (struct memory *)k;

    (void)bytes;
    m->pieces -= memory != NULL;
    free(memory);
}

static const struct kernels_ops MEMORY_OPS = {.alloc = memory_alloc, .free = memory_free};

static struct memory new_memory(void)
{
    return (struct memory){.k = {.op = &MEMORY_OPS, .backend = "memory", .threads = 3},
                           .allowed = 10000};
}

static int load_dir(const char *dir, struct memory *mem, const int32_t *held, uint32_t slots,
                    struct model **ret, struct mt_err *err)
{
    struct model_source source = {.dir = dir};
    struct model_config c;
    int rc = model_configure(&source, &c, err);

    return rc ? rc : model_load(&source, &c, &mem->k, held, slots, ret, err);
}

static void check_bytes(const void *data, const char *tensor, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (((const uint8_t *)data)[i] != model_dir_byte(tensor, i))
            fail_msg("%s: byte %zu differs", tensor, i);
}

static void check_layer_weight(const struct weight *w, unsigned layer, const char *name,
                               enum dtype dtype, unsigned rows, unsigned cols)
{
    char tensor[128];

    snprintf(tensor, sizeof tensor, "model.layers.%u.%s.weight", layer, name);
    assert_int_equal(w->dtype, dtype);
    assert_int_equal(w->rows, rows);
    assert_int_equal(w->cols, cols);
    assert_int_equal((uintptr_t)w->data % dtype_size(dtype), 0);
    check_bytes(w->data, tensor, (size_t)rows * cols * dtype_size(dtype));
}

static void check_slot(const struct expert_pool *p, uint32_t slot, unsigned layer, int expert)
{
    const uint8_t *at = (const uint8_t *)p->base + slot * p->stride, *end = at + p->stride;
    size_t part = (size_t)DIR_HIDDEN * DIR_INTER * dtype_size(p->dtype);
    static const unsigned ORDER[] = {1, 3, 2}; /* gate, up, down */
    char tensor[128];

    for (unsigned i = 0; expert >= 0 && i < 3; i++) {
        snprintf(tensor, sizeof tensor, "model.layers.%u.block_sparse_moe.experts.%d.w%u.weight",
                 layer, expert, ORDER[i]);
        check_bytes(at, tensor, part);
        at += part;
    }
    for (; at < end; at++)
        assert_int_equal(*at, 0);
}

static void check_model(const struct model *m, enum dtype dtype, const int32_t *held,
                        uint32_t slots)
{
    size_t size = dtype_size(dtype);

    check_bytes(m->embed.data, "model.embed_tokens.weight", DIR_VOCAB * DIR_HIDDEN * size);
    check_bytes(m->head.data, "lm_head.weight", DIR_VOCAB * DIR_HIDDEN * size);
    check_bytes(m->final_norm, "model.norm.weight", DIR_HIDDEN * size);
    assert_int_equal(m->final_norm_dtype, dtype);
    assert_int_equal(m->head.rows, DIR_VOCAB);
    assert_int_equal(m->expert_bytes, 3 * DIR_HIDDEN * DIR_INTER * size);
    for (unsigned l = 0; l < DIR_LAYERS; l++) {
        const struct layer_weights *w = m->layer + l;
        char tensor[128];

        check_layer_weight(&w->q, l, "self_attn.q_proj", dtype, 16, DIR_HIDDEN);
        check_layer_weight(&w->k, l, "self_attn.k_proj", dtype, 8, DIR_HIDDEN);
        check_layer_weight(&w->v, l, "self_attn.v_proj", dtype, 8, DIR_HIDDEN);
        check_layer_weight(&w->o, l, "self_attn.o_proj", dtype, DIR_HIDDEN, 16);
        check_layer_weight(&w->router, l, "block_sparse_moe.gate", dtype, DIR_EXPERTS, DIR_HIDDEN);
        snprintf(tensor, sizeof tensor, "model.layers.%u.input_layernorm.weight", l);
        check_bytes(w->attn_norm, tensor, DIR_HIDDEN * size);
        snprintf(tensor, sizeof tensor, "model.layers.%u.post_attention_layernorm.weight", l);
        check_bytes(w->ffn_norm, tensor, DIR_HIDDEN * size);
        assert_int_equal(w->pool.slots, slots);
        assert_int_equal(w->pool.dtype, dtype);
        assert_int_equal(w->pool.hidden, DIR_HIDDEN);
        assert_int_equal(w->pool.inter, DIR_INTER);
        assert_int_equal(w->pool.stride % 64, 0);
        for (uint32_t s = 0; s < slots; s++)
            check_slot(&w->pool, s, l, held[l * slots + s]);
    }
}

/* Three slots a layer; the last row is for a configuration that claims a layer too many. */
static const int32_t HELD[(DIR_LAYERS + 1) * 3] = {2, -1, 0, -1, 3, 1, 0, 1, 2};

/* Every layout and dtype; headers of odd length, too, so that tensors are not aligned. */
static void test_loads_all_layouts(void **state)
{
    (void)state;
    for (int layout = DIR_TWO_SHARDS; layout <= DIR_SHARD_PER_EXPERT; layout++)
        for (int dtype = DTYPE_F32; dtype <= DTYPE_F16; dtype++)
            for (unsigned skew = 0; skew < 4; skew++) {
                struct memory mem = new_memory();
                struct model_dir d;
                struct model *m = NULL;
                struct mt_err err;

                model_dir_init(&d, layout, dtype);
                d.skew = skew;
                model_dir_write(&d);
                if (load_dir(d.path, &mem, HELD, 3, &m, &err))
                    fail_msg("%s", err.text);
                check_model(m, dtype, HELD, 3);
                assert_int_equal(m->held_bytes, 4 * m->expert_bytes);
                model_free(m, &mem.k);
                assert_int_equal(mem.pieces, 0);
                model_dir_done(&d);
            }
}

static void test_loads_no_experts(void **state)
{
    struct memory mem = new_memory();
    struct model_dir d;
    struct model *m = NULL;
    struct mt_err err;

    (void)state;
    model_dir_init(&d, DIR_ONE_FILE, DTYPE_BF16);
    model_dir_write(&d);
    assert_int_equal(load_dir(d.path, &mem, NULL, 0, &m, &err), 0);
    check_model(m, DTYPE_BF16, NULL, 0);
    assert_int_equal(m->held_bytes, 0);
    model_free(m, &mem.k);
    model_free(NULL, &mem.k);
    model_dir_done(&d);
}

static void test_ties_the_head(void **state)
{
    struct memory mem = new_memory();
    struct model_dir d;
    struct model *m = NULL;
    struct mt_err err;
    struct wire_facts facts;

    (void)state;
    model_dir_init(&d, DIR_ONE_FILE, DTYPE_BF16);
    json_object_del(d.file[DENSE].json, "lm_head.weight");
    json_object_set_new(d.file[CONFIG].json, "tie_word_embeddings", json_true());
    json_object_set_new(d.file[CONFIG].json, "dtype", json_string("bfloat16"));
    model_dir_write(&d);
    assert_int_equal(load_dir(d.path, &mem, HELD, 3, &m, &err), 0);
    assert_ptr_equal(m->head.data, m->embed.data);
    model_facts(&m->config, &facts);
    assert_true(facts.dense_bytes == m->dense_bytes);
    assert_true(facts.expert_bytes == m->expert_bytes);
    model_free(m, &mem.k);
    model_dir_done(&d);
}

static void test_loads_golden_and_bundled(void **state)
{
    static const struct {
        const char *dir;
        uint64_t parameters; /* as their makers count them */
    } MODELS[] = {{"tests/golden/mixtral", 682560}, {"models/tiny", 32580096 / 2}};

    (void)state;
    for (size_t i = 0; i < sizeof MODELS / sizeof *MODELS; i++) {
        struct memory mem = new_memory();
        struct model *m = NULL;
        struct mt_err err;
        struct wire_facts facts;
        int32_t held[8 * 16];

        for (unsigned j = 0; j < 8 * 16; j++)
            held[j] = (int32_t)(j % (i ? 16 : 8));
        if (load_dir(MODELS[i].dir, &mem, held, i ? 16 : 8, &m, &err))
            fail_msg("%s", err.text);
        assert_true(m->dense_bytes + m->held_bytes == 2 * MODELS[i].parameters);
        model_facts(&m->config, &facts);
        assert_true(facts.dense_bytes == m->dense_bytes);
        assert_true(facts.expert_bytes == m->expert_bytes);
        model_free(m, &mem.k);
        assert_int_equal(mem.pieces, 0);
    }
}

/* Each expert has a shard of its own. Those that are not held lose all their pages between opening
 * and loading, so that one read of them is a SIGBUS. */
static void test_reads_only_held_experts(void **state)
{
    struct memory mem = new_memory();
    struct model_dir d;
    struct model_source source = {.dir = d.path};
    struct model_config c;
    struct tensors *tensors = NULL;
    struct model *m = NULL;
    struct mt_err err;

    (void)state;
    model_dir_init(&d, DIR_SHARD_PER_EXPERT, DTYPE_BF16);
    model_dir_write(&d);
    assert_int_equal(model_configure(&source, &c, &err), 0);
    assert_int_equal(tensors_open(&source, &tensors, &err), 0);
    for (unsigned l = 0; l < DIR_LAYERS; l++)
        for (int e = 0; e < DIR_EXPERTS; e++) {
            bool keep = false;

            for (unsigned s = 0; s < 3; s++)
                keep |= HELD[3 * l + s] == e;
            if (!keep)
                assert_int_equal(
                    truncate(model_dir_path(&d, EXPERTS + DIR_EXPERTS * l + (unsigned)e), 0), 0);
        }
    assert_int_equal(model_load_from(tensors, &c, &mem.k, HELD, 3, &m, &err), 0);
    check_model(m, DTYPE_BF16, HELD, 3);
    model_free(m, &mem.k);
    model_dir_done(&d);
}

enum action { SET, DELETE, RENAME, TRUNCATE, REMOVE };

#define L0 "model.layers.0."
#define L1 "model.layers.1."
#define E(layer, expert, w) \
    "model.layers." #layer ".block_sparse_moe.experts." #expert ".w" #w ".weight"
#define SHARD1 "model-00001-of-00002.safetensors: "
#define SHARD2 "model-00002-of-00002.safetensors: "
#define INDEX_FILE "model.safetensors.index.json: "

/* What is done to a model's files and what loading it then says. SET puts the JSON text `value` at
 * key/field; DELETE takes key (or its field) away; RENAME calls it `value`; TRUNCATE cuts the
 * written file to `value` bytes, or by them if negative. */
static const struct {
    enum action action;
    unsigned file;
    const char *key, *field, *value;
    const char *message;
} BROKEN[] = {
    /* the configuration promises another model than the files hold */
    {SET, CONFIG, "vocab_size", NULL, "33",
     SHARD1 "tensor model.embed_tokens.weight: expected F16|BF16|F32 [33, 16], found BF16 [32"},
    {SET, CONFIG, "hidden_size", NULL, "32",
     SHARD1 "tensor model.embed_tokens.weight: expected F16|BF16|F32 [32, 32], found BF16"},
    {SET, CONFIG, "num_key_value_heads", NULL, "4",
     SHARD1 "tensor " L0 "self_attn.k_proj.weight: expected F16|BF16|F32 [16, 16], found BF16 [8"},
    {SET, CONFIG, "head_dim", NULL, "8",
     SHARD1 "tensor " L0 "self_attn.q_proj.weight: expected F16|BF16|F32 [32, 16], found BF16 [16"},
    {SET, CONFIG, "num_hidden_layers", NULL, "3",
     INDEX_FILE "tensor model.layers.2.input_layernorm.weight: expected it in weight_map, found"},
    {SET, CONFIG, "num_local_experts", NULL, "5",
     SHARD1 "tensor " L0 "block_sparse_moe.gate.weight: expected F16|BF16|F32 [5, 16], found BF16"},
    {SET, CONFIG, "intermediate_size", NULL, "25",
     SHARD2 "tensor " E(0, 0, 1) ": expected F16|BF16|F32 [25, 16], found BF16 [24, 16]"},
    {SET, CONFIG, "model_type", NULL, "\"qwen3_moe\"", "config.json: model_type: expected a known"},
    {TRUNCATE, CONFIG, NULL, NULL, "100", "config.json: line 1: "},
    {REMOVE, CONFIG, NULL, NULL, NULL, "config.json: No such file"},
    /* the index */
    {REMOVE, INDEX, NULL, NULL, NULL, ": expected model.safetensors or model.safetensors.index"},
    {TRUNCATE, INDEX, NULL, NULL, "-3", INDEX_FILE "line 1: "},
    {TRUNCATE, INDEX, NULL, NULL, "0", INDEX_FILE "line 1: "},
    {DELETE, INDEX, "weight_map", NULL, NULL, INDEX_FILE "weight_map: expected an object"},
    {SET, INDEX, "weight_map", NULL, "[]", INDEX_FILE "weight_map: expected an object"},
    {SET, INDEX, "weight_map", NULL, "{}", INDEX_FILE "weight_map: expected an object"},
    {SET, INDEX, "weight_map", "lm_head.weight", "7",
     INDEX_FILE "weight_map: tensor lm_head.weight: expected the name of a .safetensors file"},
    {SET, INDEX, "weight_map", "lm_head.weight", "\"../model-00001-of-00002.safetensors\"",
     INDEX_FILE "weight_map: tensor lm_head.weight: expected the name of a .safetensors file in "
                "this directory, found ../model-00001"},
    {SET, INDEX, "weight_map", "lm_head.weight", "\"/etc/model.safetensors\"",
     INDEX_FILE "weight_map: tensor lm_head.weight: expected the name"},
    {SET, INDEX, "weight_map", "lm_head.weight", "\"..safetensors\"", "expected the name"},
    {SET, INDEX, "weight_map", "lm_head.weight", "\"a\\nb.safetensors\"", "expected the name"},
    {SET, INDEX, "weight_map", "lm_head.weight", "\"weights.bin\"", "expected the name"},
    {SET, INDEX, "weight_map", "lm_head.weight", "\"model-00003-of-00002.safetensors\"",
     INDEX_FILE "weight_map: expected the file model-00003-of-00002.safetensors, found no such"},
    {SET, INDEX, "weight_map", "lm_head.weight", "\"model-00002-of-00002.safetensors\"",
     SHARD2 "tensor lm_head.weight: expected F16|BF16|F32 [32, 16], found no such tensor"},
    {REMOVE, EXPERTS, NULL, NULL, NULL,
     INDEX_FILE "weight_map: expected the file model-00002-of-00002.safetensors, found no such"},
    /* shards */
    {TRUNCATE, DENSE, NULL, NULL, "0", SHARD1 "expected a safetensors file, found 0 bytes"},
    {TRUNCATE, DENSE, NULL, NULL, "7", SHARD1 "expected a safetensors file, found 7 bytes"},
    {TRUNCATE, DENSE, NULL, NULL, "200", SHARD1 "header: expected "},
    {TRUNCATE, DENSE, NULL, NULL, "-1", SHARD1 "tensor lm_head.weight: its bytes end at "},
    {TRUNCATE, EXPERTS, NULL, NULL, "-800", SHARD2 "tensor " E(1, 3, 2) ": its bytes end at "},
    {RENAME, DENSE, "model.norm.weight", NULL, "model.Norm.weight",
     SHARD1 "tensor model.norm.weight: expected F16|BF16|F32 [16], found no such tensor"},
    {DELETE, DENSE, "lm_head.weight", NULL, NULL,
     SHARD1 "tensor lm_head.weight: expected F16|BF16|F32 [32, 16], found no such tensor"},
    {DELETE, EXPERTS, E(1, 2, 3), NULL, NULL,
     SHARD2 "tensor " E(1, 2, 3) ": expected BF16 [24, 16], found no such tensor"},
    {SET, DENSE, "model.norm.weight", "shape", "[8,2]",
     SHARD1 "tensor model.norm.weight: expected F16|BF16|F32 [16], found BF16 [8, 2]"},
    {SET, DENSE, "model.norm.weight", "shape", "[1,16]",
     SHARD1 "tensor model.norm.weight: expected F16|BF16|F32 [16], found BF16 [1, 16]"},
    {SET, DENSE, L1 "self_attn.o_proj.weight", "shape", "[32,8]",
     SHARD1 "tensor " L1 "self_attn.o_proj.weight: expected F16|BF16|F32 [16, 16], found BF16 [32"},
    {SET, EXPERTS, E(0, 3, 2), "shape", "[24,16]",
     SHARD2 "tensor " E(0, 3, 2) ": expected BF16 [16, 24], found BF16 [24, 16]"},
    {SET, EXPERTS, E(1, 0, 1), "dtype", "\"F16\"",
     SHARD2 "tensor " E(1, 0, 1) ": expected BF16 [24, 16], found F16 [24, 16]"},
    {SET, DENSE, "model.norm.weight", "dtype", "\"I16\"",
     SHARD1 "tensor model.norm.weight: expected F16|BF16|F32 [16], found I16 [16]"},
    {SET, DENSE, "model.norm.weight", "dtype", "\"F32\"",
     SHARD1 "tensor model.norm.weight: expected 64 bytes for its shape and dtype, found 32"},
    {SET, DENSE, "model.norm.weight", "dtype", "\"Q4_K\"",
     SHARD1 "tensor model.norm.weight: unknown dtype \"Q4_K\""},
    {SET, DENSE, "model.norm.weight", "data_offsets", "[0,32]",
     SHARD1 "tensor model.embed_tokens.weight: its bytes begin at 0, inside tensor model.norm"},
    {SET, DENSE, "model.norm.weight", "data_offsets", "[1048576,1048608]",
     SHARD1 "tensor model.norm.weight: its bytes end at 1048608, but the file has "},
};

static void apply(struct model_dir *d, size_t i)
{
    json_t *object = d->file[BROKEN[i].file].json;
    const char *key = BROKEN[i].key, *value = BROKEN[i].value;

    if (BROKEN[i].field) {
        object = json_object_get(object, key);
        key = BROKEN[i].field;
    }
    if (BROKEN[i].action == SET)
        assert_int_equal(json_object_set_new(object, key, json_loads(value, JSON_DECODE_ANY, NULL)),
                         0);
    if (BROKEN[i].action == RENAME)
        assert_int_equal(json_object_set(object, value, json_object_get(object, key)), 0);
    if (BROKEN[i].action == RENAME || BROKEN[i].action == DELETE)
        assert_int_equal(json_object_del(object, key), 0);
    model_dir_write(d);
    if (BROKEN[i].action == REMOVE)
        assert_int_equal(unlink(model_dir_path(d, BROKEN[i].file)), 0);
    if (BROKEN[i].action == TRUNCATE) {
        const char *path = model_dir_path(d, BROKEN[i].file);
        FILE *f = fopen(path, "rb");
        long size = strtol(value, NULL, 10);

        assert_non_null(f);
        assert_int_equal(fseek(f, 0, SEEK_END), 0);
        if (*value == '-')
            size += ftell(f);
        fclose(f);
        assert_int_equal(truncate(path, size), 0);
    }
}

static void test_refuses_broken_models(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof BROKEN / sizeof *BROKEN; i++) {
        struct memory mem = new_memory();
        struct model_dir d;
        struct model *m = NULL;
        struct mt_err err = {0};
        int rc;

        model_dir_init(&d, DIR_TWO_SHARDS, DTYPE_BF16);
        apply(&d, i);
        rc = load_dir(d.path, &mem, HELD, 3, &m, &err);
        if (rc >= 0 || m || err.status != rc || !strstr(err.text, BROKEN[i].message))
            fail_msg("expected \"%s\", found status %d, \"%s\"", BROKEN[i].message, rc, err.text);
        assert_non_null(strstr(err.text, d.path));
        assert_int_equal(mem.pieces, 0);
        model_dir_done(&d);
    }
}

static void test_refuses_impossible_slots(void **state)
{
    static const struct {
        int32_t held[4];
        const char *message;
    } CASES[] = {
        {{0, 1, 2, 4}, "layer 1, slot 1: expected an expert below 4 or -1, found 4"},
        {{0, -2, 2, 3}, "layer 0, slot 1: expected an expert below 4 or -1, found -2"},
        {{0, 1, 3, 3}, "layer 1, slot 1: expert 3 is there twice"},
    };
    struct model_dir d;

    (void)state;
    model_dir_init(&d, DIR_ONE_FILE, DTYPE_BF16);
    model_dir_write(&d);
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct memory mem = new_memory();
        struct model *m = NULL;
        struct mt_err err;

        assert_int_equal(load_dir(d.path, &mem, CASES[i].held, 2, &m, &err), MT_EINVAL);
        assert_string_equal(err.text, CASES[i].message);
        assert_null(m);
    }
    model_dir_done(&d);
}

static unsigned json_allowed;

static void *scarce(size_t size)
{
    return json_allowed && json_allowed-- ? malloc(size) : NULL;
}

/* Each allocation of the backend, then of the JSON parser, fails in turn; headers of odd length
 * make the loader copy every tensor. */
static void test_survives_failed_allocations(void **state)
{
    struct model_dir d;
    struct mt_err err;
    struct model *m = NULL;
    unsigned n;
    int rc = MT_ENOMEM;

    (void)state;
    model_dir_init(&d, DIR_TWO_SHARDS, DTYPE_BF16);
    d.skew = 1;
    model_dir_write(&d);
    for (n = 0; rc && n < 100; n++) {
        struct memory mem = new_memory();

        mem.allowed = n;
        rc = load_dir(d.path, &mem, HELD, 3, &m, &err);
        assert_true(rc == 0 || (rc == MT_ENOMEM && !m && strstr(err.text, "no memory")));
        model_free(m, &mem.k);
        assert_int_equal(mem.pieces, 0);
    }
    assert_true(n > 6);
    json_set_alloc_funcs(scarce, free);
    for (rc = MT_ENOMEM, n = 0, m = NULL; rc && n < 10000; n++) {
        struct memory mem = new_memory();

        json_allowed = n;
        rc = load_dir(d.path, &mem, HELD, 3, &m, &err);
        assert_true((rc == 0) == (m != NULL));
        model_free(m, &mem.k);
        assert_int_equal(mem.pieces, 0);
    }
    json_set_alloc_funcs(malloc, free);
    assert_int_equal(rc, 0);
    assert_true(n > 100);
    model_dir_done(&d);
}

static struct model *load_dummy(const char *config, uint64_t seed, struct memory *mem,
                                const int32_t *held, uint32_t slots)
{
    struct model_source source = {.config = config, .dummy = true, .seed = seed};
    struct model_config c;
    struct model *m = NULL;
    struct mt_err err;

    if (model_configure(&source, &c, &err) ||
        model_load(&source, &c, &mem->k, held, slots, &m, &err))
        fail_msg("%s", err.text);
    return m;
}

static const uint8_t *slot_of(const struct model *m, uint32_t layer, uint32_t slot)
{
    return (const uint8_t *)m->layer[layer].pool.base + slot * m->layer[layer].pool.stride;
}

/* Two ranks that hold expert 2 of layer 1 in different slots have the same bytes, and share the
 * dense weights; another seed, layer or expert has others. */
static void test_dummy_weights_are_the_same_on_all_ranks(void **state)
{
    static const int32_t ONE[] = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
    static const int32_t OTHER[] = {7, 6, -1, 6, 2, -1, 6, 7, -1, 6, 7, -1};
    const char *config = "tests/golden/mixtral/config.json";
    struct memory mem = new_memory();
    struct model *a = load_dummy(config, 5, &mem, ONE, 4);
    struct model *b = load_dummy(config, 5, &mem, OTHER, 3);
    struct model *c = load_dummy(config, 6, &mem, ONE, 4);
    size_t bytes = a->expert_bytes;
    uint16_t one = 0x3f80;

    (void)state;
    assert_int_equal(bytes, 3 * 64 * 96 * 2);
    assert_memory_equal(slot_of(a, 1, 2), slot_of(b, 1, 1), bytes);
    assert_true(memcmp(slot_of(a, 1, 2), slot_of(a, 1, 1), bytes));
    assert_true(memcmp(slot_of(a, 1, 2), slot_of(a, 0, 2), bytes));
    assert_true(memcmp(slot_of(a, 1, 2), slot_of(c, 1, 2), bytes));
    assert_true(memcmp(slot_of(a, 1, 2), slot_of(a, 1, 2) + bytes / 3, bytes / 3));
    for (size_t i = 0; i < bytes; i++)
        assert_int_equal(slot_of(b, 0, 2)[i], 0);
    assert_memory_equal(a->embed.data, b->embed.data, 384 * 64 * 2);
    assert_memory_equal(a->layer[3].q.data, b->layer[3].q.data, 64 * 64 * 2);
    assert_true(memcmp(a->layer[3].q.data, a->layer[2].q.data, 64 * 64 * 2));
    for (unsigned i = 0; i < 64; i++)
        assert_memory_equal((const uint16_t *)a->final_norm + i, &one, 2);
    model_free(a, &mem.k);
    model_free(b, &mem.k);
    model_free(c, &mem.k);
    assert_int_equal(mem.pieces, 0);
}

/* cos and sin of float32 arithmetic (NumPy 2), theta 1e6, 128 dimensions. At position 32767 double
 * arithmetic differs from it by up to 3e-4. */
static void test_rope_is_that_of_float32(void **state)
{
    static const struct {
        uint32_t position, i;
        float cos, sin;
    } TABLE[] = {
        {0, 0, 1, 0},
        {0, 63, 1, 0},
        {1, 0, 0.5403022766113281f, 0.8414709568023682f},
        {1, 7, 0.9757502675056458f, 0.21888673305511475f},
        {1, 63, 1.0f, 1.2409377632138785e-06f},
        {1000, 1, -0.023706253618001938f, 0.999718964099884f},
        {1000, 7, 0.7235153317451477f, 0.6903083324432373f},
        {32767, 0, 0.9822633266448975f, 0.1875065565109253f},
        {32767, 1, -0.9984877109527588f, 0.05497569218277931f},
        {32767, 7, 0.4165831208229065f, -0.9090976119041443f},
        {32767, 63, 0.9991734027862549f, 0.04065060243010521f},
    };
    struct model_dir d;
    struct memory mem = new_memory();
    struct model *m;

    (void)state;
    model_dir_init(&d, DIR_ONE_FILE, DTYPE_BF16);
    json_object_set_new(d.file[CONFIG].json, "rope_theta", json_real(1e6));
    json_object_set_new(d.file[CONFIG].json, "head_dim", json_integer(128));
    json_object_set_new(d.file[CONFIG].json, "max_position_embeddings", json_integer(32768));
    model_dir_write(&d);
    m = load_dummy(model_dir_path(&d, CONFIG), 1, &mem, NULL, 0);
    assert_int_equal(m->rope.dims, 128);
    assert_false(m->rope.interleaved);
    for (size_t i = 0; i < sizeof TABLE / sizeof *TABLE; i++) {
        size_t at = (size_t)TABLE[i].position * 64 + TABLE[i].i;

        assert_float_equal(m->rope.cos[at], TABLE[i].cos, 2e-7);
        assert_float_equal(m->rope.sin[at], TABLE[i].sin, 2e-7);
    }
    model_free(m, &mem.k);
    model_dir_done(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loads_all_layouts),
        cmocka_unit_test(test_loads_no_experts),
        cmocka_unit_test(test_ties_the_head),
        cmocka_unit_test(test_loads_golden_and_bundled),
        cmocka_unit_test(test_reads_only_held_experts),
        cmocka_unit_test(test_refuses_broken_models),
        cmocka_unit_test(test_refuses_impossible_slots),
        cmocka_unit_test(test_survives_failed_allocations),
        cmocka_unit_test(test_dummy_weights_are_the_same_on_all_ranks),
        cmocka_unit_test(test_rope_is_that_of_float32),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
