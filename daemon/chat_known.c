#include "daemon/chat_known.h"

#include <string.h>

#define CHAT_MAX_TEMPLATE (1u << 20)

/* What Python's str.strip() takes away. */
static size_t space_at(const char *s)
{
    static const char *const wide[] = {
        "\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80", "\xe2\x80\x80", "\xe2\x80\x81",
        "\xe2\x80\x82", "\xe2\x80\x83", "\xe2\x80\x84", "\xe2\x80\x85", "\xe2\x80\x86",
        "\xe2\x80\x87", "\xe2\x80\x88", "\xe2\x80\x89", "\xe2\x80\x8a", "\xe2\x80\xa8",
        "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80",
    };
    unsigned char c = (unsigned char)*s;
    size_t i;

    if (c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x1f))
        return 1;
    for (i = 0; c >= 0xc2 && i < sizeof(wide) / sizeof(wide[0]); i++)
        if (!strncmp(s, wide[i], strlen(wide[i])))
            return strlen(wide[i]);
    return 0;
}

static int put_stripped(struct buf *out, const char *text)
{
    const char *end, *p;
    size_t n;

    while ((n = space_at(text)) != 0)
        text += n;
    for (end = p = text; *p; p += n ? n : 1) {
        n = space_at(p);
        if (!n)
            end = p + 1;
    }
    return buf_append(out, text, (size_t)(end - text));
}

static bool is_role(const struct chat_message *m, const char *role)
{
    return !strcmp(m->role, role);
}

static int bad_order(size_t i, const struct chat_message *m, const char *expected,
                     struct mt_err *reterr)
{
    return mt_error(reterr, MT_EINVAL, "message %zu has the role \"%.64s\"; expected \"%s\"", i,
                    m->role, expected);
}

/* First the user, then in turns; the template raises an exception at anything else. */
static int check_turns(const struct chat_message *messages, size_t n, size_t skipped,
                       struct mt_err *reterr)
{
    size_t i;

    for (i = 0; i < n; i++) {
        const char *expected = i % 2 ? "assistant" : "user";

        if (!is_role(&messages[i], expected))
            return bad_order(i + skipped, &messages[i], expected, reterr);
    }
    return 0;
}

/* --- chatml ------------------------------------------------------------------------------------
 */

static int write_chatml(const struct chat_known *k, const struct chat_tokens *tokens,
                        const struct chat_message *messages, size_t n, bool prompt, struct buf *out,
                        struct mt_err *reterr)
{
    size_t i;

    (void)tokens;
    (void)reterr;
    if (k->system && !is_role(&messages[0], "system")) {
        buf_puts(out, "<|im_start|>system\n");
        buf_puts(out, k->system);
        buf_puts(out, "<|im_end|>\n");
    }
    for (i = 0; i < n; i++) {
        buf_puts(out, "<|im_start|>");
        buf_puts(out, messages[i].role);
        buf_puts(out, "\n");
        buf_puts(out, messages[i].content);
        buf_puts(out, "<|im_end|>\n");
    }
    return prompt ? buf_puts(out, "<|im_start|>assistant\n") : out->status;
}

/* --- [INST] ------------------------------------------------------------------------------------
 */

static int write_mistral(const struct chat_known *k, const struct chat_tokens *tokens,
                         const struct chat_message *messages, size_t n, bool prompt,
                         struct buf *out, struct mt_err *reterr)
{
    size_t i;

    (void)prompt; /* the end of [/INST] is the prompt */
    if (check_turns(messages, n, 0, reterr))
        return MT_EINVAL;
    buf_puts(out, tokens->bos);
    for (i = 0; i < n; i++) {
        bool user = i % 2 == 0;

        buf_puts(out, user ? "[INST] " : "");
        buf_puts(out, messages[i].content);
        buf_puts(out, user ? " [/INST]" : tokens->eos);
        buf_puts(out, user ? "" : k->after);
    }
    return out->status;
}

/* The template would drop a system message that no message of the user follows: an error here. */
static int write_llama2(const struct chat_known *k, const struct chat_tokens *tokens,
                        const struct chat_message *messages, size_t n, bool prompt, struct buf *out,
                        struct mt_err *reterr)
{
    const char *system = is_role(&messages[0], "system") ? messages[0].content : NULL;
    struct buf first;
    size_t i;

    (void)k;
    (void)prompt;
    if (system) {
        messages++;
        n--;
    }
    if (!n)
        return mt_error(reterr, MT_EINVAL, "a system message alone; expected one of the user too");
    if (check_turns(messages, n, system ? 1 : 0, reterr))
        return MT_EINVAL;
    buf_init(&first, out->cap);
    if (system)
        buf_printf(&first, "<<SYS>>\n%s\n<</SYS>>\n\n", system);
    buf_puts(&first, messages[0].content);
    buf_append(&first, "", 1);
    if (first.status) {
        buf_done(&first);
        return out->status = first.status ? first.status : MT_ENOMEM;
    }
    for (i = 0; i < n; i++) {
        bool user = i % 2 == 0;

        buf_puts(out, user ? tokens->bos : " ");
        buf_puts(out, user ? "[INST] " : "");
        put_stripped(out, i ? messages[i].content : (const char *)first.data);
        buf_puts(out, user ? " [/INST]" : " ");
        buf_puts(out, user ? "" : tokens->eos);
    }
    buf_done(&first);
    return out->status;
}

/* --- llama3 ------------------------------------------------------------------------------------
 */

static int write_llama3(const struct chat_known *k, const struct chat_tokens *tokens,
                        const struct chat_message *messages, size_t n, bool prompt, struct buf *out,
                        struct mt_err *reterr)
{
    size_t i;

    (void)reterr;
    buf_puts(out, tokens->bos);
    for (i = 0; i < n; i++) {
        buf_puts(out, "<|start_header_id|>");
        buf_puts(out, messages[i].role);
        buf_puts(out, "<|end_header_id|>\n\n");
        put_stripped(out, messages[i].content);
        buf_puts(out, "<|eot_id|>");
    }
    if (prompt || k->always_prompt)
        buf_puts(out, "<|start_header_id|>assistant<|end_header_id|>\n\n");
    return out->status;
}

/* --- the table ---------------------------------------------------------------------------------
 */

#define ALTERNATE \
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}" \
    "{{ raise_exception('Conversation roles must alternate " \
    "user/assistant/user/assistant/...') }}{% endif %}"

#define MISTRAL(AFTER) \
    "{{ bos_token }}{% for message in messages %}" ALTERNATE \
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}" \
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token" AFTER "}}" \
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}" \
    "{% endfor %}"

#define CHATML_PROMPT "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
#define CHATML_TURN \
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"

#define LLAMA3 \
    "{% set loop_messages = messages %}{% for message in loop_messages %}" \
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'" \
    "+ message['content'] | trim + '<|eot_id|>' %}" \
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}" \
    "{{ content }}{% endfor %}"
#define LLAMA3_PROMPT "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"

static const char *const no_stops[] = {NULL};
static const char *const chatml_stops[] = {"<|im_end|>", NULL};
static const char *const llama3_stops[] = {"<|eot_id|>", NULL};

static const struct chat_known table[] = {
    {.name = "chatml",
     .text = "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
             "{{ message['content'] }}<|im_end|>\n"
             "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
     .write = write_chatml,
     .stops = chatml_stops},
    {.name = "chatml",
     .text = "{% for message in messages %}" CHATML_TURN "{% endfor %}" CHATML_PROMPT,
     .write = write_chatml,
     .stops = chatml_stops},
    {.name = "chatml",
     .text = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
             "message['content'] + '<|im_end|>\\n' }}{% endfor %}" CHATML_PROMPT,
     .write = write_chatml,
     .stops = chatml_stops},
    {.name = "chatml", /* Qwen1.5 */
     .text = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
             "{{ '<|im_start|>system\\nYou are a helpful assistant<|im_end|>\\n' }}{% endif "
             "%}" CHATML_TURN "{% endfor %}" CHATML_PROMPT,
     .write = write_chatml,
     .system = "You are a helpful assistant",
     .stops = chatml_stops},
    {.name = "chatml", /* Qwen2 */
     .text = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
             "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif "
             "%}" CHATML_TURN "{% endfor %}" CHATML_PROMPT,
     .write = write_chatml,
     .system = "You are a helpful assistant.",
     .stops = chatml_stops},
    {.name = "mistral",
     .text = MISTRAL(""),
     .write = write_mistral,
     .after = "",
     .stops = no_stops,
     .needs_bos = true,
     .needs_eos = true},
    {.name = "mistral",
     .text = MISTRAL(" + ' ' "),
     .write = write_mistral,
     .after = " ",
     .stops = no_stops,
     .needs_bos = true,
     .needs_eos = true},
    {.name = "llama2",
     .text = "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
             "{% set system_message = messages[0]['content'] %}{% else %}"
             "{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
             "{% for message in loop_messages %}" ALTERNATE
             "{% if loop.index0 == 0 and system_message != false %}"
             "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + "
             "message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}"
             "{% if message['role'] == 'user' %}"
             "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
             "{% elif message['role'] == 'assistant' %}"
             "{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
     .write = write_llama2,
     .stops = no_stops,
     .needs_bos = true,
     .needs_eos = true},
    {.name = "llama3", /* as first published */
     .text = LLAMA3 LLAMA3_PROMPT,
     .write = write_llama3,
     .stops = llama3_stops,
     .always_prompt = true,
     .needs_bos = true},
    {.name = "llama3",
     .text = LLAMA3 "{% if add_generation_prompt %}" LLAMA3_PROMPT "{% endif %}",
     .write = write_llama3,
     .stops = llama3_stops,
     .needs_bos = true},
};

/* --- finding ---------------------------------------------------------------------------------- */

/* Sets *ret to whether the text is that of `known`. */
static int same_template(const struct buf *normal, const char *known, bool *ret)
{
    struct buf other;
    int status;

    buf_init(&other, CHAT_MAX_TEMPLATE);
    status = chat_normalise(known, &other);
    *ret = !status && other.len == normal->len && !memcmp(other.data, normal->data, other.len);
    buf_done(&other);
    return status;
}

static int find_normal(const struct buf *normal, const struct chat_known **ret)
{
    bool same = false;
    int status = 0;
    size_t i;

    for (i = 0; i < sizeof(table) / sizeof(table[0]) && !status && !same; i++) {
        status = same_template(normal, table[i].text, &same);
        if (same)
            *ret = &table[i];
    }
    return status;
}

int chat_known_find(const char *text, const struct chat_known **ret)
{
    struct buf normal;
    int status;

    *ret = NULL;
    buf_init(&normal, CHAT_MAX_TEMPLATE);
    status = chat_normalise(text, &normal);
    if (!status && normal.len) {
        normal.len -= normal.data[normal.len - 1] == '\n'; /* as Jinja drops it */
        status = find_normal(&normal, ret);
    }
    buf_done(&normal);
    return status == MT_ELIMIT ? 0 : status; /* longer than any that we know */
}
