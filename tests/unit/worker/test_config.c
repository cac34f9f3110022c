/* config.json under both spellings, and what is refused in it. Cases are a whole configuration with
 * some fields replaced. */
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "worker/model.h"

static const char OLDER[] =
    "{\"architectures\":[\"MixtralForCausalLM\"],\"model_type\":\"mixtral\",\"vocab_size\":32000,"
    "\"hidden_size\":4096,\"intermediate_size\":14336,\"num_hidden_layers\":32,"
    "\"num_attention_heads\":32,\"num_key_value_heads\":8,\"hidden_act\":\"silu\","
    "\"max_position_embeddings\":32768,\"rms_norm_eps\":1e-05,\"rope_theta\":1000000.0,"
    "\"num_local_experts\":8,\"num_experts_per_tok\":2,\"tie_word_embeddings\":false,"
    "\"sliding_window\":null,\"bos_token_id\":1,\"eos_token_id\":2,\"torch_dtype\":\"bfloat16\"}";

/* OLDER with the fields of `changes` replaced; null there removes nothing, it is null. */
static int parse(const char *changes, struct model_config *ret, struct mt_err *err)
{
    json_t *root = json_loads(OLDER, 0, NULL), *with = json_loads(changes, 0, NULL);
    char *text;
    int rc;

    assert_non_null(root);
    assert_non_null(with);
    assert_int_equal(json_object_update(root, with), 0);
    text = json_dumps(root, 0);
    assert_non_null(text);
    rc = model_config_parse(text, strlen(text), "config.json", ret, err);
    json_decref(root);
    json_decref(with);
    free(text);
    return rc;
}

static void parse_ok(const char *changes, struct model_config *ret)
{
    struct mt_err err;

    if (parse(changes, ret, &err))
        fail_msg("%s: %s", changes, err.text);
}

static void test_reads_the_older_spelling(void **state)
{
    struct model_config c;

    (void)state;
    parse_ok("{}", &c);
    assert_string_equal(c.family, "mixtral");
    assert_int_equal(c.vocab, 32000);
    assert_int_equal(c.hidden, 4096);
    assert_int_equal(c.inter, 14336);
    assert_int_equal(c.layers, 32);
    assert_int_equal(c.heads, 32);
    assert_int_equal(c.kv_heads, 8);
    assert_int_equal(c.head_dim, 128);
    assert_int_equal(c.rope_dims, 128);
    assert_int_equal(c.max_positions, 32768);
    assert_true(c.rms_eps == 1e-5f);
    assert_true(c.rope_theta == 1e6f);
    assert_int_equal(c.window, 0);
    assert_false(c.tied);
    assert_int_equal(c.bos, 1);
    assert_int_equal(c.n_eos, 1);
    assert_int_equal(c.eos[0], 2);
    assert_int_equal(c.dtype, DTYPE_BF16);
    assert_int_equal(c.router.score, ROUTER_SOFTMAX);
    assert_true(c.router.renormalize);
    assert_int_equal(c.router.experts, 8);
    assert_int_equal(c.router.topk, 2);
    assert_int_equal(c.router.groups, 1);
    assert_int_equal(c.router.topk_groups, 1);
    assert_true(c.router.scale == 1);
    assert_null(c.router.bias);
}

static void test_reads_the_newer_spelling(void **state)
{
    struct model_config c;

    (void)state;
    parse_ok("{\"rope_theta\":null,\"torch_dtype\":null,\"dtype\":\"float16\",\"head_dim\":null,"
             "\"rope_parameters\":{\"rope_theta\":10000,\"rope_type\":\"default\"}}",
             &c);
    assert_true(c.rope_theta == 10000);
    assert_int_equal(c.dtype, DTYPE_F16);
    assert_int_equal(c.head_dim, 128);
    parse_ok("{\"rope_parameters\":{\"rope_theta\":1e6},\"rope_scaling\":{\"type\":\"default\"}}",
             &c);
    assert_true(c.rope_theta == 1e6f);
}

static void test_reads_the_rest(void **state)
{
    struct model_config c;

    (void)state;
    parse_ok("{\"head_dim\":64,\"sliding_window\":4096,\"tie_word_embeddings\":true}", &c);
    assert_int_equal(c.head_dim, 64);
    assert_int_equal(c.rope_dims, 64);
    assert_int_equal(c.window, 4096);
    assert_true(c.tied);
    parse_ok("{\"eos_token_id\":[7,31999,9],\"bos_token_id\":null}", &c);
    assert_int_equal(c.bos, -1);
    assert_int_equal(c.n_eos, 3);
    assert_int_equal(c.eos[1], 31999);
    parse_ok("{\"eos_token_id\":null,\"num_key_value_heads\":null,\"hidden_act\":null}", &c);
    assert_int_equal(c.n_eos, 0);
    assert_int_equal(c.kv_heads, 32);
    parse_ok("{\"eos_token_id\":[]}", &c);
    assert_int_equal(c.n_eos, 0);
    parse_ok("{\"num_experts_per_tok\":8,\"torch_dtype\":\"float32\"}", &c);
    assert_int_equal(c.router.topk, 8);
    assert_int_equal(c.dtype, DTYPE_F32);
}

static const struct {
    const char *changes;
    int status;
    const char *message; /* after "config.json: " */
} REFUSED[] = {
    {"{\"model_type\":\"llama\"}", MT_EUNSUPPORTED,
     "model_type: expected a known family (mixtral), found \"llama\""},
    {"{\"model_type\":null}", MT_EINVAL, "model_type: expected a text, found nothing"},
    {"{\"architectures\":[\"MixtralModel\"]}", MT_EUNSUPPORTED,
     "architectures[0]: expected \"MixtralForCausalLM\", found \"MixtralModel\""},
    {"{\"hidden_act\":\"gelu\"}", MT_EUNSUPPORTED, "hidden_act: expected \"silu\", found \"gelu\""},
    {"{\"hidden_act\":1}", MT_EINVAL, "hidden_act: expected a text, found 1"},
    {"{\"attention_bias\":true}", MT_EUNSUPPORTED, "attention_bias: true is not supported"},
    {"{\"attention_bias\":0}", MT_EINVAL, "attention_bias: expected true or false, found 0"},
    {"{\"quantization_config\":{\"bits\":4}}", MT_EUNSUPPORTED, "quantization_config: quantized"},
    {"{\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}}", MT_EUNSUPPORTED,
     "rope_scaling.type: expected \"default\", found \"linear\""},
    {"{\"rope_scaling\":{\"rope_type\":\"yarn\"}}", MT_EUNSUPPORTED, "rope_scaling.rope_type: "},
    {"{\"rope_scaling\":[]}", MT_EINVAL, "rope_scaling: expected an object, found a list"},
    {"{\"rope_parameters\":{\"rope_type\":\"llama3\",\"rope_theta\":1e6}}", MT_EUNSUPPORTED,
     "rope_parameters.rope_type: expected \"default\", found \"llama3\""},
    {"{\"rope_parameters\":{\"rope_theta\":10000}}", MT_EINVAL,
     "rope_parameters.rope_theta: expected rope_theta's 1e+06, found 10000"},
    {"{\"rope_theta\":null}", MT_EINVAL, "rope_parameters.rope_theta: expected a number"},
    {"{\"rope_theta\":0}", MT_EINVAL, "rope_theta: expected a number from 1"},
    {"{\"rope_theta\":\"1e6\"}", MT_EINVAL,
     "rope_theta: expected a number from 1 to 1e+12, found \"1e6\""},
    {"{\"partial_rotary_factor\":0.5}", MT_EUNSUPPORTED, "partial_rotary_factor: a factor other"},
    {"{\"partial_rotary_factor\":2}", MT_EINVAL, "partial_rotary_factor: expected a number from"},
    {"{\"torch_dtype\":\"int8\"}", MT_EUNSUPPORTED,
     "torch_dtype: expected float32, bfloat16 or float16, found \"int8\""},
    {"{\"dtype\":\"float64\"}", MT_EUNSUPPORTED, "dtype: expected float32"},
    {"{\"vocab_size\":null}", MT_EINVAL, "vocab_size: expected a whole number from 1 to "},
    {"{\"vocab_size\":0}", MT_EINVAL, "vocab_size: expected a whole number from 1 to "},
    {"{\"vocab_size\":16777217}", MT_EINVAL, "vocab_size: expected a whole number from 1 to "},
    {"{\"hidden_size\":-4096}", MT_EINVAL,
     "hidden_size: expected a whole number from 1 to 65536, found -4096"},
    {"{\"hidden_size\":4096.0}", MT_EINVAL, "found 4096 (not a whole number)"},
    {"{\"hidden_size\":4294971392}", MT_EINVAL, "hidden_size: expected a whole number"},
    {"{\"hidden_size\":4095}", MT_EINVAL,
     "num_attention_heads: expected a divisor of hidden_size 4095 (there is no head_dim), found 3"},
    {"{\"intermediate_size\":\"14336\"}", MT_EINVAL, "intermediate_size: expected a whole number"},
    {"{\"num_hidden_layers\":257}", MT_EINVAL,
     "num_hidden_layers: expected a whole number from 1"
     " to 256, found 257"},
    {"{\"num_hidden_layers\":true}", MT_EINVAL, "num_hidden_layers: expected a whole number"},
    {"{\"num_attention_heads\":0}", MT_EINVAL, "num_attention_heads: expected a whole number"},
    {"{\"num_key_value_heads\":64}", MT_EINVAL, "num_key_value_heads: expected a whole number"},
    {"{\"num_key_value_heads\":5}", MT_EINVAL,
     "num_key_value_heads: expected a divisor of num_attention_heads 32, found 5"},
    {"{\"head_dim\":127}", MT_EINVAL, "head_dim: expected an even number"},
    {"{\"head_dim\":0}", MT_EINVAL, "head_dim: expected a whole number from 2 to 1024, found 0"},
    {"{\"num_attention_heads\":4096,\"num_key_value_heads\":1}", MT_EINVAL,
     "num_attention_heads: "},
    {"{\"num_attention_heads\":1,\"num_key_value_heads\":1}", MT_EINVAL,
     "head_dim: expected an even number from 2 to 1024, found 4096"},
    {"{\"max_position_embeddings\":0}", MT_EINVAL, "max_position_embeddings: expected"},
    {"{\"max_position_embeddings\":4194304}", MT_EINVAL, "max_position_embeddings: expected"},
    {"{\"rms_norm_eps\":0}", MT_EINVAL, "rms_norm_eps: expected a number from 1e-12 to 1, found 0"},
    {"{\"rms_norm_eps\":-1e-5}", MT_EINVAL, "rms_norm_eps: expected a number from"},
    {"{\"rms_norm_eps\":null}", MT_EINVAL, "rms_norm_eps: expected a number from"},
    {"{\"tie_word_embeddings\":\"no\"}", MT_EINVAL, "tie_word_embeddings: expected true or false"},
    {"{\"sliding_window\":-1}", MT_EINVAL, "sliding_window: expected a whole number from 0"},
    {"{\"num_local_experts\":0}", MT_EINVAL, "num_local_experts: expected a whole number from 1"},
    {"{\"num_local_experts\":1025}", MT_EINVAL, "num_local_experts: expected a whole number"},
    {"{\"num_experts_per_tok\":0}", MT_EINVAL, "num_experts_per_tok: expected a whole number"},
    {"{\"num_experts_per_tok\":9}", MT_EINVAL,
     "num_experts_per_tok: expected at most the 8 experts, found 9"},
    {"{\"num_local_experts\":64,\"num_experts_per_tok\":33}", MT_EINVAL, "num_experts_per_tok: "},
    {"{\"bos_token_id\":32000}", MT_EINVAL,
     "bos_token_id: expected a token id below 32000, found 32000"},
    {"{\"eos_token_id\":-1}", MT_EINVAL, "eos_token_id: expected a token id below 32000, found -1"},
    {"{\"eos_token_id\":\"</s>\"}", MT_EINVAL, "eos_token_id: expected a token id"},
    {"{\"eos_token_id\":[2,[3]]}", MT_EINVAL, "eos_token_id: expected a token id"},
    {"{\"eos_token_id\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}", MT_ELIMIT,
     "eos_token_id: expected at most 16 tokens, found 17"},
};

static void test_refuses_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof REFUSED / sizeof *REFUSED; i++) {
        struct model_config c, before;
        struct mt_err err = {0};
        int rc;

        memset(&c, 0x5a, sizeof c);
        before = c;
        rc = parse(REFUSED[i].changes, &c, &err);
        if (rc != REFUSED[i].status || err.status != rc || strncmp(err.text, "config.json: ", 13) ||
            !strstr(err.text, REFUSED[i].message))
            fail_msg("%s: status %d, text \"%s\"", REFUSED[i].changes, rc, err.text);
        assert_memory_equal(&c, &before, sizeof c);
    }
}

static void test_refuses_what_is_no_object(void **state)
{
    static const char *const TEXTS[] = {
        "", "[]", "null", "{", "{} {}", "{\"model_type\":\"mixtral\",\"model_type\":\"mixtral\"}",
    };

    (void)state;
    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++) {
        struct model_config c;
        struct mt_err err = {0};

        assert_int_equal(model_config_parse(TEXTS[i], strlen(TEXTS[i]), "config.json", &c, &err),
                         MT_EINVAL);
        assert_int_equal(strncmp(err.text, "config.json: ", 13), 0);
    }
}

/* Cut anywhere, it is refused. */
static void test_refuses_every_truncation(void **state)
{
    (void)state;
    for (size_t len = 0; len < strlen(OLDER); len++) {
        struct model_config c;
        struct mt_err err;
        char *copy = malloc(len + 1);

        assert_non_null(copy);
        memcpy(copy, OLDER, len);
        assert_int_equal(model_config_parse(copy, len, "config.json", &c, &err), MT_EINVAL);
        free(copy);
    }
}

static int generation(const char *text, struct model_config *c, struct mt_err *err)
{
    return model_config_parse_generation(text, strlen(text), "generation_config.json", c, err);
}

static void test_generation_config_overrides(void **state)
{
    struct model_config c, before;
    struct mt_err err;

    (void)state;
    parse_ok("{}", &c);
    assert_int_equal(generation("{\"temperature\":0.7}", &c, &err), 0);
    assert_int_equal(c.bos, 1);
    assert_int_equal(c.n_eos, 1);
    assert_int_equal(c.eos[0], 2);
    assert_int_equal(generation("{\"eos_token_id\":null,\"bos_token_id\":5}", &c, &err), 0);
    assert_int_equal(c.bos, 5);
    assert_int_equal(c.eos[0], 2);
    assert_int_equal(generation("{\"eos_token_id\":[4,6]}", &c, &err), 0);
    assert_int_equal(c.n_eos, 2);
    assert_int_equal(c.eos[0], 4);
    assert_int_equal(c.eos[1], 6);
    before = c;
    assert_int_equal(generation("{\"bos_token_id\":3,\"eos_token_id\":[7,32000]}", &c, &err),
                     MT_EINVAL);
    assert_string_equal(err.text, "generation_config.json: eos_token_id: expected a token id below "
                                  "32000, found 32000");
    assert_memory_equal(&c, &before, sizeof c);
    assert_int_equal(generation("[]", &c, &err), MT_EINVAL);
}

static void test_reads_a_directory(void **state)
{
    struct model_source source = {.dir = "tests/golden/mixtral"};
    struct model_config c;
    struct mt_err err;

    (void)state;
    if (model_configure(&source, &c, &err))
        fail_msg("%s", err.text);
    assert_int_equal(c.layers, 4);
    assert_int_equal(c.head_dim, 8);
    assert_true(c.rope_theta == 1e6f);
    assert_int_equal(c.eos[0], 2);
    source.dir = "tests/golden/none";
    assert_int_equal(model_configure(&source, &c, &err), MT_ENOTFOUND);
    assert_non_null(strstr(err.text, "tests/golden/none/config.json"));
    source = (struct model_source){.dummy = true, .config = "tests/golden/mixtral/config.json"};
    assert_int_equal(model_configure(&source, &c, &err), 0);
    assert_int_equal(c.dtype, DTYPE_BF16);
    source.config = "tests/golden/none.json";
    assert_int_equal(model_configure(&source, &c, &err), MT_ENOTFOUND);
}

/* Mixtral-8x7B's parameter count, 46,702,792,704, is public. */
static void test_facts_of_mixtral_8x7b(void **state)
{
    struct model_config c;
    struct wire_facts facts;

    (void)state;
    parse_ok("{}", &c);
    model_facts(&c, &facts);
    assert_string_equal(facts.family, "mixtral");
    assert_int_equal(facts.layers, 32);
    assert_int_equal(facts.moe_layers, 32);
    assert_int_equal(facts.experts, 8);
    assert_int_equal(facts.topk, 2);
    assert_int_equal(facts.eos[0], 2);
    assert_true(facts.dense_bytes + 32 * 8 * facts.expert_bytes == 2 * 46702792704);
    assert_true(facts.kv_bytes_per_token == 32 * 2 * 8 * 128 * 4);
}

static void test_names_the_families(void **state)
{
    (void)state;
    assert_string_equal(family_list(), "mixtral");
    assert_non_null(family_find("mixtral"));
    assert_null(family_find(""));
    assert_null(family_find("mixtral2"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_the_older_spelling),
        cmocka_unit_test(test_reads_the_newer_spelling),
        cmocka_unit_test(test_reads_the_rest),
        cmocka_unit_test(test_refuses_by_name),
        cmocka_unit_test(test_refuses_what_is_no_object),
        cmocka_unit_test(test_refuses_every_truncation),
        cmocka_unit_test(test_generation_config_overrides),
        cmocka_unit_test(test_reads_a_directory),
        cmocka_unit_test(test_facts_of_mixtral_8x7b),
        cmocka_unit_test(test_names_the_families),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
