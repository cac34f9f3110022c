/* What tokenizer.json puts around the model: normalizer, pre-tokenizer, post-processor, decoder. */
#include <string.h>

#include "daemon/tokenizer_private.h"

/* What ByteLevel splits by when it is asked to (GPT-2's pattern). */
static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static const char *type_of(const json_t *object)
{
    const char *type = json_string_value(json_object_get(object, "type"));

    return type ? type : "(no type)";
}

static bool is_type(const json_t *object, const char *type)
{
    return !strcmp(type_of(object), type);
}

static bool flag(const json_t *object, const char *name, bool otherwise)
{
    const json_t *value = json_object_get(object, name);

    return json_is_boolean(value) ? json_is_true(value) : otherwise;
}

static int unsupported(const char *where, const json_t *object, struct mt_err *reterr)
{
    return mt_error(reterr, MT_EUNSUPPORTED, "%s: type \"%.64s\" is not supported", where,
                    type_of(object));
}

/* The parts of a {"type": "Sequence", NAME: [...]}, or the object itself. */
static size_t part_count(const json_t *object, const char *name)
{
    return is_type(object, "Sequence") ? json_array_size(json_object_get(object, name)) : 1;
}

static const json_t *part(const json_t *object, const char *name, size_t i)
{
    return is_type(object, "Sequence") ? json_array_get(json_object_get(object, name), i) : object;
}

static int normalizer_load(struct tokenizer *t, const json_t *object, struct mt_err *reterr)
{
    size_t i;

    if (!object || json_is_null(object))
        return 0;
    for (i = 0; i < part_count(object, "normalizers"); i++) {
        if (!is_type(part(object, "normalizers", i), "NFC"))
            return unsupported("normalizer", part(object, "normalizers", i), reterr);
        t->nfc = true;
    }
    return 0;
}

static int split_add(struct tokenizer *t, const char *pattern, size_t n, bool literal,
                     struct mt_err *reterr)
{
    int status;

    if (t->n_splits == TOKENIZER_MAX_SPLITS)
        return mt_error(reterr, MT_ELIMIT, "pre_tokenizer: more than %u splits",
                        TOKENIZER_MAX_SPLITS);
    status = split_new(pattern, n, literal, &t->splits[t->n_splits], reterr);
    if (status)
        return mt_error_prefix(reterr, "pre_tokenizer");
    t->n_splits++;
    return 0;
}

static int split_load(struct tokenizer *t, const json_t *object, struct mt_err *reterr)
{
    const json_t *pattern = json_object_get(object, "pattern"),
                 *regex = json_object_get(pattern, "Regex");
    const json_t *text = regex ? regex : json_object_get(pattern, "String");
    const char *behavior = json_string_value(json_object_get(object, "behavior"));

    if (!behavior || strcmp(behavior, "Isolated"))
        return mt_error(reterr, MT_EUNSUPPORTED,
                        "pre_tokenizer: Split: behavior \"%.64s\" is not supported",
                        behavior ? behavior : "(none)");
    if (flag(object, "invert", false))
        return mt_error(reterr, MT_EUNSUPPORTED, "pre_tokenizer: Split: invert is not supported");
    if (!json_is_string(text) || !json_string_length(text))
        return mt_error(reterr, MT_EINVAL,
                        "pre_tokenizer: Split: expected a pattern, Regex or String, with text");
    return split_add(t, json_string_value(text), json_string_length(text), text != regex, reterr);
}

static int digits_load(struct tokenizer *t, const json_t *object, struct mt_err *reterr)
{
    const char *pattern = flag(object, "individual_digits", false) ? "\\p{N}" : "\\p{N}+";

    return split_add(t, pattern, strlen(pattern), false, reterr);
}

static int pre_tokenizer_load(struct tokenizer *t, const json_t *object, struct mt_err *reterr)
{
    size_t i, n = part_count(object, "pretokenizers");
    const json_t *one;
    int status = 0;

    if (!object || json_is_null(object))
        return mt_error(reterr, MT_EUNSUPPORTED,
                        "pre_tokenizer: none; expected one that ends in ByteLevel");
    for (i = 0; i + 1 < n && !status; i++) {
        one = part(object, "pretokenizers", i);
        if (is_type(one, "Split"))
            status = split_load(t, one, reterr);
        else if (is_type(one, "Digits"))
            status = digits_load(t, one, reterr);
        else
            status = unsupported("pre_tokenizer (before the last)", one, reterr);
    }
    if (status)
        return status;
    one = n ? part(object, "pretokenizers", n - 1) : NULL;
    if (!is_type(one, "ByteLevel"))
        return unsupported("pre_tokenizer (the last, which must be ByteLevel)", one, reterr);
    t->prefix_space = flag(one, "add_prefix_space", true);
    if (t->prefix_space && n > 1)
        return mt_error(reterr, MT_EUNSUPPORTED,
                        "pre_tokenizer: ByteLevel: add_prefix_space after a split is not "
                        "supported");
    return flag(one, "use_regex", true)
               ? split_add(t, gpt2_pattern, sizeof(gpt2_pattern) - 1, false, reterr)
               : 0;
}

/* The ids of one special token of a template, before or after the text. */
static int template_special(struct tokenizer *t, const json_t *object, const char *name, bool after,
                            struct mt_err *reterr)
{
    const json_t *entry = json_object_get(json_object_get(object, "special_tokens"), name);
    const json_t *ids = json_object_get(entry, "ids"), *id;
    unsigned *n = after ? &t->n_suffix : &t->n_prefix;
    size_t i;

    if (!json_is_array(ids))
        return mt_error(reterr, MT_EINVAL,
                        "post_processor: special_tokens: expected \"%.64s\" with a list \"ids\"",
                        name);
    for (i = 0; i < json_array_size(ids); i++) {
        id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= t->vocab)
            return mt_error(reterr, MT_EINVAL, "post_processor: \"%.64s\": expected ids 0 .. %u",
                            name, t->vocab - 1);
        if (*n == TOKENIZER_MAX_AFFIX)
            return mt_error(reterr, MT_ELIMIT, "post_processor: more than %u special tokens",
                            TOKENIZER_MAX_AFFIX);
        (after ? t->suffix : t->prefix)[(*n)++] = (int32_t)json_integer_value(id);
    }
    return 0;
}

static int template_load(struct tokenizer *t, const json_t *object, struct mt_err *reterr)
{
    const json_t *single = json_object_get(object, "single"), *special;
    const char *name, *sequence;
    unsigned sequences = 0;
    size_t i;
    int status = 0;

    for (i = 0; i < json_array_size(single) && !status; i++) {
        special = json_object_get(json_array_get(single, i), "SpecialToken");
        name = json_string_value(json_object_get(special, "id"));
        sequence = json_string_value(
            json_object_get(json_object_get(json_array_get(single, i), "Sequence"), "id"));
        if (name)
            status = template_special(t, object, name, sequences > 0, reterr);
        else if (sequence && !strcmp(sequence, "A"))
            sequences++;
        else
            return mt_error(reterr, MT_EINVAL,
                            "post_processor: single[%zu]: expected a SpecialToken or Sequence A",
                            i);
    }
    if (!status && sequences != 1)
        return mt_error(reterr, MT_EUNSUPPORTED,
                        "post_processor: the template has Sequence A %u times; expected once",
                        sequences);
    return status;
}

static int post_processor_load(struct tokenizer *t, const json_t *object, struct mt_err *reterr)
{
    bool template_seen = false;
    const json_t *one;
    size_t i;
    int status;

    if (!object || json_is_null(object))
        return 0;
    for (i = 0; i < part_count(object, "processors"); i++) {
        one = part(object, "processors", i);
        if (is_type(one, "ByteLevel"))
            continue; /* offsets, which nobody asks us for */
        if (!is_type(one, "TemplateProcessing") || template_seen)
            return unsupported("post_processor", one, reterr);
        template_seen = true;
        status = template_load(t, one, reterr);
        if (status)
            return status;
    }
    return 0;
}

static int decoder_check(const json_t *object, struct mt_err *reterr)
{
    size_t i, n = object ? part_count(object, "decoders") : 0;

    for (i = 0; i < n; i++)
        if (!is_type(part(object, "decoders", i), "ByteLevel"))
            return unsupported("decoder", part(object, "decoders", i), reterr);
    return n == 1 ? 0 : mt_error(reterr, MT_EUNSUPPORTED, "decoder: expected one, ByteLevel");
}

int pipeline_load(struct tokenizer *t, const json_t *root, struct mt_err *reterr)
{
    int status = normalizer_load(t, json_object_get(root, "normalizer"), reterr);

    if (!status)
        status = pre_tokenizer_load(t, json_object_get(root, "pre_tokenizer"), reterr);
    if (!status)
        status = post_processor_load(t, json_object_get(root, "post_processor"), reterr);
    return status ? status : decoder_check(json_object_get(root, "decoder"), reterr);
}
